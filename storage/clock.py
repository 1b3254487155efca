"""The clock of this machine: how far ahead an instant may be, and whether the clock stepped."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

TOLERANCE = timedelta(minutes=5)
"""How far ahead of our clock an instant may be."""
SETTLE_SECONDS = 120.0
"""Seconds that a clock has to run evenly after a step before it is believed again."""
RETENTION_SETTLE_SECONDS = 6 * 3600.0
"""The same before anything is deleted for its age: what is deleted does not come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    """The wall clock, and at the same moment one that never steps, in seconds."""

    wall: datetime
    monotonic: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentTime:
    """Our clock's time, and how far ahead of it an instant may be."""

    now: datetime
    tolerance: timedelta = TOLERANCE

    def is_plausible(self, at: datetime) -> bool:
        """Return whether an instant is not too far ahead."""
        return at - self.now <= self.tolerance

    def is_near(self, at: datetime) -> bool:
        """Return whether an instant is neither too far ahead nor as far back."""
        return abs(at - self.now) <= self.tolerance


def read_clock() -> ClockReading:
    """Read both clocks of this machine."""
    return ClockReading(wall=datetime.now(UTC), monotonic=time.monotonic())


class StepDetector:
    """Notice that the wall clock stepped, and when it may be believed again.

    With `settled` False it has to run evenly first. Not for use by several threads.
    """

    def __init__(
        self,
        tolerance: timedelta = TOLERANCE,
        settle: float = SETTLE_SECONDS,
        *,
        settled: bool = True,
    ) -> None:
        self._tolerance = tolerance
        self._settle = settle
        self._settled = settled
        self._trusted: ClockReading | None = None
        self._last: ClockReading | None = None
        self._even_since = 0.0

    def observe(self, reading: ClockReading) -> timedelta | None:
        """Take a reading; return how far the clock is from where it should be, if in doubt."""
        if self._last is None or abs(clock_step(self._last, reading)) > self._tolerance:
            self._even_since = reading.monotonic
        self._last = reading
        if self._trusted is None:
            self._trusted = reading
        step = clock_step(self._trusted, reading)
        is_even = reading.monotonic - self._even_since >= self._settle
        if is_even or (self._settled and abs(step) <= self._tolerance):
            self._trusted, self._settled = reading, True
            return None
        return step


class ClockStability:
    """Return whether the clock has run evenly for long enough to delete what is old by it."""

    def __init__(
        self,
        clock: Callable[[], ClockReading] = read_clock,
        settle: float = RETENTION_SETTLE_SECONDS,
    ) -> None:
        self._clock = clock
        self._step_detector = StepDetector(settle=settle, settled=False)

    def observe(self) -> bool:
        """Read the clock; return whether it has been even since long ago."""
        return self._step_detector.observe(self._clock()) is None


def clock_step(before: ClockReading, after: ClockReading) -> timedelta:
    """Return how far the wall clock moved beyond the time that passed."""
    passed = timedelta(seconds=after.monotonic - before.monotonic)
    return after.wall - before.wall - passed
