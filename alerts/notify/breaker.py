"""A circuit breaker: a receiver that keeps failing gets no posts for a while, then a probe.

Closed, it lets posts through. Each failure in a row doubles the pause, so that many receivers
that go down at once do not delay the others. After FAILURES it is open: no delivery spends a try
on a receiver that is down. After the pause it is half open: one post decides.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from alerts.notify.outcomes import Delivered, DeliveryOutcome, Retry
from storage.backoff import doubling_seconds

FAILURES = 5
_PAUSE, _MAX_PAUSE = 30.0, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """The number of failures in a row, and the pause from `since` until `until`."""

    failures: int = 0
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_failing(self) -> bool:
        """Return whether it is open or half open."""
        return self.failures >= FAILURES

    def can_post(self, now: datetime) -> bool:
        """Return whether a post may go; a clock that was set back ends the pause."""
        if self.since is None or self.until is None:
            return True
        return not self.since <= now < self.until

    def after(self, outcome: DeliveryOutcome, now: datetime) -> "Breaker":
        """Return the breaker after a post; the pause is at least what the receiver asked for."""
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
