"""The courier: takes due deliveries, posts them, marks what came of each.

Every receiver has a thread of its own, so that a slow one delays nobody else. Nothing is
posted inside a transaction: a crash between the post and the mark posts again, same id.
"""

import random
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event

import structlog

from alerts.webhook import Delivered, Outcome, Refused, Retry, Webhook, post
from storage.errors import StorageFull
from storage.incidents import IncidentStore
from storage.records import Delivery, DeliveryState

# Standard Webhooks, "Deliverability and reliability": when to try again after each failure.
RETRIES = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
_JITTER = 0.1
_POLL_SECONDS = 0.5
_DISK_FULL_SECONDS = 5.0

_say = structlog.get_logger("alerts.courier")


def after_post(delivery: Delivery, outcome: Outcome, now: datetime, jitter: float) -> Delivery:
    """Return what becomes of a delivery; `jitter` in -1..1 moves the next try by a tenth."""
    tried = replace(delivery, attempts=delivery.attempts + 1)
    match outcome:
        case Delivered():
            return replace(tried, state=DeliveryState.DELIVERED)
        case Refused():
            return replace(tried, state=DeliveryState.REFUSED)
        case Retry() if tried.attempts > len(RETRIES):
            return replace(tried, state=DeliveryState.EXHAUSTED)
        case Retry(after=asked):
            pause = RETRIES[delivery.attempts] * (1 + _JITTER * jitter)
            return replace(tried, next_at=now + max(pause, asked))


class Courier:
    """Bring deliveries to their receivers."""

    def __init__(self, store: IncidentStore, receivers: Iterable[Webhook]) -> None:
        self._routes = [_Route(store, webhook) for webhook in receivers]

    def run(self, stop: Event) -> None:
        """Deliver until stopped; an unexpected error at one receiver stops all and is raised."""
        with ThreadPoolExecutor(max_workers=max(1, len(self._routes))) as threads:
            running = [threads.submit(route.run, stop) for route in self._routes]
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            if any(future.exception() for future in done):
                stop.set()
        for future in running:
            future.result()
        stop.wait()

    def run_once(self, now: datetime) -> int:
        """Try the next due delivery of every receiver; return how many were tried."""
        return sum(route.run_once(now) for route in self._routes)


class _Route:
    """The way to one receiver, and what it asked of us."""

    def __init__(self, store: IncidentStore, webhook: Webhook) -> None:
        self._store = store
        self._webhook = webhook
        self._quiet_until = datetime.min.replace(tzinfo=UTC)
        self._refused: Refused | None = None
        self._unmarked: Delivery | None = None
        self._say = _say.bind(receiver=webhook.name)

    def run(self, stop: Event) -> None:
        disk_full = False
        while not stop.is_set():
            try:
                tried = self.run_once(datetime.now(UTC))
                disk_full = False
            except StorageFull as error:
                if not disk_full:
                    self._say.error(str(error))
                disk_full, tried = True, 0
            if not tried:
                stop.wait(_DISK_FULL_SECONDS if disk_full else _POLL_SECONDS)

    def run_once(self, now: datetime) -> int:
        self._mark()
        if now < self._quiet_until:
            return 0
        delivery = self._store.next_delivery(self._webhook.name, now)
        if delivery is None:
            return 0
        body = self._store.body(delivery)
        outcome = self._refused or post(self._webhook, delivery.id, body, now)
        self._heed(outcome, now)
        self._unmarked = after_post(delivery, outcome, now, random.uniform(-1, 1))
        self._report(self._unmarked, outcome)
        self._mark()
        return 1

    def _mark(self) -> None:
        """Write what came of the last post; on a full disk that is due again, the post is not."""
        if self._unmarked is not None:
            self._store.mark(self._unmarked)
            self._unmarked = None

    def _heed(self, outcome: Outcome, now: datetime) -> None:
        match outcome:
            case Refused():
                self._refused = outcome
            case Retry(after=after):
                self._quiet_until = now + after

    def _report(self, delivery: Delivery, outcome: Outcome) -> None:
        say = self._say.bind(delivery=str(delivery.id), attempts=delivery.attempts)
        match outcome:
            case Delivered(status=status):
                say.info("delivered", status=status)
            case Refused(reason=reason):
                say.error("refused, the receiver is off until restart", reason=reason)
            case Retry(reason=reason) if delivery.state is DeliveryState.EXHAUSTED:
                say.error("given up", reason=reason)
            case Retry(reason=reason):
                say.warning("not delivered", reason=reason, next_at=delivery.next_at.isoformat())
