"""The time of a recorded video: where the file begins, plus its timestamps.

- A pause is a step of the timestamps that its neighbours do not share: a slow camera's are alike.
- Nobody knows how long it was between two pictures whose timestamps jump back, or ahead by more
  than LONGEST_PAUSE: two recordings were joined, or a counter wrapped. The next follows the last.
- A single timestamp that the next one does not go on from is odd, and is passed over.
- Timestamps that do not advance say nothing: the pictures go by the frame rate meanwhile.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from ingest.stream_time import GAP

JUMP = 2.0
"""Seconds: a longer step back is no jitter."""
LONGEST_PAUSE = 12 * 3600.0
"""Seconds: a night without motion, and less than the 13.3 h after which 32 bits wrap at 90 kHz."""
_ALIKE = 3
_LEAST = 1e-3
_STEPS = 5


class Break(StrEnum):
    """How time broke before a picture: a pause has a length, that of a join is not known."""

    PAUSE = "pause"
    JOIN = "join"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """When a picture was recorded, in seconds since the epoch, and how time broke before it."""

    at: float
    broke: Break | None = None


class FileTime:
    """Place the pictures of a file, in the order in which they are shown.

    `start` is the instant at which the file begins, at its timestamp `begins` where there is one.
    """

    def __init__(self, start: float, period: float, begins: float | None = None) -> None:
        self._period = period
        self._start = start
        self._begins = begins
        self._at: float | None = None
        self._zero = 0.0
        self._last: float | None = None
        self._steps = deque[float](maxlen=_STEPS)

    @property
    def step(self) -> float:
        """Return how many seconds a picture is shown."""
        return median(self._steps) if self._steps else self._period

    def place(
        self, pts: float | None, *, following: float | None = None, missed: int = 0
    ) -> Placed:
        """Return when the picture was recorded; `pts` is its own timestamp, if it has one.

        `following` is the timestamp of the next one; `missed` pictures before this one are lost.
        """
        if pts is None:
            return self._put(self._next(missed))
        if self._last is None:
            self._seat(pts)
            return self._put(self._zero + pts, pts)
        if self._is_odd(pts, following, self._last):
            return self._put(self._next())
        step, broke = pts - self._last, self._break(pts, following, self._last)
        if broke is Break.JOIN or self._zero + pts < self._next() - JUMP:
            self._zero = self._next() - pts
        if broke is None and step > 0 and not missed:
            self._steps.append(step)
        at = self._next() if step == 0 else self._zero + pts
        return self._put(at, pts, broke)

    def _seat(self, pts: float) -> None:
        """Place the first picture that has a timestamp."""
        lead = 0.0 if self._begins is None or self._at is not None else pts - self._begins
        at = self._next() + (lead if 0 <= lead <= LONGEST_PAUSE else 0.0)
        self._zero = at - pts

    def _next(self, missed: int = 0) -> float:
        """Return when a picture is due that follows the last one, behind those that are lost."""
        if self._at is None:
            return self._start + missed * self._period
        return self._at + (1 + missed) * self.step

    def _put(self, at: float, pts: float | None = None, broke: Break | None = None) -> Placed:
        self._at = at if self._at is None else max(at, self._at + _LEAST)
        self._last = self._last if pts is None else pts
        return Placed(at=self._at, broke=broke)

    def _jumped(self, step: float) -> bool:
        usual = median(self._steps) if self._steps else 0.0
        return not -JUMP <= step <= max(GAP, _ALIKE * usual)

    def _is_odd(self, pts: float, following: float | None, last: float) -> bool:
        """Return whether the next timestamp goes on from the last one, and not from this."""
        if following is None or following <= last:
            return False
        return following < pts or (self._jumped(pts - last) and not self._jumped(following - last))

    def _break(self, pts: float, following: float | None, last: float) -> Break | None:
        step = pts - last
        if not self._jumped(step):
            return None
        if not 0 < step <= LONGEST_PAUSE:
            return Break.JOIN
        is_slow = following is not None and step / _ALIKE <= following - pts <= LONGEST_PAUSE
        return None if is_slow else Break.PAUSE
