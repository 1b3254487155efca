"""The clock of this machine: how far ahead an instant may be, and whether the clock stepped.

A wall clock that moves otherwise than the monotonic one has stepped. It is in doubt until it steps
back, or has run evenly for a while.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

TOLERANCE = timedelta(minutes=5)
"""How far ahead of our clock an instant may be."""
SETTLE_SECONDS = 120.0
"""Seconds for which a clock has to run evenly after a step to be trusted again."""
RETENTION_SETTLE_SECONDS = 6 * 3600.0
"""The same before records are deleted for their age, which cannot be undone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    """The wall clock, and at the same moment the monotonic one, in seconds."""

    wall: datetime
    monotonic: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentTime:
    """The time of our clock, and how far ahead of it an instant may be."""

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
    """Detects steps of the wall clock, and when to trust it again; for one thread.

    Without `settled` the clock has to run evenly first.
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
        """Record a reading; return the error of the clock if it is in doubt, else None."""
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
    """Checks that the clock has run evenly for long enough to delete records by age."""

    def __init__(
        self,
        clock: Callable[[], ClockReading] = read_clock,
        settle: float = RETENTION_SETTLE_SECONDS,
    ) -> None:
        self._clock = clock
        self._step_detector = StepDetector(settle=settle, settled=False)

    def observe(self) -> bool:
        """Read the clock; return whether it has run evenly for long enough."""
        return self._step_detector.observe(self._clock()) is None


def clock_step(before: ClockReading, after: ClockReading) -> timedelta:
    """Return how far the wall clock moved beyond the time that passed."""
    passed = timedelta(seconds=after.monotonic - before.monotonic)
    return after.wall - before.wall - passed
