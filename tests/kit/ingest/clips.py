"""Small clips in the three codecs of cameras, for servers that nobody here wrote."""

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

FPS = 10
SECONDS = 6
SIZE = (160, 120)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCodec:
    """An encoder, and its elementary stream's format as FFmpeg names it."""

    encoder: str
    container_format: str
    pixels: str = "yuv420p"

    @property
    def options(self) -> dict[str, object]:
        """Return the encoder's options: a keyframe each second, no B-frames."""
        if self.encoder == "mjpeg":
            return {"huffman": "default"}  # what RTP knows of JPEG (RFC 2435)
        quiet = {"x265-params": "log-level=none"} if self.encoder == "libx265" else {}
        return {"preset": "ultrafast", "tune": "zerolatency", "g": str(FPS), **quiet}


CODECS = {
    "h264": ClipCodec(encoder="libx264", container_format="h264"),
    "h265": ClipCodec(encoder="libx265", container_format="hevc"),
    "mjpeg": ClipCodec(encoder="mjpeg", container_format="mjpeg", pixels="yuvj420p"),
}


def write_elementary(path: Path, codec: ClipCodec, size: tuple[int, int] = SIZE) -> Path:
    """Write SECONDS of a square that walks over a grey field."""
    return _write(path, codec, codec.container_format, times=1, size=size)


def write_long(path: Path, codec: ClipCodec, times: int = 20) -> Path:
    """Write the same, `times` over, as Matroska."""
    return _write(path, codec, "matroska", times=times, size=SIZE)


def _write(path: Path, codec: ClipCodec, form: str, *, times: int, size: tuple[int, int]) -> Path:
    with av.open(path, "w", format=form) as container:
        stream = container.add_stream(codec.encoder, rate=FPS)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt, stream.options = codec.pixels, dict(codec.options)
        packets = _encode(stream, size)
        kept = [(bytes(each), each.pts, each.is_keyframe, each.time_base) for each in packets]
        for number in range(times):
            for data, pts, is_keyframe, base in kept:
                packet = Packet(data)
                packet.pts = packet.dts = (pts or 0) + round(number * SECONDS / base)
                packet.time_base, packet.stream = base, stream
                packet.is_keyframe = is_keyframe
                container.mux(packet)
    return path


def _encode(stream: VideoStream, size: tuple[int, int]) -> "list[Packet[VideoStream]]":
    packets = []
    for number in range(SECONDS * FPS):
        picture = np.full((size[1], size[0], 3), 60, np.uint8)
        left = number * 7 % (size[0] - 20)
        picture[size[1] // 3 : size[1] // 2, left : left + 20] = 220
        packets += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
    return packets + stream.encode()
