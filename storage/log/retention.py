"""How much of each topic the log keeps."""

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
"""How long windows are kept at most where the settings do not say."""
MIN_WINDOW_BYTES = 2 * 2**30
"""Bytes of windows that a log keeps at least where the settings name no limit."""
_RECORD_BYTES, _QUERY_BYTES = 2**28, 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRetention:
    """How much of a topic is kept, and for how long; on a broker, of each partition of it."""

    topic: str
    keep_bytes: int
    keep_for: timedelta


def topic_retention(
    window_bytes: int = MIN_WINDOW_BYTES, window_age: timedelta = DEFAULT_WINDOW_AGE
) -> tuple[TopicRetention, ...]:
    """Return what is kept of every topic, given the bytes of windows and how long they are kept.

    A finding takes about 400 bytes and a claim 200: 256 MiB are 650,000 findings, two days of 64
    cameras asked one question every 16 s.
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
