"""Frames of a video stream, and the reasons for missing ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

from av.video.frame import VideoFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedFrame:
    """A frame that arrived and may be shown.

    `pts` is its timestamp, in seconds of stream time. `arrived` is when it was read, in seconds of
    the steady clock (`host_clock.steady_time`). `waited` says that the reader had to wait for it;
    data that was already there may be old. `camera_time` is the camera's wall clock, in seconds
    since the epoch, known once the camera has sent an RTCP sender report (RFC 3550, 6.4.1).
    """

    pts: float | None
    arrived: float
    waited: bool
    camera_time: float | None = None
    is_keyframe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame(ReceivedFrame):
    """A decoded frame; `pixel_aspect` is the width of a pixel divided by its height."""

    picture: VideoFrame
    pixel_aspect: float = 1.0

    def decode(self) -> "Frame":
        """Return this frame."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedFrame(ReceivedFrame):
    """A frame that is decoded on demand (`ingest.decoding.lazy`).

    Call `decode` once at most, before the next item is taken. A keyframe needs no other frame.
    """

    decode: Callable[[], "Frame | NoPicture"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPicture:
    """Data arrived but gave no picture to show; `reason` is for a person."""

    arrived: float
    reason: str


AnyFrame: TypeAlias = Frame | CodedFrame
StreamItem: TypeAlias = AnyFrame | NoPicture


class CameraStream(Protocol):
    """An open video stream, used in a `with` block (`ingest.live.source.CameraSource`)."""

    codec: str
    width: int
    height: int

    @property
    def rotation(self) -> int:
        """Return the clockwise turn that makes pictures upright, in degrees."""

    @property
    def pixel_aspect(self) -> float:
        """Return the width of a pixel divided by its height."""

    def frames(self) -> Iterator[StreamItem]:
        """Yield the items in display order; raises CameraLost at the end."""

    def skip(self) -> None:
        """Skip what has arrived already, up to its newest keyframe."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
