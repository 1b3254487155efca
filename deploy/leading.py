"""What one process on a database does at a time: stand by, lead, and end where another leads."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event

import structlog

from alerts.loop import repeat
from storage.errors import StorageBlocked, StorageError
from storage.leases import RENEWALS, LeaderElector
from storage.said_once import SaidOnce

_PROMISE_SECONDS, _POLL_SECONDS = 60.0, 0.5

_say = structlog.get_logger("deploy.leading")


@contextmanager
def leading(
    elector: LeaderElector, stop: Event, promise: Callable[[float], None]
) -> Iterator[None]:
    """Stand by until this process leads, and keep the lease until the block has ended.

    Ends the process with 0 where it is stopped before. Where another process takes the lease
    over, `stop` is set, and LeaseLost is raised.
    """
    _stand_by(elector, stop, promise)
    ended = Event()
    try:
        with ThreadPoolExecutor(1, "lease") as pool:
            renewing = pool.submit(_keep, elector, ended)
            renewing.add_done_callback(lambda _: stop.set())
            try:
                yield
            finally:
                ended.set()
        renewing.result()
    finally:
        with suppress(StorageError):
            elector.release()


def _stand_by(elector: LeaderElector, stop: Event, promise: Callable[[float], None]) -> None:
    blocked, led_in = SaidOnce(_say), 0
    while not stop.is_set():
        promise(_PROMISE_SECONDS)
        try:
            lease = elector.take()
        except StorageBlocked as error:
            blocked.say(error)
        else:
            blocked.forget()
            if elector.is_held:
                _say.info("leads", term=lease.term)
                return
            if lease.term != led_in:
                _say.info("stands by", leader=lease.holder, version=lease.version, term=lease.term)
            led_in = lease.term
        stop.wait(_POLL_SECONDS)
    sys.exit(0)


def _keep(elector: LeaderElector, ended: Event) -> None:
    repeat(elector.renew, ended, _say, seconds=elector.seconds / RENEWALS)
