"""How much of each topic the log keeps, and for how long."""

from dataclasses import dataclass
from datetime import timedelta

from storage.records.topics import (
    COVERAGE,
    DEAD_LETTERS,
    FINDINGS,
    INCIDENTS,
    REPLIES,
    REQUESTS,
    WINDOWS,
)

DEFAULT_WINDOW_AGE = timedelta(hours=24)
"""The default maximum age of windows."""
MIN_WINDOW_BYTES = 2 * 2**30
"""The minimum bytes of windows that a log keeps if the settings name no limit."""
_RECORD_BYTES, _QUERY_BYTES = 2**28, 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRetention:
    """How much of a topic is kept, and for how long; on a broker, of each partition."""

    topic: str
    keep_bytes: int
    keep_for: timedelta


def topic_retention(
    window_bytes: int = MIN_WINDOW_BYTES, window_age: timedelta = DEFAULT_WINDOW_AGE
) -> tuple[TopicRetention, ...]:
    """Return the retention of every topic; the arguments are the limits for windows.

    A finding has about 400 bytes and a claim 200: 256 MiB are 650,000 findings, two days of 64
    cameras with one question every 16 s.
    """
    month, day = timedelta(days=30), timedelta(days=1)
    return (
        TopicRetention(topic=WINDOWS, keep_bytes=window_bytes, keep_for=window_age),
        TopicRetention(topic=FINDINGS, keep_bytes=_RECORD_BYTES, keep_for=month),
        TopicRetention(topic=INCIDENTS, keep_bytes=_RECORD_BYTES, keep_for=month),
        TopicRetention(topic=COVERAGE, keep_bytes=_RECORD_BYTES, keep_for=month),
        TopicRetention(topic=DEAD_LETTERS, keep_bytes=_RECORD_BYTES, keep_for=month),
        TopicRetention(topic=REQUESTS, keep_bytes=_QUERY_BYTES, keep_for=day),
        TopicRetention(topic=REPLIES, keep_bytes=_QUERY_BYTES, keep_for=day),
    )


DEFAULT_RETENTION = topic_retention()
