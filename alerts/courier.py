"""The courier: takes due deliveries, posts them, marks what came of each.

Posting is waiting, so that each post under way has a thread, and no receiver at rest has one: a
thousand receivers cost nothing until something is due. One receiver is posted to by one thread
at a time, in order. Those that failed or were slow lately share SUSPECTS threads, so that they
never take the ones of those that work.
"""

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event

import structlog

from alerts.loop import BLOCKED_SECONDS, wait_for
from alerts.receivers import Receiver
from alerts.route import OnTrouble, Route, Trouble, keep, log_trouble
from storage.errors import StorageBlocked, StorageError
from storage.incidents import IncidentStore
from storage.ledger import Ledger, Work
from storage.outbox import Outbox, end_waiting
from storage.records import DeliveryState, ReceiverState, ReceiverStatus
from storage.said_once import SaidOnce

THREADS, SUSPECTS = 256, 64
_POLL_SECONDS = 1.0
"""How often to look for what other processes have written."""
_RETRY_SECONDS = 0.2
"""How often to look while something waits to be tried again."""

_say = structlog.get_logger("alerts.courier")


class _NoThread(Exception):
    """Say that the machine starts no thread for now."""


class Courier:
    """Bring deliveries to their receivers; `on_trouble` hears what people should know of."""

    def __init__(
        self,
        store: IncidentStore,
        receivers: Iterable[Receiver],
        on_trouble: OnTrouble = log_trouble,
    ) -> None:
        self._store = store
        self._outbox = Outbox(store)
        self._on_trouble = on_trouble
        self._wake = store.work[Work.POST]
        self._waits = False
        known = self._outbox.statuses()
        self._routes = {
            each.name: Route(store, each, known.get(each.name), on_trouble) for each in receivers
        }

    def run(self, stop: Event) -> None:
        """Deliver until stopped; waits out blocked storage, and a machine that starts no thread.

        An error of one receiver's way holds that back alone; any other stops all and is raised.
        """
        flying: dict[str, Future[int]] = {}
        blocked, said = False, SaidOnce(_say)
        with ThreadPoolExecutor(THREADS, "courier") as threads:
            while not stop.is_set():
                try:
                    blocked = not self._land(flying) and blocked
                    self._send_off(threads, flying)
                except (StorageBlocked, _NoThread) as error:
                    said.say(error)
                    blocked = True
                except BaseException:
                    stop.set()
                    raise
                if blocked:
                    stop.wait(BLOCKED_SECONDS)
                else:
                    said.forget()
                    wait_for(self._wake, stop, _RETRY_SECONDS if self._waits else _POLL_SECONDS)

    def run_once(self, now: datetime) -> int:
        """Try the next due delivery of every receiver; return how many were tried."""
        return sum(route.run_once(now) for route in self._ready(now))

    def _send_off(self, threads: ThreadPoolExecutor, flying: dict[str, Future[int]]) -> None:
        room = SUSPECTS - sum(self._routes[name].is_suspect for name in flying)
        for route in self._ready(datetime.now(UTC)):
            if route.name in flying or len(flying) >= THREADS or (route.is_suspect and room <= 0):
                continue
            room -= route.is_suspect
            flying[route.name] = _start(threads, route)
            flying[route.name].add_done_callback(lambda _: self._wake.set())

    def _land(self, flying: dict[str, Future[int]]) -> int:
        """Forget the posts that have ended, and return the number of them.

        An error of longwatch in one of them holds back its route alone; an error of storage
        is everybody's, and raised.
        """
        ended = {name: flying.pop(name) for name in list(flying) if flying[name].done()}
        errors = {name: future.exception() for name, future in ended.items()}
        for name, error in errors.items():
            if isinstance(error, Exception) and not isinstance(error, StorageError):
                self._routes[name].hold_back(error, datetime.now(UTC))
                errors[name] = None
        for error in filter(None, errors.values()):
            raise error
        return len(ended)

    def _ready(self, now: datetime) -> list[Route]:
        """Return the routes with something to do; end what can go nowhere."""
        waiting, statuses = self._outbox.waiting(now), self._outbox.statuses()
        self._waits = bool(waiting)
        for name in waiting:
            self._end_what_can_go_nowhere(name, statuses.get(name), now)
        return [
            route
            for name, route in self._routes.items()
            if route.owes_a_mark or (waiting.get(name) and route.is_open(now))
            if not (route.is_held_back(now) or _is_disabled(statuses.get(name)))
        ]

    def _end_what_can_go_nowhere(
        self, name: str, status: ReceiverStatus | None, now: datetime
    ) -> None:
        if name not in self._routes:
            state, reason = DeliveryState.ORPHANED, "no receiver is called so any more"
        elif _is_disabled(status):
            state, reason = DeliveryState.REFUSED, "the receiver is disabled"
        else:
            return

        def write(ledger: Ledger) -> Trouble:
            ended = end_waiting(ledger, name, state, reason)
            told = f"{ended} deliveries end undelivered: {reason}"
            return Trouble(receiver=name, told=told, at=now)

        keep(self._store, write, self._on_trouble)


def _start(threads: ThreadPoolExecutor, route: Route) -> Future[int]:
    try:
        return threads.submit(route.run, time.monotonic())
    except RuntimeError as error:
        # It may run later all the same: a route lets one thread in at a time.
        raise _NoThread(
            f"{error}: posts wait for a thread, see the limits of the machine"
        ) from None


def _is_disabled(status: ReceiverStatus | None) -> bool:
    return status is not None and status.state is ReceiverState.DISABLED
