"""Repeated jobs: trim the log, and delete what is past its retention."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from storage.clock import ClockStability
from storage.errors import StorageError
from storage.log.log import Log
from storage.log.retention import DEFAULT_RETENTION, TopicRetention

INTERVAL = timedelta(minutes=1)
FOREVER = timedelta(days=36500)

Job = Callable[[datetime], object]
"""Does something at a time; after an error, such as a full disk, it runs again next time."""

logger = structlog.get_logger()


@contextmanager
def housekeeping(
    log: Log,
    retention: Sequence[TopicRetention] = DEFAULT_RETENTION,
    every: timedelta = INTERVAL,
    jobs: Sequence[Job] = (),
) -> Iterator[None]:
    """Trim the log and run the jobs repeatedly, in threads, until the block ends.

    A job that fails or takes long delays no other.
    """
    steady = ClockStability()

    def trim_log(now: datetime) -> None:
        trim_topics(log, retention, steady)

    # Without these two the scheduler skips a job that is late by a second.
    defaults = {"misfire_grace_time": None, "coalesce": True}
    scheduler = BackgroundScheduler(timezone=UTC, job_defaults=defaults)
    for job in (trim_log, *jobs):
        repeated = _RepeatedJob(job)
        scheduler.add_job(repeated.run, "interval", seconds=every.total_seconds())
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown()


def trim_topics(
    log: Log, retention: Sequence[TopicRetention], steady: ClockStability | None = None
) -> None:
    """Trim every topic to its retention; log errors.

    Keep old entries while `steady` does not trust the clock.
    """
    is_steady = steady is None or steady.observe()
    for topic_retention in retention:
        keep_for = topic_retention.keep_for if is_steady else FOREVER
        try:
            removed = log.trim(
                topic_retention.topic, keep_bytes=topic_retention.keep_bytes, keep_for=keep_for
            )
        except StorageError as error:
            logger.error("log not trimmed", topic=topic_retention.topic, reason=str(error))
            continue
        if removed:
            logger.info("log trimmed", topic=topic_retention.topic, entries=removed)


def skip_while_clock_unsteady(job: Job, steady: ClockStability) -> Job:
    """Return a job that runs only while `steady` trusts the clock, for jobs that delete by age."""

    @wraps(job)
    def guarded(now: datetime) -> object:
        return steady.observe() and job(now)

    return guarded


class _RepeatedJob:
    """A job that runs repeatedly, and logs once why it is put off."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._is_failing = False

    def run(self) -> None:
        """Run the job; log an error."""
        try:
            self._job(datetime.now(UTC))
            self._is_failing = False
        except StorageError as error:
            if not self._is_failing:
                logger.error("put off", job=_job_name(self._job), reason=str(error))
            self._is_failing = True
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            logger.error("job failed", job=_job_name(self._job), reason=message, exc_info=True)


def _job_name(job: Job) -> str:
    """Return the name of a job in the code."""
    return getattr(job, "__qualname__", repr(job)).rpartition(">.")[2]
