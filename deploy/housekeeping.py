"""What is done every so often: keep the log within its bounds, and whatever else is due."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from storage.errors import StorageError
from storage.instants import Steady
from storage.log import Log
from storage.retention import RETENTION, Retention

EVERY = timedelta(minutes=1)
FOR_EVER = timedelta(days=36500)

Job = Callable[[datetime], object]
"""Something to do, given the time; a full disk is for the next time."""

logger = structlog.get_logger()


@contextmanager
def housekeeping(
    log: Log,
    retention: Sequence[Retention] = RETENTION,
    every: timedelta = EVERY,
    jobs: Sequence[Job] = (),
) -> Iterator[None]:
    """Trim the log and do the jobs again and again, in threads, as long as the block runs."""
    # Without these two a job that comes late by a second is left out.
    defaults = {"misfire_grace_time": None, "coalesce": True}
    scheduler = BackgroundScheduler(timezone=UTC, job_defaults=defaults)
    seconds = every.total_seconds()
    scheduler.add_job(trim, "interval", args=(log, retention, Steady()), seconds=seconds)
    for job in jobs:
        scheduler.add_job(_do, "interval", args=(job,), seconds=seconds)
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown()


def trim(log: Log, retention: Sequence[Retention], steady: Steady | None = None) -> None:
    """Drop what is past its bounds from every topic; a full disk is for the next time.

    Nothing is dropped for its age while `steady` does not trust the clock.
    """
    is_steady = steady is None or steady.observe()
    for kept in retention:
        keep_for = kept.keep_for if is_steady else FOR_EVER
        try:
            gone = log.trim(kept.topic, keep_bytes=kept.keep_bytes, keep_for=keep_for)
        except StorageError as error:
            logger.error("log not trimmed", topic=kept.topic, reason=str(error))
            continue
        if gone:
            logger.info("log trimmed", topic=kept.topic, entries=gone)


def by_age(job: Job, steady: Steady) -> Job:
    """Return a job that deletes by age, held back while `steady` does not trust the clock."""

    def held(now: datetime) -> object:
        return steady.observe() and job(now)

    return held


def _do(job: Job) -> None:
    try:
        job(datetime.now(UTC))
    except StorageError as error:
        logger.error("put off", reason=str(error))
