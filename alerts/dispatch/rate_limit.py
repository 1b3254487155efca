"""The rate limit of a receiver: a token bucket, and what critical messages may borrow from it."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from storage.records.notifications import TokenBucket

URGENT_INTERVAL = timedelta(minutes=1)
"""The least time between urgent messages of a group, and between borrowed tokens of a receiver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRate:
    """A number of messages per time; the token bucket starts full."""

    count: int
    per: timedelta

    @property
    def interval(self) -> timedelta:
        """Return the time in which one token accrues."""
        return self.per / self.count

    def refilled_bucket(self, bucket: TokenBucket | None, now: datetime) -> TokenBucket:
        """Return the bucket at an instant; a clock set back a little adds no token.

        A bucket further ahead than `per` is full: a clock that was ahead wrote it.
        """
        if bucket is None or bucket.at - now > self.per:
            return TokenBucket(tokens=float(self.count), at=now)
        since = max(now - bucket.at, timedelta())
        return replace(
            bucket, tokens=min(self.count, bucket.tokens + since / self.interval), at=now
        )

    def next_token_at(self, bucket: TokenBucket) -> datetime:
        """Return when the next token is available."""
        return bucket.at + max(0.0, 1.0 - bucket.tokens) * self.interval

    def borrowed_bucket(self, bucket: TokenBucket, now: datetime) -> TokenBucket:
        """Return the bucket after a critical message borrowed a token; it owes at most `count`."""
        return replace(bucket, tokens=max(bucket.tokens - 1.0, -self.count), borrowed_at=now)


def next_borrow_at(bucket: TokenBucket, now: datetime) -> datetime:
    """Return when a critical message may borrow: URGENT_INTERVAL after the last one did."""
    if bucket.borrowed_at is None or bucket.borrowed_at > now:
        return now
    return bucket.borrowed_at + URGENT_INTERVAL
