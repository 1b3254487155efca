"""Messages that no receiver gets: written with their outcome, and reported."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from storage.db.alert_store import AlertStore
from storage.db.transaction import Transaction
from storage.errors import StorageError

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFailure:
    """A receiver did not get a message, and why."""

    receiver: str
    reason: str
    at: datetime
    delivery_id: UUID | None = None


OnDeliveryFailure = Callable[[Transaction, DeliveryFailure], None]
"""`on_failure(transaction, failure)` runs in the transaction that writes the outcome."""
OutcomeWrite = Callable[[Transaction], DeliveryFailure | None]
"""Write an outcome; return the failure to report, if any."""


def log_delivery_failure(_: Transaction, failure: DeliveryFailure) -> None:
    """Log a failure, and nothing more."""
    delivery = {"delivery": str(failure.delivery_id)} if failure.delivery_id else {}
    logger.error("delivery failed", receiver=failure.receiver, reason=failure.reason, **delivery)


def write_and_report(store: AlertStore, write: OutcomeWrite, on_failure: OnDeliveryFailure) -> None:
    """Write and report in one transaction; if the report fails, write without it.

    Raises StorageError, and any error of `write` itself.
    """
    try:
        _write_in_transaction(store, write, on_failure)
    except StorageError:
        raise
    except Exception:  # whatever it is, the outcome is written
        logger.exception("an error of longwatch: the failed delivery raises no incident")
        _write_in_transaction(store, write, log_delivery_failure)


def _write_in_transaction(
    store: AlertStore, write: OutcomeWrite, on_failure: OnDeliveryFailure
) -> None:
    with store.transaction() as transaction:
        failure = write(transaction)
        if failure is not None:
            on_failure(transaction, failure)
