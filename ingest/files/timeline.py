"""Stamp the frames of a recorded video: the start of the file plus the timestamp.

- A pause is a long step of the timestamps that the next step does not repeat; a slow camera's steps
  are all long.
- If timestamps jump back, or ahead by more than MAX_PAUSE, two recordings were joined or a counter
  wrapped. The time between is unknown; the next frame follows the last.
- A single timestamp that the next one does not continue is odd, and is ignored.
- While timestamps do not advance, the frame rate decides.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from ingest.timing.stream_time import GAP, GAP_STEPS

MAX_BACK_STEP = 2.0
"""Seconds: a longer step back is not jitter."""
MAX_PAUSE = 12 * 3600.0
"""Seconds: a night without motion, and less than the 13.3 h after which 32 bits wrap at 90 kHz."""
_MIN_STEP = 1e-3
_STEP_COUNT = 5


class TimeBreak(StrEnum):
    """A break of time before a picture: a pause has a length, a join has an unknown one."""

    PAUSE = "pause"
    JOIN = "join"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTime:
    """When a picture was recorded, in seconds since the epoch, and the break before it."""

    at: float
    time_break: TimeBreak | None = None


class FileTime:
    """Stamp the pictures of a file, in display order.

    `start` is the instant at which the file starts, `start_pts` its timestamp there, if any.
    """

    def __init__(self, start: float, period: float, start_pts: float | None = None) -> None:
        self._period = period
        self._start = start
        self._start_pts = start_pts
        self._last_at: float | None = None
        self._zero = 0.0
        self._last_pts: float | None = None
        self._steps = deque[float](maxlen=_STEP_COUNT)

    @property
    def step(self) -> float:
        """Return for how many seconds a picture is shown."""
        return median(self._steps) if self._steps else self._period

    def stamp(
        self, pts: float | None, *, next_pts: float | None = None, missed: int = 0
    ) -> RecordedTime:
        """Return when the picture was recorded; `pts` is its timestamp, if it has one.

        `next_pts` is the timestamp of the next one; `missed` pictures before this one are lost.
        """
        if pts is None:
            return self._advance_to(self._next_time(missed))
        if self._last_pts is None:
            self._set_zero(pts)
            return self._advance_to(self._zero + pts, pts)
        if self._is_odd(pts, next_pts, self._last_pts):
            return self._advance_to(self._next_time())
        step, time_break = pts - self._last_pts, self._time_break(pts, next_pts, self._last_pts)
        if time_break is TimeBreak.JOIN or self._zero + pts < self._next_time() - MAX_BACK_STEP:
            self._zero = self._next_time() - pts
        if time_break is None and step > 0 and not missed:
            self._steps.append(step)
        at = self._next_time() if step == 0 else self._zero + pts
        return self._advance_to(at, pts, time_break)

    def _set_zero(self, pts: float) -> None:
        """Set the time of timestamp 0 by the first picture that has a timestamp."""
        is_first = self._start_pts is not None and self._last_at is None
        lead = pts - (self._start_pts or 0.0) if is_first else 0.0
        self._zero = self._next_time() + (lead if 0 <= lead <= MAX_PAUSE else 0.0) - pts

    def _next_time(self, missed: int = 0) -> float:
        """Return when the next picture is due, after those that are lost."""
        if self._last_at is None:
            return self._start + missed * self._period
        return self._last_at + (1 + missed) * self.step

    def _advance_to(
        self, at: float, pts: float | None = None, time_break: TimeBreak | None = None
    ) -> RecordedTime:
        self._last_at = at if self._last_at is None else max(at, self._last_at + _MIN_STEP)
        self._last_pts = self._last_pts if pts is None else pts
        return RecordedTime(at=self._last_at, time_break=time_break)

    def _is_jump(self, step: float) -> bool:
        usual = median(self._steps) if self._steps else 0.0
        return not -MAX_BACK_STEP <= step <= max(GAP, GAP_STEPS * usual)

    def _is_odd(self, pts: float, next_pts: float | None, last_pts: float) -> bool:
        """Return whether the next timestamp continues the last one, but not this one."""
        if next_pts is None or next_pts <= last_pts:
            return False
        is_jump_and_back = self._is_jump(pts - last_pts) and not self._is_jump(next_pts - last_pts)
        return next_pts < pts or is_jump_and_back

    def _time_break(self, pts: float, next_pts: float | None, last_pts: float) -> TimeBreak | None:
        step = pts - last_pts
        if not self._is_jump(step):
            return None
        if not 0 < step <= MAX_PAUSE:
            return TimeBreak.JOIN
        is_slow = next_pts is not None and step / GAP_STEPS <= next_pts - pts <= MAX_PAUSE
        return None if is_slow else TimeBreak.PAUSE
