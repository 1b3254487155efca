"""Which clock the stills of a window go by: the camera's own where it can be believed."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from statistics import median

import structlog

from ingest.frames import Arrival
from ingest.stream_time import Seen
from storage.records import Clock, ClockSource, Window

JUMP = 2.0
"""Seconds by which a clock that is steady does not step."""

TRUSTED = 60.0
"""A camera whose clock differs from ours by more is not believed."""

_SAME = 0.25
"""Seconds by which an offset is measured anew and is the same."""
_ROUNDING = 0.01
"""Seconds by which one report, read twice, differs from itself."""
_MOMENT = timedelta(milliseconds=1)


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


class CameraClock:
    """Move the stills of one camera's windows to its clock, and say where that went back."""

    def __init__(self, camera: str) -> None:
        self._kept: datetime | None = None
        self._offset, self._is_believed = 0.0, False
        self._event, self._said = "", 0.0
        self._logger = structlog.get_logger().bind(camera=camera)

    def moved(self, window: Window) -> Window:
        """Return a window, whose stills are on the host's clock, on the camera's.

        Of a step back, of either clock, up to JUMP is taken in little by little: the stills go on
        right behind those that were kept.
        """
        self._tell(window.clock)
        is_believed = window.clock.source is ClockSource.CAMERA_NTP
        offset = window.clock.offset if is_believed else 0.0
        stepped = abs(offset - self._offset)
        if is_believed and self._is_believed and stepped <= _SAME:
            offset = self._offset
            window = replace(window, clock=replace(window.clock, offset=offset))
        self._offset, self._is_believed = offset, is_believed
        shift = timedelta(seconds=round(offset, 3))
        back = timedelta(0)
        if self._kept is not None:
            back = self._kept + _MOMENT - (window.start + shift)
        is_set_back = back > timedelta(seconds=JUMP)
        if not is_set_back:
            shift += max(back, timedelta(0))
        return replace(
            window,
            stills=tuple(replace(still, at=still.at + shift) for still in window.stills),
            after_gap=window.after_gap or is_set_back or stepped > JUMP,
            is_set_back=is_set_back,
        )

    def keep(self, moved: Window) -> None:
        """Take that a window is in the log: the next one follows it."""
        self._kept = moved.end

    def _tell(self, clock: Clock) -> None:
        """Log when the camera's clock comes into use or falls out of it, or steps."""
        event = "camera tells no time"
        if clock.source is ClockSource.CAMERA_NTP:
            event = "camera clock used"
        elif clock.offset:
            event = "camera clock refused: it is too far from ours or jumps, set it by NTP"
        if event != self._event or abs(clock.offset - self._said) > 1:
            self._event, self._said = event, clock.offset
            self._logger.info(event, camera_minus_ours=round(clock.offset, 3))


class Reports:
    """Read the camera's clock from the frames of one connection.

    A sender report says it at one timestamp. Where the timestamps count anew, the last report
    says nothing until the next one.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._outdated: float | None = None

    def camera_time(self, frame: Arrival, seen: Seen) -> float | None:
        """Return what the camera's clock said, where that can be known."""
        if frame.camera_time is None or frame.pts is None:
            return None
        zero = frame.camera_time - frame.pts
        if seen.counts_anew:
            self._outdated = self._last
        if not seen.is_timed:
            return None
        self._last = zero
        if self._outdated is not None and abs(zero - self._outdated) < _ROUNDING:
            return None
        self._outdated = None
        return frame.camera_time
