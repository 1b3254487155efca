"""A circuit breaker: a receiver that fails again and again is left alone, then probed.

Closed, posts go through; each failure in a row is followed by a pause twice as long, so that
many receivers that go down at once do not keep those that work waiting. After FAILURES it is
open, and nothing is posted, so that no delivery spends a try on a receiver that is known to be
down. When its pause is over it is half open: one post goes, and decides.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from alerts.notify.outcomes import Delivered, DeliveryOutcome, Retry
from storage.backoff import doubling_seconds

FAILURES = 5
_PAUSE, _MAX_PAUSE = 30.0, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """How many posts have failed in a row, and from when until when none goes."""

    failures: int = 0
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_failing(self) -> bool:
        """Tell whether it is open or half open."""
        return self.failures >= FAILURES

    def can_post(self, now: datetime) -> bool:
        """Return whether a post may go: also where a clock that was set back makes pauses long."""
        if self.since is None or self.until is None:
            return True
        return not self.since <= now < self.until

    def after(self, outcome: DeliveryOutcome, now: datetime) -> "Breaker":
        """Return the breaker after a post; a pause that the receiver asked for is kept as well."""
        match outcome:
            case Delivered():
                return Breaker()
            case Retry(after=requested):
                failures = self.failures + 1
                pause = max(requested, _pause(failures))
                return Breaker(failures=failures, since=now, until=now + pause)
            case _:
                return self


def _pause(failures: int) -> timedelta:
    if failures < FAILURES:
        return timedelta(seconds=doubling_seconds(failures, _PAUSE))
    return timedelta(seconds=doubling_seconds(failures - FAILURES, _MAX_PAUSE, first=_PAUSE))
