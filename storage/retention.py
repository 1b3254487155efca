"""How much of each topic the log keeps."""

from dataclasses import dataclass
from datetime import timedelta

from storage.log import COVERAGE, DEAD, FINDINGS, INCIDENTS, REPLIES, REQUESTS, WINDOWS


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of a topic is kept, and for how long; on a broker, of each part of it."""

    topic: str
    keep_bytes: int
    keep_for: timedelta


RETENTION = (
    Retention(topic=WINDOWS, keep_bytes=2 * 2**30, keep_for=timedelta(days=1)),
    Retention(topic=FINDINGS, keep_bytes=2**28, keep_for=timedelta(days=30)),
    Retention(topic=INCIDENTS, keep_bytes=2**28, keep_for=timedelta(days=30)),
    Retention(topic=COVERAGE, keep_bytes=2**28, keep_for=timedelta(days=30)),
    Retention(topic=DEAD, keep_bytes=2**28, keep_for=timedelta(days=30)),
    Retention(topic=REQUESTS, keep_bytes=2**24, keep_for=timedelta(days=1)),
    Retention(topic=REPLIES, keep_bytes=2**24, keep_for=timedelta(days=1)),
)
