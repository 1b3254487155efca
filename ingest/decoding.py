"""Decode the packets of a video stream, live or from a file."""

from dataclasses import dataclass

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

_MAX_PIXELS = 4096 * 4096
_UNTIMED_FORMATS = ("mjpeg", "mpjpeg")  # FFmpeg counts their frames at 25 a second


class Unsuitable(Exception):
    """Say why a container has no video that can be watched, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A picture and its own timestamp, in seconds on the time of the stream."""

    picture: VideoFrame
    pts: float | None


class Decoder:
    """Decode the video of a container; damaged pictures are left out.

    Raises Unsuitable where there is none, or a too large one; `decode` raises av.FFmpegError.
    """

    def __init__(self, container: InputContainer) -> None:
        self.stream = _video_stream(container)
        self._is_timed = container.format.name not in _UNTIMED_FORMATS
        self.codec = self.stream.codec_context.name
        self.width, self.height = self.stream.width, self.stream.height
        self.period = float(1 / (self.stream.guessed_rate or 25))
        self.damaged = 0

    def decode(self, packet: "Packet[VideoStream]") -> list[Decoded]:
        """Return the pictures that a packet completes, in the order in which they are shown."""
        try:
            pictures = [picture for picture in packet.decode() if not picture.is_corrupt]
        except av.error.InvalidDataError:
            self.damaged += 1
            return []
        return [Decoded(picture=picture, pts=self._pts(picture)) for picture in pictures]

    def _pts(self, picture: VideoFrame) -> float | None:
        if picture.pts is None or picture.time_base is None or not self._is_timed:
            return None
        return float(picture.pts * picture.time_base)


def video_tracks(container: InputContainer) -> list[VideoStream]:
    """Return the tracks that are videos: the cover of a recording is none."""
    cover = Disposition.attached_pic
    return [each for each in container.streams.video if not each.disposition & cover]


def _video_stream(container: InputContainer) -> VideoStream:
    tracks = video_tracks(container)
    if not tracks:
        raise Unsuitable("there is no video track, only sound or data: choose another stream")
    stream = tracks[0]
    if getattr(stream, "codec_context", None) is None:  # PyAV has none where FFmpeg has no decoder
        raise Unsuitable("its video is of a kind that cannot be decoded: choose H.264 or H.265")
    if stream.width * stream.height > _MAX_PIXELS:
        raise Unsuitable("its pictures have more pixels than can be taken: choose another stream")
    stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
    stream.codec_context.thread_count = 1
    return stream
