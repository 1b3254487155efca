"""Leadership on a database: stand by, lead, and stop if another process leads."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event

import structlog

from storage.db.leader_election import RENEWALS_PER_LEASE, LeaderElector
from storage.db.lease_rows import Lease
from storage.errors import StorageError
from storage.loop import repeat, retry_until_done

_KEEPALIVE_SECONDS, _POLL_SECONDS = 60.0, 0.5

logger = structlog.get_logger()


@contextmanager
def leadership(
    elector: LeaderElector, stop: Event, keepalive: Callable[[float], None]
) -> Iterator[None]:
    """Stand by until this process leads, and renew the lease until the block ends.

    Exit with 0 if stopped before. If another process takes the lease, set `stop` and raise
    LeaseLost.
    """
    _wait_for_lease(elector, stop, keepalive)
    ended = Event()
    try:
        with ThreadPoolExecutor(1, "lease") as pool:
            renewing = pool.submit(_renew_lease, elector, ended)
            renewing.add_done_callback(lambda _: stop.set())
            try:
                yield
            finally:
                ended.set()
        renewing.result()
    finally:
        with suppress(StorageError):
            elector.release()


def _wait_for_lease(
    elector: LeaderElector, stop: Event, keepalive: Callable[[float], None]
) -> None:
    logged_term = 0

    def attempt() -> Lease | None:
        nonlocal logged_term
        keepalive(_KEEPALIVE_SECONDS)
        lease = elector.acquire()
        if elector.is_held:
            return lease
        if lease.term != logged_term:
            logger.info("stands by", leader=lease.holder, version=lease.version, term=lease.term)
        logged_term = lease.term
        return None

    lease = retry_until_done(attempt, stop, logger, seconds=_POLL_SECONDS)
    if lease is None:
        sys.exit(0)
    logger.info("leads", term=lease.term)


def _renew_lease(elector: LeaderElector, ended: Event) -> None:
    repeat(elector.renew, ended, logger, seconds=elector.seconds / RENEWALS_PER_LEASE)
