"""What is done every so often: keep the log within its bounds, and whatever else is due."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from storage.errors import StorageError
from storage.instants import Steady
from storage.log import Log
from storage.retention import RETENTION, Retention

EVERY = timedelta(minutes=1)
FOR_EVER = timedelta(days=36500)

Job = Callable[[datetime], object]
"""Something to do, given the time; what fails, as on a full disk, is for the next time."""

logger = structlog.get_logger()


@contextmanager
def housekeeping(
    log: Log,
    retention: Sequence[Retention] = RETENTION,
    every: timedelta = EVERY,
    jobs: Sequence[Job] = (),
) -> Iterator[None]:
    """Trim the log and do the jobs again and again, in threads, as long as the block runs.

    A job that fails or takes long holds up no other.
    """
    steady = Steady()

    def trim_log(now: datetime) -> None:
        trim(log, retention, steady)

    # Without these two a job that comes late by a second is left out.
    defaults = {"misfire_grace_time": None, "coalesce": True}
    scheduler = BackgroundScheduler(timezone=UTC, job_defaults=defaults)
    for job in (trim_log, *jobs):
        turn = _Turn(job)
        scheduler.add_job(turn.take, "interval", seconds=every.total_seconds())
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

    @wraps(job)
    def held(now: datetime) -> object:
        return steady.observe() and job(now)

    return held


class _Turn:
    """A job that is done again and again, and says once why it is put off."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._is_put_off = False

    def take(self) -> None:
        """Do it; what fails is for the next time."""
        try:
            self._job(datetime.now(UTC))
            self._is_put_off = False
        except StorageError as error:
            if not self._is_put_off:
                logger.error("put off", job=_name(self._job), reason=str(error))
            self._is_put_off = True
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            logger.error("job failed", job=_name(self._job), reason=told, exc_info=True)


def _name(job: Job) -> str:
    """Return what a job is called in the code."""
    return getattr(job, "__qualname__", repr(job)).rpartition(">.")[2]
