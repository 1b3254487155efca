"""Videos of every kind, encoded on the spot, and the stills that come of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from io import BytesIO

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ingest.decoding.decoder import DecodedPicture, VideoDecoder
from ingest.decoding.lazy import LazyDecoder
from ingest.timing.keyframe_intervals import KeyframeIntervals
from ingest.timing.sampler import FrameSampler

RATE = 25
SIZE = 160, 96
LONG_FRAMES = 20 * RATE
X265_OPTIONS = "log-level=0:pools=1:frame-threads=1"


def open_video(file: BytesIO | str, format: str | None = None) -> InputContainer:
    container = av.open(file, format=format)
    assert isinstance(container, InputContainer)
    return container


def add_video_stream(
    container: OutputContainer, codec: str, rate: Fraction | int, options: dict[str, str]
) -> VideoStream:
    stream = container.add_stream(codec, rate=rate, options=options)
    assert isinstance(stream, VideoStream)
    return stream


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoKind:
    """How a video is encoded."""

    codec: str = "libx264"
    gop: int = 25
    b_frames: int = 0
    is_open: bool = False
    refreshes: bool = False
    container_format: str = "mpegts"

    @property
    def options(self) -> dict[str, str]:
        if self.codec == "mjpeg":
            return {"qscale": "3"}
        extra = f"keyint={self.gop}:min-keyint={self.gop}:scenecut=0:bframes={self.b_frames}"
        if self.codec == "libx265":
            params = f"{extra}:open-gop={int(self.is_open)}:repeat-headers=1:{X265_OPTIONS}"
            return {"preset": "ultrafast", "x265-params": params}
        extra += f":open-gop={int(self.is_open)}:intra-refresh={int(self.refreshes)}"
        return {"preset": "ultrafast", "x264-params": extra}


def scene(number: int) -> NDArray[np.uint8]:
    """Return a picture of a ground that moves, with the noise of a sensor."""
    draw = np.random.default_rng(5)
    ground = draw.integers(40, 215, (SIZE[1] // 16, SIZE[0] // 16, 3), dtype=np.uint8)
    moved = np.roll(ground.repeat(16, 0).repeat(16, 1), number * 3 % SIZE[0], 1)
    noise = np.random.default_rng(number).integers(0, 12, moved.shape, dtype=np.uint8)
    return moved + noise


@cache
def encoded(kind: VideoKind, frames: int) -> bytes:
    file = BytesIO()
    with av.open(file, "w", format=kind.container_format) as container:
        stream = add_video_stream(container, kind.codec, RATE, kind.options)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuvj420p" if kind.codec == "mjpeg" else "yuv420p"
        for number in range(frames):
            container.mux(stream.encode(VideoFrame.from_ndarray(scene(number), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


@dataclass(slots=True, kw_only=True)
class WatchResult:
    """The stills that came of a stream by their instant, and how much was decoded for them."""

    stills: dict[float, NDArray[np.uint8]] = field(default_factory=dict)
    decoded: int = 0
    packets: int = 0
    failures: int = 0
    left_out: dict[float, str] = field(default_factory=dict)

    def after(self, second: float) -> dict[float, NDArray[np.uint8]]:
        return {at: still for at, still in self.stills.items() if at >= second}


PacketChange = Callable[[int, bytes], bytes | None]


def watch(
    video: bytes,
    *,
    fps: float = 1.0,
    decodes_all: bool = False,
    change: PacketChange = lambda _, data: data,
) -> WatchResult:
    """Watch a stream, as the recorder does; `change` damages packets, or loses them."""
    result = WatchResult()
    now = 0.0
    with open_video(BytesIO(video)) as container:
        decoder = VideoDecoder(container, lambda: now)
        lazy = LazyDecoder(decoder, decodes_all=decodes_all)
        keyframes = KeyframeIntervals(fps)
        pace = FrameSampler(fps, keyframes)
        for number, packet in enumerate(packets_of(container, decoder.stream, change)):
            now = number / RATE
            result.packets += 1
            pictures = lazy.take(packet)
            if pictures is None:
                at = decoder.pts_seconds(packet) or 0.0
                keyframes.observe(at, is_keyframe=decoder.is_random_access_point)
                if pace.take_coded(at, is_keyframe=decoder.is_random_access_point):
                    picture = lazy.decode()
                    if picture is None:
                        result.failures += 1
                        pace.give_back()
                    else:
                        assert picture.pts == at
                        result.stills[at] = luma(picture)
            else:
                for picture in pictures:
                    assert picture.pts is not None
                    keyframes.observe(picture.pts, is_keyframe=picture.is_keyframe)
                    if pace.take(picture.pts):
                        result.stills[picture.pts] = luma(picture)
                if decoder.omission_reason:
                    result.left_out[now] = decoder.omission_reason
        result.decoded = decoder.picture_count
    return result


def packets_of(
    container: InputContainer, stream: VideoStream, change: PacketChange
) -> Iterator["Packet[VideoStream]"]:
    for number, packet in enumerate(container.demux(stream)):
        data = change(number, bytes(packet))
        if data is None or not packet.size:
            continue
        yield packet if data == bytes(packet) else with_data(packet, data)


def with_data(packet: "Packet[VideoStream]", data: bytes) -> "Packet[VideoStream]":
    other = Packet(data)
    other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
    other.stream, other.is_keyframe = packet.stream, packet.is_keyframe
    return other  # type: ignore[return-value]  # its stream is the one of `packet`


def luma(picture: DecodedPicture) -> NDArray[np.uint8]:
    return picture.picture.to_ndarray(format="gray").astype(np.uint8, copy=False)


@cache
def every_picture(kind: VideoKind, frames: int) -> dict[float, NDArray[np.uint8]]:
    return watch(encoded(kind, frames), fps=1000.0, decodes_all=True).stills


def opened(kind: VideoKind, frames: int) -> InputContainer:
    return open_video(BytesIO(encoded(kind, frames)))


def packets(kind: VideoKind, frames: int) -> list["Packet[VideoStream]"]:
    with opened(kind, frames) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


H264, H265 = VideoKind(), VideoKind(codec="libx265")
