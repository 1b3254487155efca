"""Choose the clock of a window's stills: the camera's own if it can be trusted."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from statistics import median

import structlog

from ingest.frames import ReceivedFrame
from ingest.timing.stream_time import FrameTime
from storage.records.records import ClockSource, Window, WindowClock

MAX_CLOCK_STEP = 2.0
"""Seconds; a steady clock steps by no more."""

MAX_CLOCK_OFFSET = 60.0
"""Seconds; a camera whose clock differs from ours by more is not trusted."""

_SAME_OFFSET = 0.25
"""Seconds by which two measurements of the same offset differ."""
_REPORT_ROUNDING = 0.01
"""Seconds by which two readings of one report differ."""
_MIN_STEP = timedelta(milliseconds=1)


def choose_clock(offsets: Sequence[float]) -> WindowClock:
    """Choose the clock of a window from the offsets of the camera's clock to ours, in seconds.

    The camera is trusted if its offset is steady within MAX_CLOCK_STEP and at most
    MAX_CLOCK_OFFSET; the offset is returned in either case.
    """
    if not offsets:
        return WindowClock(source=ClockSource.RECEIVED, offset=0.0)
    offset = median(offsets)
    is_steady = max(offsets) - min(offsets) <= MAX_CLOCK_STEP
    is_trusted = is_steady and abs(offset) <= MAX_CLOCK_OFFSET
    source = ClockSource.CAMERA_NTP if is_trusted else ClockSource.RECEIVED
    return WindowClock(source=source, offset=offset)


class CameraClock:
    """Move the stills of one camera's windows to its clock, and mark steps back."""

    def __init__(self, camera: str) -> None:
        self._last_still_at: datetime | None = None
        self._offset, self._is_believed = 0.0, False
        self._logged_event, self._logged_offset = "", 0.0
        self._logger = structlog.get_logger().bind(camera=camera)

    def convert(self, window: Window) -> Window:
        """Return a window on the camera's clock; its stills are on the host's.

        After a step back of either clock, by up to MAX_CLOCK_STEP, the stills follow directly on
        those already written.
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
        """Record that a window is in the log: the next one follows it."""
        self._last_still_at = window.end

    def _log_change(self, clock: WindowClock) -> None:
        """Log when the camera's clock is used, refused, missing, or steps."""
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

    A sender report gives it at one timestamp. After the timestamps restart, the clock is unknown
    until the next report.
    """

    def __init__(self) -> None:
        self._last_zero: float | None = None
        self._outdated_zero: float | None = None

    def observe(self, frame: ReceivedFrame, time: FrameTime) -> float | None:
        """Return the camera's clock at a frame, None if unknown."""
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
