"""When a frame was seen. All instants are seconds since the epoch, all steps seconds.

Live frames are placed on the time they were received, steadied by their own timestamps, so
that a hiccup of the network does not bend time. Only a whole window is moved to the camera's
own clock (`choose_clock`), because the first sender report may come seconds after the first
frame, and because a window has one clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from storage.records import Clock, ClockSource

JUMP = 2.0
"""A step of the timestamps or of a clock beyond this is a break."""

TRUSTED = 60.0
"""A camera whose clock differs from ours by more is not believed."""

_LATE = 10.0
_RELAXATION = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """Where a frame lies in time, and whether time broke right before it."""

    at: float
    broke: bool


class Timeline(Protocol):
    """Place the frames of one stream, in the order in which they are shown."""

    def place(self, pts: float | None, received: float) -> Instant:
        """Return when the frame was seen; `pts` is its own timestamp, if it has one."""


class _Steps:
    """Notice when the timestamps jump; a slow camera's long steps are no jumps."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._usual = 0.0

    def jumped(self, pts: float) -> bool:
        if self._last is None:
            self._last = pts
            return False
        step = pts - self._last
        broke = not -JUMP <= step <= max(JUMP, 3 * self._usual)
        self._usual = max(0.0, step)
        self._last = pts
        return broke


class ReceivedTime:
    """The timeline of a live camera: when each frame would come over a steady network.

    The frame with the shortest way so far sets the pace of all: none comes before it is
    seen. That bound is relaxed a little with each frame, to follow a camera that runs slow.
    """

    def __init__(self) -> None:
        self._steps = _Steps()
        self._zero: float | None = None

    def place(self, pts: float | None, received: float) -> Instant:
        """Return when the frame was seen, by our clock; `broke` after a jump of the timestamps."""
        if pts is None:
            return Instant(at=received, broke=False)
        broke = self._steps.jumped(pts)
        if self._zero is None:
            self._zero = received - pts
        late = received - (self._zero + pts)
        if broke or late > _LATE:
            self._zero = received - pts
            return Instant(at=received, broke=True)
        self._zero += late * _RELAXATION if late > 0 else late
        return Instant(at=self._zero + pts, broke=False)


class FileTime:
    """The timeline of a recorded video: its start plus the timestamps.

    A jump ahead is what the file says and is kept; after a jump back, or without
    timestamps, the next frame follows the last one by one `period`.
    """

    def __init__(self, start: float, period: float) -> None:
        self._steps = _Steps()
        self._period = period
        self._next = start
        self._zero: float | None = None

    def place(self, pts: float | None, received: float) -> Instant:
        """Return when the frame was recorded; `received` plays no part."""
        if pts is None:
            return self._follow(self._next, broke=False)
        broke = self._steps.jumped(pts)
        if self._zero is None or (broke and self._zero + pts < self._next):
            self._zero = self._next - pts
        return self._follow(self._zero + pts, broke=broke)

    def _follow(self, at: float, *, broke: bool) -> Instant:
        self._next = max(self._next, at + self._period)
        return Instant(at=at, broke=broke)


def choose_clock(claims: Sequence[float], fallback: ClockSource) -> Clock:
    """Choose the clock of a window from the camera's claims (its time minus ours).

    The camera is believed when it is steady within JUMP and differs by at most TRUSTED; what
    it claims is told in either case.
    """
    if not claims:
        return Clock(source=fallback, offset=0.0)
    offset = median(claims)
    steady = max(claims) - min(claims) <= JUMP
    believed = steady and abs(offset) <= TRUSTED
    return Clock(source=ClockSource.CAMERA_NTP if believed else fallback, offset=offset)
