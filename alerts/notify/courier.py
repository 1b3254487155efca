"""The courier: posts due deliveries, and writes the outcome of each.

Each post under way has a thread, and an idle receiver has none. One thread at a time posts to a
receiver, in order. Receivers that were slow or failed lately share MAX_SLOW_THREADS threads, so
that they never take the threads of the others.
"""

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event

import structlog

from alerts.notify.failures import (
    DeliveryFailure,
    OnDeliveryFailure,
    log_delivery_failure,
    write_and_report,
)
from alerts.notify.queue import ReceiverQueue
from alerts.notify.receivers import Receiver
from storage.db.alert_store import AlertStore
from storage.db.outbox import Outbox, end_waiting_deliveries
from storage.db.transaction import PendingWork, Transaction
from storage.errors import StorageBlocked, StorageError
from storage.loop import BLOCKED_SECONDS, POLL_SECONDS, wait_for
from storage.once_logger import OnceLogger
from storage.records.deliveries import DeliveryState, ReceiverState, ReceiverStatus

MAX_THREADS, MAX_SLOW_THREADS = 256, 64
_RETRY_SECONDS = 0.2
"""How often to check while a delivery waits to be tried again."""

logger = structlog.get_logger()


class _ThreadStartFailed(Exception):
    """The machine starts no thread for now."""


class Courier:
    """Post deliveries to their receivers; `on_failure` gets those that fail for good."""

    def __init__(
        self,
        store: AlertStore,
        receivers: Iterable[Receiver],
        on_failure: OnDeliveryFailure = log_delivery_failure,
    ) -> None:
        self._store = store
        self._outbox = Outbox(store)
        self._on_failure = on_failure
        self._wake = store.pending_work[PendingWork.DELIVER]
        self._has_waiting = False
        known = self._outbox.receiver_statuses()
        self._queues = {
            each.name: ReceiverQueue(store, each, known.get(each.name), on_failure)
            for each in receivers
        }

    def run(self, stop: Event) -> None:
        """Deliver until stopped; waits out blocked storage, and a machine that starts no thread.

        An error of longwatch in one queue pauses that queue; any other error is raised.
        """
        in_flight: dict[str, Future[int]] = {}
        blocked, once_logger = False, OnceLogger(logger)
        with ThreadPoolExecutor(MAX_THREADS, "courier") as threads:
            while not stop.is_set():
                try:
                    blocked = not self._collect_finished(in_flight) and blocked
                    self._start_posts(threads, in_flight)
                except (StorageBlocked, _ThreadStartFailed) as error:
                    once_logger.log_error(error)
                    blocked = True
                except BaseException:
                    stop.set()
                    raise
                if blocked:
                    stop.wait(BLOCKED_SECONDS)
                else:
                    once_logger.reset()
                    wait_for(
                        self._wake, stop, _RETRY_SECONDS if self._has_waiting else POLL_SECONDS
                    )

    def run_once(self, now: datetime) -> int:
        """Try the next due delivery of every receiver; return how many were tried."""
        return sum(queue.run_once(now) for queue in self._take_ready(now))

    def _start_posts(self, threads: ThreadPoolExecutor, in_flight: dict[str, Future[int]]) -> None:
        slow_slots = MAX_SLOW_THREADS - sum(
            self._queues[name].is_slow_or_failing for name in in_flight
        )
        for queue in self._take_ready(datetime.now(UTC)):
            if (
                queue.name in in_flight
                or len(in_flight) >= MAX_THREADS
                or (queue.is_slow_or_failing and slow_slots <= 0)
            ):
                continue
            slow_slots -= queue.is_slow_or_failing
            in_flight[queue.name] = _start(threads, queue)
            in_flight[queue.name].add_done_callback(lambda _: self._wake.set())

    def _collect_finished(self, in_flight: dict[str, Future[int]]) -> int:
        """Forget the posts that have ended; return their number.

        An error of longwatch in one of them pauses its queue; an error of storage is raised.
        """
        ended = {name: in_flight.pop(name) for name in list(in_flight) if in_flight[name].done()}
        errors = {name: future.exception() for name, future in ended.items()}
        for name, error in errors.items():
            if isinstance(error, Exception) and not isinstance(error, StorageError):
                self._queues[name].pause(error, datetime.now(UTC))
                errors[name] = None
        for error in filter(None, errors.values()):
            raise error
        return len(ended)

    def _take_ready(self, now: datetime) -> list[ReceiverQueue]:
        """Return the queues with work to do; end the deliveries that no queue can send."""
        waiting, statuses = self._outbox.waiting_receivers(now), self._outbox.receiver_statuses()
        self._has_waiting = bool(waiting)
        for name in waiting:
            self._end_undeliverable(name, statuses.get(name), now)
        return [
            queue
            for name, queue in self._queues.items()
            if queue.has_unwritten_result or (waiting.get(name) and queue.can_post(now))
            if not (queue.is_paused(now) or _is_disabled(statuses.get(name)))
        ]

    def _end_undeliverable(self, name: str, status: ReceiverStatus | None, now: datetime) -> None:
        if name not in self._queues:
            state, reason = DeliveryState.ORPHANED, "no receiver has this name any more"
        elif _is_disabled(status):
            state, reason = DeliveryState.REFUSED, "the receiver is disabled"
        else:
            return

        def write(transaction: Transaction) -> DeliveryFailure:
            ended = end_waiting_deliveries(transaction, name, state, reason)
            text = f"{ended} deliveries end undelivered: {reason}"
            return DeliveryFailure(receiver=name, reason=text, at=now)

        write_and_report(self._store, write, self._on_failure)


def _start(threads: ThreadPoolExecutor, queue: ReceiverQueue) -> Future[int]:
    try:
        return threads.submit(queue.run, time.monotonic())
    except RuntimeError as error:
        # It may run later nevertheless: a queue lets one thread in at a time.
        raise _ThreadStartFailed(
            f"{error}: posts wait for a thread, see the limits of the machine"
        ) from None


def _is_disabled(status: ReceiverStatus | None) -> bool:
    return status is not None and status.state is ReceiverState.DISABLED
