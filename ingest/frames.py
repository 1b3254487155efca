"""What a video stream gives: pictures, and why there is none. No module of FFmpeg's shows here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

from av.video.frame import VideoFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedFrame:
    """A picture that came, and may be shown.

    `pts` is its own timestamp, in seconds on the time of the stream. `arrived` is when it was read,
    in seconds of the steady clock (`host_clock.steady_time`), and `waited` whether the reader had
    to wait for it: what was there already may be old. `camera_time` is what the camera's wall clock
    said, in seconds since the epoch, known once the camera has sent an RTCP sender report (RFC
    3550, 6.4.1).
    """

    pts: float | None
    arrived: float
    waited: bool
    camera_time: float | None = None
    is_keyframe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame(ReceivedFrame):
    """A decoded picture. `pixel_aspect` is how many times as wide as high its pixels are."""

    picture: VideoFrame
    pixel_aspect: float = 1.0

    def decode(self) -> "Frame":
        """Return itself: it is decoded."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedFrame(ReceivedFrame):
    """A picture that is decoded only if it is asked for (`ingest.decoding.lazy`).

    `decode` may be called once, before the next sight is taken. Nothing else must be decoded for a
    keyframe.
    """

    decode: Callable[[], "Frame | NoPicture"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPicture:
    """Data came, at `arrived`, that makes no picture which may be shown, and why, in words."""

    arrived: float
    reason: str


AnyFrame: TypeAlias = Frame | CodedFrame
StreamItem: TypeAlias = AnyFrame | NoPicture


class CameraStream(Protocol):
    """An open video stream, used in a `with` block; `ingest.live.source.Source` is the real one."""

    codec: str
    width: int
    height: int

    @property
    def rotation(self) -> int:
        """Return by how many degrees clockwise pictures are turned to be upright."""

    @property
    def pixel_aspect(self) -> float:
        """Return how many times as wide as high the pixels are."""

    def frames(self) -> Iterator[StreamItem]:
        """Yield what comes, in the order in which it is shown; raises CameraLost at its end."""

    def skip(self) -> None:
        """Skip what has come already: decode on from the newest keyframe of it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
