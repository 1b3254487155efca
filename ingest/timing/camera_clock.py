"""Which clock the stills of a window go by: the camera's own where it can be believed."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from statistics import median

import structlog

from ingest.frames import ReceivedFrame
from ingest.timing.stream_time import FrameTime
from storage.records.records import ClockSource, Window, WindowClock

MAX_CLOCK_STEP = 2.0
"""Seconds by which a clock that is steady does not step."""

MAX_CLOCK_OFFSET = 60.0
"""A camera whose clock differs from ours by more is not believed."""

_SAME_OFFSET = 0.25
"""Seconds by which an offset is measured anew and is the same."""
_REPORT_ROUNDING = 0.01
"""Seconds by which one report, read twice, differs from itself."""
_MIN_STEP = timedelta(milliseconds=1)


def choose_clock(offsets: Sequence[float]) -> WindowClock:
    """Choose the clock of a window from what the camera's clock said, minus ours, in seconds.

    The camera is believed when it is steady within JUMP and differs by at most TRUSTED; what
    it says is told in either case.
    """
    if not offsets:
        return WindowClock(source=ClockSource.RECEIVED, offset=0.0)
    offset = median(offsets)
    is_steady = max(offsets) - min(offsets) <= MAX_CLOCK_STEP
    is_trusted = is_steady and abs(offset) <= MAX_CLOCK_OFFSET
    source = ClockSource.CAMERA_NTP if is_trusted else ClockSource.RECEIVED
    return WindowClock(source=source, offset=offset)


class CameraClock:
    """Move the stills of one camera's windows to its clock, and say where that went back."""

    def __init__(self, camera: str) -> None:
        self._last_still_at: datetime | None = None
        self._offset, self._is_believed = 0.0, False
        self._logged_event, self._logged_offset = "", 0.0
        self._logger = structlog.get_logger().bind(camera=camera)

    def convert(self, window: Window) -> Window:
        """Return a window, whose stills are on the host's clock, on the camera's.

        Of a step back, of either clock, up to JUMP is taken in little by little: the stills go on
        right behind those that were kept.
        """
        self._log_change(window.clock)
        is_trusted = window.clock.source is ClockSource.CAMERA_NTP
        offset = window.clock.offset if is_trusted else 0.0
        step = abs(offset - self._offset)
        if is_trusted and self._is_believed and step <= _SAME_OFFSET:
            offset = self._offset
            window = replace(window, clock=replace(window.clock, offset=offset))
        self._offset, self._is_believed = offset, is_trusted
        shift = timedelta(seconds=round(offset, 3))
        back = timedelta(0)
        if self._last_still_at is not None:
            back = self._last_still_at + _MIN_STEP - (window.start + shift)
        is_set_back = back > timedelta(seconds=MAX_CLOCK_STEP)
        if not is_set_back:
            shift += max(back, timedelta(0))
        return replace(
            window,
            stills=tuple(replace(still, at=still.at + shift) for still in window.stills),
            after_gap=window.after_gap or is_set_back or step > MAX_CLOCK_STEP,
            is_set_back=is_set_back,
        )

    def record_appended(self, window: Window) -> None:
        """Take that a window is in the log: the next one follows it."""
        self._last_still_at = window.end

    def _log_change(self, clock: WindowClock) -> None:
        """Log when the camera's clock comes into use or falls out of it, or steps."""
        event = "camera tells no time"
        if clock.source is ClockSource.CAMERA_NTP:
            event = "camera clock used"
        elif clock.offset:
            event = "camera clock refused: it is too far from ours or jumps, set it by NTP"
        if event != self._logged_event or abs(clock.offset - self._logged_offset) > 1:
            self._logged_event, self._logged_offset = event, clock.offset
            self._logger.info(event, camera_minus_ours=round(clock.offset, 3))


class SenderReports:
    """Read the camera's clock from the frames of one connection.

    A sender report says it at one timestamp. Where the timestamps count anew, the last report
    says nothing until the next one.
    """

    def __init__(self) -> None:
        self._last_zero: float | None = None
        self._outdated_zero: float | None = None

    def observe(self, frame: ReceivedFrame, time: FrameTime) -> float | None:
        """Return what the camera's clock said, where that can be known."""
        if frame.camera_time is None or frame.pts is None:
            return None
        zero = frame.camera_time - frame.pts
        if time.has_new_zero:
            self._outdated_zero = self._last_zero
        if not time.is_timestamp_used:
            return None
        self._last_zero = zero
        if self._outdated_zero is not None and abs(zero - self._outdated_zero) < _REPORT_ROUNDING:
            return None
        self._outdated_zero = None
        return frame.camera_time
