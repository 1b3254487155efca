"""The queue of one receiver: its due deliveries, posted one at a time, and its recent health."""

import random
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import Lock

import structlog

from alerts.notify.breaker import FAILURES, Breaker
from alerts.notify.failures import DeliveryFailure, OnDeliveryFailure, write_and_report
from alerts.notify.outcomes import Delivered, DeliveryOutcome, Refused, Retry
from alerts.notify.receivers import Receiver
from storage.db.alert_store import AlertStore
from storage.db.outbox import save_receiver_status
from storage.db.transaction import Transaction
from storage.records.deliveries import Delivery, DeliveryState, ReceiverState, ReceiverStatus

# Standard Webhooks, "Deliverability and reliability": the pause after each failure.
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
_SLOW_SECONDS, _MAX_RUN_SECONDS = 1.0, 5.0
"""Above the first a post was slow; a thread stays with one receiver for the second."""

logger = structlog.get_logger()


def delivery_after_post(
    delivery: Delivery, outcome: DeliveryOutcome, now: datetime, jitter: float
) -> Delivery:
    """Return a delivery after a post; `jitter` in -1..1 moves the next try by a tenth."""
    tried = replace(delivery, attempts=delivery.attempts + 1, tried_at=now, reason=None)
    match outcome:
        case Delivered():
            return replace(tried, state=DeliveryState.DELIVERED)
        case Refused(reason=reason):
            return replace(tried, state=DeliveryState.REFUSED, reason=reason)
        case Retry(reason=reason) if tried.attempts > len(RETRIES):
            return replace(tried, state=DeliveryState.EXHAUSTED, reason=reason)
        case Retry(after=requested, reason=reason):
            pause = RETRIES[delivery.attempts] * (1 + _JITTER * jitter)
            return replace(tried, next_at=now + max(pause, requested), reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PostResult:
    """The changes of one post, to be written to the database."""

    delivery: Delivery
    outcome: DeliveryOutcome
    status: ReceiverStatus | None
    failure: DeliveryFailure | None

    def write(self, transaction: Transaction) -> DeliveryFailure | None:
        """Write it; return the failure to report, if any."""
        transaction.deliveries.record_outcome(self.delivery)
        if self.status is not None:
            save_receiver_status(transaction, self.status)
        return self.failure


class ReceiverQueue:
    """Post the due deliveries of a receiver, in order; one thread at a time."""

    def __init__(
        self,
        store: AlertStore,
        receiver: Receiver,
        status: ReceiverStatus | None,
        on_failure: OnDeliveryFailure,
    ) -> None:
        failing = status is not None and status.state is ReceiverState.FAILING
        self.name = receiver.name
        self._store = store
        self._receiver = receiver
        self._on_failure = on_failure
        self._breaker = Breaker(failures=FAILURES if failing else 0)
        self._error_breaker = Breaker()
        self._last_succeeded, self._last_seconds = not failing, 0.0
        self._unwritten: _PostResult | None = None
        self._running = Lock()
        self._logger = logger.bind(receiver=receiver.name)

    @property
    def is_slow_or_failing(self) -> bool:
        """Return whether the last post failed or was slow."""
        return not self._last_succeeded or self._last_seconds > _SLOW_SECONDS

    @property
    def has_unwritten_result(self) -> bool:
        """Return whether the outcome of the last post is still to be written."""
        return self._unwritten is not None

    def can_post(self, now: datetime) -> bool:
        """Return whether the receiver may be posted to."""
        return self._breaker.can_post(now) and not self.is_paused(now)

    def is_paused(self, now: datetime) -> bool:
        """Return whether the queue pauses after an error of longwatch."""
        return not self._error_breaker.can_post(now)

    def pause(self, error: Exception, now: datetime) -> None:
        """Log an error of longwatch, and pause this queue, longer each time."""
        reason = f"an error of longwatch: {type(error).__name__}"
        self._error_breaker = self._error_breaker.after(Retry(reason=reason), now)
        self._logger.error("an error of longwatch: the receiver waits", exc_info=error)

    def run(self, began: float) -> int:
        """Post what is due while that is fast, for a few seconds; return the number of tries."""
        if not self._running.acquire(blocking=False):
            return 0
        try:
            return self._post_while_fast(began)
        finally:
            self._running.release()

    def run_once(self, now: datetime) -> int:
        """Post the next due delivery, if any; return the number of tries."""
        self._write_result()
        delivery = self._store.next_delivery(self.name, now) if self.can_post(now) else None
        body = None if delivery is None else self._store.delivery_body(delivery)
        if delivery is None or body is None:
            return 0
        self._store.confirm_lease()
        began = time.monotonic()
        outcome = self._send(delivery, body, now)
        self._last_succeeded = isinstance(outcome, Delivered)
        self._last_seconds = time.monotonic() - began
        self._unwritten = self._result_of(delivery, outcome, now)
        self._write_result()
        return 1

    def _post_while_fast(self, began: float) -> int:
        tried = 0
        while self.run_once(datetime.now(UTC)):
            tried += 1
            if self.is_slow_or_failing or time.monotonic() - began > _MAX_RUN_SECONDS:
                break
        self._error_breaker = Breaker()
        return tried

    def _send(self, delivery: Delivery, body: bytes, now: datetime) -> DeliveryOutcome:
        """Send a delivery; any exception is a failed try of this delivery alone."""
        try:
            return self._receiver.send(delivery.id, body, now)
        except Exception as error:  # any error is this delivery's alone
            # The text of the error may hold a secret; log lines are redacted, the database is not.
            self._logger.exception("an error of longwatch ends a try", delivery=str(delivery.id))
            reason = f"an error of longwatch: {type(error).__name__}"
            return Retry(reason=reason, hint="its traceback is in the log")

    def _result_of(
        self, delivery: Delivery, outcome: DeliveryOutcome, now: datetime
    ) -> _PostResult:
        before, self._breaker = self._breaker, self._breaker.after(outcome, now)
        updated = delivery_after_post(delivery, outcome, now, random.uniform(-1, 1))
        status = _changed_status(self.name, before, self._breaker, outcome, now)
        is_lost = updated.state in (DeliveryState.EXHAUSTED, DeliveryState.REFUSED)
        reason = f"{updated.state} after {updated.attempts} tries: {updated.reason}"
        id = delivery.id
        failure = DeliveryFailure(receiver=self.name, reason=reason, at=now, delivery_id=id)
        reported = failure if is_lost else None
        return _PostResult(delivery=updated, outcome=outcome, status=status, failure=reported)

    def _write_result(self) -> None:
        """Write the outcome of the last post; if that fails, later and without a new post."""
        if self._unwritten is None:
            return
        write_and_report(self._store, self._unwritten.write, self._on_failure)
        written, self._unwritten = self._unwritten, None
        self._log_outcome(written.delivery, written.outcome)

    def _log_outcome(self, delivery: Delivery, outcome: DeliveryOutcome) -> None:
        log = self._logger.bind(delivery=str(delivery.id), attempts=delivery.attempts)
        match outcome:
            case Delivered(status=status):
                log.info("delivered", status=status)
            case Refused(reason=reason):
                log.error("refused, the receiver is disabled", reason=reason, hint=outcome.hint)
            case Retry(reason=reason) if delivery.state is DeliveryState.EXHAUSTED:
                log.error("given up", reason=reason, hint=outcome.hint)
            case Retry(reason=reason, hint=hint):
                at = delivery.next_at.isoformat()
                log.warning("not delivered", reason=reason, hint=hint, next_at=at)


def _changed_status(
    name: str, before: Breaker, after: Breaker, outcome: DeliveryOutcome, now: datetime
) -> ReceiverStatus | None:
    """Return the new status of a receiver, None if a post did not change it."""
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
