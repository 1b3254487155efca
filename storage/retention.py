"""How much of each topic the log keeps."""

from dataclasses import dataclass
from datetime import timedelta

from storage.log import COVERAGE, DEAD, FINDINGS, INCIDENTS, REPLIES, REQUESTS, WINDOWS

KEEP = timedelta(hours=24)
"""How long windows are kept at most where the settings do not say."""
LEAST = 2 * 2**30
"""Bytes of windows that a log keeps at least where the settings name no limit."""
_RECORDS, _ASKS = 2**28, 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of a topic is kept, and for how long; on a broker, of each partition of it."""

    topic: str
    keep_bytes: int
    keep_for: timedelta


def retention(windows: int = LEAST, keep: timedelta = KEEP) -> tuple[Retention, ...]:
    """Return what is kept of every topic, given the bytes of windows and how long they are kept.

    A finding takes about 400 bytes and a claim 200: 256 MiB are 650,000 findings, two days of 64
    cameras asked one question every 16 s.
    """
    month, day = timedelta(days=30), timedelta(days=1)
    return (
        Retention(topic=WINDOWS, keep_bytes=windows, keep_for=keep),
        Retention(topic=FINDINGS, keep_bytes=_RECORDS, keep_for=month),
        Retention(topic=INCIDENTS, keep_bytes=_RECORDS, keep_for=month),
        Retention(topic=COVERAGE, keep_bytes=_RECORDS, keep_for=month),
        Retention(topic=DEAD, keep_bytes=_RECORDS, keep_for=month),
        Retention(topic=REQUESTS, keep_bytes=_ASKS, keep_for=day),
        Retention(topic=REPLIES, keep_bytes=_ASKS, keep_for=day),
    )


RETENTION = retention()
