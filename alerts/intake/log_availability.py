"""Whether the log answers its reader."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from storage.clock import ClockReading, read_clock
from storage.errors import StorageBlocked


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Since when a log does not answer, and why, if that is known.

    Times are the wall clock at its start plus monotonic time, so a clock step changes nothing.
    """

    since: ClockReading
    reason: str = ""

    def duration(self, reading: ClockReading) -> timedelta:
        """Return how long it has lasted."""
        return timedelta(seconds=reading.monotonic - self.since.monotonic)

    def now(self, reading: ClockReading) -> datetime:
        """Return the time, by the clock of the outage."""
        return self.since.wall + self.duration(reading)


class LogAvailability:
    """Whether the log answers: the reader of the log writes it, any thread may read it.

    An outage begins with the first request without an answer, while that still waits. It ends
    when entries are read; the answer to any other request may be cached.
    """

    def __init__(self, clock: Callable[[], ClockReading] = read_clock) -> None:
        self.clock = clock
        self.outage: Outage | None = None
        self.has_answered = False
        """Whether a read has ever succeeded."""

    def is_down_for(self, at_least: timedelta) -> bool:
        """Return whether an outage has lasted at least this long."""
        outage = self.outage
        return outage is not None and outage.duration(self.clock()) >= at_least

    @contextmanager
    def track(self, *, is_reading: bool = False) -> Iterator[None]:
        """Record whether the log answers the block, which calls nothing but the log."""
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
