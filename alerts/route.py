"""The way to one receiver: what it is sent, one at a time, and how it has been lately."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import Lock
from uuid import UUID

import structlog

from alerts.breaker import FAILURES, Breaker
from alerts.outcomes import Delivered, Outcome, Refused, Retry
from alerts.receivers import Receiver, send
from storage.errors import StorageError
from storage.incidents import IncidentStore
from storage.ledger import Ledger
from storage.outbox import set_status
from storage.records import Delivery, DeliveryState, ReceiverState, ReceiverStatus

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
_QUICK, _SHIFT = 1.0, 5.0
"""Seconds of a post that was not slow, and for which a thread stays with one receiver."""

_say = structlog.get_logger("alerts.courier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What a person should know: somebody was not told, and why."""

    receiver: str
    told: str
    at: datetime
    delivery: UUID | None = None


OnTrouble = Callable[[Ledger, Trouble], None]
"""`on_trouble(ledger, trouble)` is called in the transaction that marks what happened."""
Write = Callable[[Ledger], Trouble | None]
"""Writes, and returns what people should know of it."""


def log_trouble(_: Ledger, trouble: Trouble) -> None:
    """Say what happened, and nothing more."""
    delivery = {"delivery": str(trouble.delivery)} if trouble.delivery else {}
    _say.error("not told", receiver=trouble.receiver, reason=trouble.told, **delivery)


def keep(store: IncidentStore, write: Write, on_trouble: OnTrouble) -> None:
    """Write in one transaction with what `on_trouble` does; where that fails, write without it.

    Raises StorageError, and any error of `write` itself.
    """
    try:
        _keep(store, write, on_trouble)
    except StorageError:
        raise
    except Exception:  # noqa: BLE001  # whatever it is, the mark is written
        _say.exception("an error of longwatch: trouble is logged and raises no incident")
        _keep(store, write, log_trouble)


def _keep(store: IncidentStore, write: Write, on_trouble: OnTrouble) -> None:
    with store.transaction() as ledger:
        trouble = write(ledger)
        if trouble is not None:
            on_trouble(ledger, trouble)


def after_post(delivery: Delivery, outcome: Outcome, now: datetime, jitter: float) -> Delivery:
    """Return what becomes of a delivery; `jitter` in -1..1 moves the next try by a tenth."""
    tried = replace(delivery, attempts=delivery.attempts + 1, tried_at=now, reason=None)
    match outcome:
        case Delivered():
            return replace(tried, state=DeliveryState.DELIVERED)
        case Refused(reason=reason):
            return replace(tried, state=DeliveryState.REFUSED, reason=reason)
        case Retry(reason=reason) if tried.attempts > len(RETRIES):
            return replace(tried, state=DeliveryState.EXHAUSTED, reason=reason)
        case Retry(after=asked, reason=reason):
            pause = RETRIES[delivery.attempts] * (1 + _JITTER * jitter)
            return replace(tried, next_at=now + max(pause, asked), reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """What one post changes in the database."""

    delivery: Delivery
    outcome: Outcome
    status: ReceiverStatus | None
    trouble: Trouble | None

    def write(self, ledger: Ledger) -> Trouble | None:
        """Write it; return what people should know of it."""
        ledger.deliveries.mark(self.delivery)
        if self.status is not None:
            set_status(ledger, self.status)
        return self.trouble


class Route:
    """Post what is due to one receiver, in order; by one thread at a time."""

    def __init__(
        self,
        store: IncidentStore,
        receiver: Receiver,
        status: ReceiverStatus | None,
        on_trouble: OnTrouble,
    ) -> None:
        failing = status is not None and status.state is ReceiverState.FAILING
        self.name = receiver.name
        self._store = store
        self._receiver = receiver
        self._on_trouble = on_trouble
        self._breaker = Breaker(failures=FAILURES if failing else 0)
        self._errors = Breaker()
        self._worked, self._seconds = not failing, 0.0
        self._owed: _Mark | None = None
        self._running = Lock()
        self._say = _say.bind(receiver=receiver.name)

    @property
    def is_suspect(self) -> bool:
        """Return whether the last post failed or was slow."""
        return not self._worked or self._seconds > _QUICK

    @property
    def owes_a_mark(self) -> bool:
        """Return whether the outcome of the last post could not be written yet."""
        return self._owed is not None

    def is_open(self, now: datetime) -> bool:
        """Return whether the receiver may be posted to."""
        return self._breaker.lets_through(now) and not self.is_held_back(now)

    def is_held_back(self, now: datetime) -> bool:
        """Return whether an error of longwatch on this route is followed by a pause."""
        return not self._errors.lets_through(now)

    def hold_back(self, error: Exception, now: datetime) -> None:
        """Log an error of longwatch on this route; it pauses, longer each time, others go on."""
        reason = f"an error of longwatch: {type(error).__name__}"
        self._errors = self._errors.after(Retry(reason=reason), now)
        self._say.error("an error of longwatch: the receiver waits", exc_info=error)

    def run(self, began: float) -> int:
        """Post what is due as long as that goes well, for a shift; return the number of tries."""
        if not self._running.acquire(blocking=False):
            return 0
        try:
            return self._shift(began)
        finally:
            self._running.release()

    def run_once(self, now: datetime) -> int:
        """Post the next due delivery, if there is one; return the number of tries."""
        self._pay()
        delivery = self._store.next_delivery(self.name, now) if self.is_open(now) else None
        body = None if delivery is None else self._store.body(delivery)
        if delivery is None or body is None:
            return 0
        self._store.confirm()
        began = time.monotonic()
        outcome = self._send(delivery, body, now)
        self._worked, self._seconds = isinstance(outcome, Delivered), time.monotonic() - began
        self._owed = self._mark_of(delivery, outcome, now)
        self._pay()
        return 1

    def _shift(self, began: float) -> int:
        tried = 0
        while self.run_once(datetime.now(UTC)):
            tried += 1
            if self.is_suspect or time.monotonic() - began > _SHIFT:
                break
        self._errors = Breaker()
        return tried

    def _send(self, delivery: Delivery, body: bytes, now: datetime) -> Outcome:
        """Send; whatever that raises is a failed try of this delivery and of nothing else."""
        try:
            return send(self._receiver, delivery.id, body, now)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this delivery's
            # The text of the error may hold a secret; log lines are redacted, the database is not.
            self._say.exception("an error of longwatch ends a try", delivery=str(delivery.id))
            reason = f"an error of longwatch: {type(error).__name__}"
            return Retry(reason=reason, hint="its traceback is in the log")

    def _mark_of(self, delivery: Delivery, outcome: Outcome, now: datetime) -> _Mark:
        before, self._breaker = self._breaker, self._breaker.after(outcome, now)
        marked = after_post(delivery, outcome, now, random.uniform(-1, 1))
        status = _status(self.name, before, self._breaker, outcome, now)
        lost = marked.state in (DeliveryState.EXHAUSTED, DeliveryState.REFUSED)
        told = f"{marked.state} after {marked.attempts} tries: {marked.reason}"
        trouble = Trouble(receiver=self.name, told=told, at=now, delivery=delivery.id)
        trouble_of_it = trouble if lost else None
        return _Mark(delivery=marked, outcome=outcome, status=status, trouble=trouble_of_it)

    def _pay(self) -> None:
        """Write the outcome of the last post; on a full disk that is due again, the post is not."""
        if self._owed is None:
            return
        keep(self._store, self._owed.write, self._on_trouble)
        paid, self._owed = self._owed, None
        self._report(paid.delivery, paid.outcome)

    def _report(self, delivery: Delivery, outcome: Outcome) -> None:
        say = self._say.bind(delivery=str(delivery.id), attempts=delivery.attempts)
        match outcome:
            case Delivered(status=status):
                say.info("delivered", status=status)
            case Refused(reason=reason):
                say.error("refused, the receiver is disabled", reason=reason, hint=outcome.hint)
            case Retry(reason=reason) if delivery.state is DeliveryState.EXHAUSTED:
                say.error("given up", reason=reason, hint=outcome.hint)
            case Retry(reason=reason, hint=hint):
                at = delivery.next_at.isoformat()
                say.warning("not delivered", reason=reason, hint=hint, next_at=at)


def _status(
    name: str, before: Breaker, after: Breaker, outcome: Outcome, now: datetime
) -> ReceiverStatus | None:
    """Return how a receiver stands where a post has changed that."""
    match outcome:
        case Refused(reason=reason):
            state = ReceiverState.DISABLED
        case Retry(reason=reason) if after.is_failing and not before.is_failing:
            state = ReceiverState.FAILING
        case Delivered() if before.is_failing:
            state, reason = ReceiverState.ACTIVE, "it takes deliveries again"
        case _:
            return None
    return ReceiverStatus(name=name, state=state, reason=reason, since=now)
