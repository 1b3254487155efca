"""Keep the log within its bounds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, timedelta

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from storage.errors import StorageFull
from storage.log import DEAD, FINDINGS, INCIDENTS, REPLIES, REQUESTS, WINDOWS, Log

EVERY = timedelta(minutes=1)

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of a topic is kept, and for how long."""

    topic: str
    keep_bytes: int
    keep_for: timedelta


RETENTION = (
    Retention(topic=WINDOWS, keep_bytes=2 * 2**30, keep_for=timedelta(days=1)),
    Retention(topic=FINDINGS, keep_bytes=2**28, keep_for=timedelta(days=30)),
    Retention(topic=INCIDENTS, keep_bytes=2**28, keep_for=timedelta(days=30)),
    Retention(topic=DEAD, keep_bytes=2**28, keep_for=timedelta(days=30)),
    Retention(topic=REQUESTS, keep_bytes=2**24, keep_for=timedelta(days=1)),
    Retention(topic=REPLIES, keep_bytes=2**24, keep_for=timedelta(days=1)),
)


@contextmanager
def housekeeping(
    log: Log, retention: Sequence[Retention] = RETENTION, every: timedelta = EVERY
) -> Iterator[None]:
    """Trim the log again and again, in a thread, as long as the block runs."""
    # Without these two a job that comes late by a second is left out.
    defaults = {"misfire_grace_time": None, "coalesce": True}
    scheduler = BackgroundScheduler(timezone=UTC, job_defaults=defaults)
    scheduler.add_job(trim, "interval", args=(log, retention), seconds=every.total_seconds())
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown()


def trim(log: Log, retention: Sequence[Retention]) -> None:
    """Drop what is past its bounds from every topic; a full disk is for the next time."""
    for kept in retention:
        try:
            gone = log.trim(kept.topic, keep_bytes=kept.keep_bytes, keep_for=kept.keep_for)
        except StorageFull as error:
            logger.error("log not trimmed", topic=kept.topic, reason=str(error))
            continue
        if gone:
            logger.info("log trimmed", topic=kept.topic, entries=gone)
