"""Which clock the stills of a window go by: the camera's own where it can be believed."""

from collections.abc import Sequence
from statistics import median

from ingest.frames import Frame
from ingest.stream_time import Seen
from storage.records import Clock, ClockSource

JUMP = 2.0
"""Seconds by which a clock that is steady does not step."""

_SAME = 0.01

TRUSTED = 60.0
"""A camera whose clock differs from ours by more is not believed."""


def choose_clock(offsets: Sequence[float]) -> Clock:
    """Choose the clock of a window from what the camera's clock said, minus ours, in seconds.

    The camera is believed when it is steady within JUMP and differs by at most TRUSTED; what
    it says is told in either case.
    """
    if not offsets:
        return Clock(source=ClockSource.RECEIVED, offset=0.0)
    offset = median(offsets)
    steady = max(offsets) - min(offsets) <= JUMP
    believed = steady and abs(offset) <= TRUSTED
    source = ClockSource.CAMERA_NTP if believed else ClockSource.RECEIVED
    return Clock(source=source, offset=offset)


class Reports:
    """Read the camera's clock from the frames of one connection.

    A sender report says it at one timestamp. Where the timestamps count anew, the last report
    says nothing until the next one.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._outdated: float | None = None

    def camera_time(self, frame: Frame, seen: Seen) -> float | None:
        """Return what the camera's clock said, where that can be known."""
        if frame.camera_time is None or frame.pts is None:
            return None
        zero = frame.camera_time - frame.pts
        if seen.counts_anew:
            self._outdated = self._last
        if not seen.is_timed:
            return None
        self._last = zero
        if self._outdated is not None and abs(zero - self._outdated) < _SAME:
            return None
        self._outdated = None
        return frame.camera_time
