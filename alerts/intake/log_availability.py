"""Whether the log answers who reads it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from storage.clock import ClockReading, read_clock
from storage.errors import StorageBlocked


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Since when a log does not answer, and why, where that is known.

    Its times count from the wall clock at its beginning by the monotonic clock: one that steps
    meanwhile makes nothing long or short.
    """

    since: ClockReading
    reason: str = ""

    def duration(self, reading: ClockReading) -> timedelta:
        """Return how long it has lasted."""
        return timedelta(seconds=reading.monotonic - self.since.monotonic)

    def now(self, reading: ClockReading) -> datetime:
        """Return the time as it counts within it."""
        return self.since.wall + self.duration(reading)


class LogAvailability:
    """What the reader of a log knows of its answers; it writes this, and any thread may read it.

    `outage` begins with the first question that is not answered, also while that waits. It ends
    when entries are read: a cached answer to something else does not count.
    """

    def __init__(self, clock: Callable[[], ClockReading] = read_clock) -> None:
        self.clock = clock
        self.outage: Outage | None = None
        self.has_answered = False
        """Whether entries, or none, were ever read."""

    def is_down_for(self, at_least: timedelta) -> bool:
        """Return whether an outage has lasted for so long at least."""
        outage = self.outage
        return outage is not None and outage.duration(self.clock()) >= at_least

    @contextmanager
    def track(self, *, is_reading: bool = False) -> Iterator[None]:
        """Note whether the log answers the block, which asks nobody else."""
        before = self.outage
        outage = before or Outage(since=self.clock())
        self.outage = outage
        try:
            yield
        except StorageBlocked as error:
            self.outage = Outage(since=outage.since, reason=str(error))
            raise
        except BaseException:
            self.outage = None  # it did answer
            raise
        self.outage = None if is_reading else before
        self.has_answered |= is_reading
