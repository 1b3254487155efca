"""What waits for whom, how the receivers stand, and what people do about both."""

from collections.abc import Collection
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    and_,
    case,
    func,
    select,
    union_all,
    update,
)

from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.audit import actions
from storage.db.audit.actions import ActionKind, AuditAction, AuditActor
from storage.db.rows.deliveries import is_due, is_waiting
from storage.db.rows.row_mapping import DELIVERY_COLUMNS, delivery_from_row, rows_by_id_prefix
from storage.db.sql.collation import by_code_point
from storage.db.sql.upsert import dialect_insert
from storage.db.transaction import Transaction
from storage.records.deliveries import Delivery, DeliveryState, ReceiverState, ReceiverStatus

UNDELIVERED = (DeliveryState.EXHAUSTED, DeliveryState.REFUSED, DeliveryState.ORPHANED)
"""The states in which a delivery has ended without reaching its receiver."""
RECEIVED = (DeliveryState.DELIVERED, DeliveryState.SUPERSEDED)
"""The states in which a delivery has ended, and it or a later one was received."""

_DELIVERIES, _RECEIVERS = tables.deliveries, tables.receivers


class Outbox:
    """The deliveries of a store, by receiver; safe to use from any thread and process."""

    def __init__(self, store: AlertStore) -> None:
        self._store = store

    def waiting_receivers(self, now: datetime) -> dict[str, bool]:
        """Return the receivers for which something waits, and whether any of that is due."""
        due = case((is_due(now), 1), else_=0)
        query = (
            select(_DELIVERIES.c.receiver, func.max(due).label("due"))
            .where(is_waiting())
            .group_by(_DELIVERIES.c.receiver)
        )
        return {row.receiver: bool(row.due) for row in self._store.rows(query)}

    def deliveries(
        self,
        states: Collection[DeliveryState] = tuple(DeliveryState),
        receiver: str | None = None,
        limit: int | None = None,
    ) -> list[Delivery]:
        """Return deliveries in these states, the last ones first."""
        latest = [
            select(_latest_query(state, receiver, limit).subquery())
            for state in sorted(set(states))
        ]
        if not latest:
            return []
        found = union_all(*latest).subquery()
        query = (
            select(found)
            .order_by(_last_attempt(found).desc(), by_code_point(found.c.id))
            .limit(limit)
        )
        return [delivery_from_row(row) for row in self._store.rows(query)]

    def incidents_by_delivery(self, deliveries: Collection[UUID]) -> dict[UUID, list[UUID]]:
        """Return the ids of the incidents in each of these deliveries."""
        link = tables.delivery_incidents
        query = select(link.c.delivery_id, link.c.incident_id).where(
            link.c.delivery_id.in_([str(id) for id in deliveries])
        )
        found: dict[UUID, list[UUID]] = {}
        order = (by_code_point(link.c.delivery_id), by_code_point(link.c.incident_id))
        for row in self._store.rows(query.order_by(*order)):
            found.setdefault(UUID(row.delivery_id), []).append(UUID(row.incident_id))
        return found

    def find(self, prefix: str) -> Delivery | None:
        """Return the delivery whose id begins so; ValueError when more than one does."""
        with self._store.read_transaction() as connection:
            rows = rows_by_id_prefix(
                connection, select(*DELIVERY_COLUMNS), _DELIVERIES.c.id, prefix
            )
        if len(rows) > 1:
            raise ValueError(f"{prefix}: more than one delivery begins so")
        return delivery_from_row(rows[0]) if rows else None

    def requeue(self, delivery: Delivery, now: datetime, actor: AuditActor, note: str = "") -> bool:
        """Let a delivery that has ended wait again, from the start of its schedule, same id."""
        action = AuditAction(
            actor=actor,
            kind=ActionKind.DELIVERY_REPLAY,
            object=str(delivery.id),
            details=f"{delivery.state} to {delivery.receiver}",
            note=note,
        )
        return self._requeue(_DELIVERIES.c.id == str(delivery.id), now, action) == 1

    def requeue_undelivered(
        self,
        receiver: str,
        since: datetime | None,
        now: datetime,
        actor: AuditActor,
        note: str = "",
    ) -> int:
        """Let all that a receiver was never told, since an instant, wait again; return how many."""
        undelivered = and_(_DELIVERIES.c.receiver == receiver, _DELIVERIES.c.state.in_(UNDELIVERED))
        if since is not None:
            undelivered = and_(undelivered, _last_attempt() >= since)
        action = AuditAction(
            actor=actor,
            kind=ActionKind.RECEIVER_REPLAY,
            object=receiver,
            details=f"undelivered since {since.isoformat()}" if since else "all undelivered",
            note=note,
        )
        return self._requeue(undelivered, now, action)

    def receiver_statuses(self) -> dict[str, ReceiverStatus]:
        """Return how receivers stand; one that never gave cause is not among them."""
        rows = self._store.rows(select(_RECEIVERS))
        return {
            row.name: ReceiverStatus(**row._asdict() | {"state": ReceiverState(row.state)})
            for row in rows
        }

    def enable_receiver(self, name: str, now: datetime, actor: AuditActor, note: str = "") -> bool:
        """Post to a disabled receiver again; return whether it was disabled."""
        is_disabled = and_(_RECEIVERS.c.name == name, _RECEIVERS.c.state == ReceiverState.DISABLED)
        statement = update(_RECEIVERS).where(is_disabled)
        statement = statement.values(
            state=ReceiverState.ACTIVE, reason="enabled by hand", since=now
        )
        action = AuditAction(actor=actor, kind=ActionKind.RECEIVER_ENABLE, object=name, note=note)
        with self._store.transaction() as transaction:
            is_enabled = transaction.connection.execute(statement).rowcount == 1
            if is_enabled:
                actions.append_action(transaction.connection, action)
        return is_enabled

    def _requeue(self, condition: ColumnElement[bool], now: datetime, action: AuditAction) -> int:
        """Let deliveries wait again; write the act where any of them had ended."""
        ended = _DELIVERIES.c.state != DeliveryState.WAITING
        statement = update(_DELIVERIES).where(condition, ended)
        statement = statement.values(state=DeliveryState.WAITING, attempts=0, next_at=now)
        with self._store.transaction() as transaction:
            count = transaction.connection.execute(statement).rowcount
            if count:
                details = f"{action.details}, {count} replayed"
                actions.append_action(transaction.connection, replace(action, details=details))
        return count


def save_receiver_status(transaction: Transaction, status: ReceiverStatus) -> None:
    """Write how a receiver stands now."""
    row = asdict(status)
    statement = dialect_insert(transaction.connection, _RECEIVERS).values(row)
    transaction.connection.execute(
        statement.on_conflict_do_update(index_elements=["name"], set_=row)
    )


def end_waiting_deliveries(
    transaction: Transaction, receiver: str, state: DeliveryState, reason: str
) -> int:
    """End all that waits for a receiver, undelivered; return how many that were."""
    statement = update(_DELIVERIES).where(_DELIVERIES.c.receiver == receiver, is_waiting())
    statement = statement.values(state=state, reason=reason)
    return transaction.connection.execute(statement).rowcount


def _latest_query(state: DeliveryState, receiver: str | None, limit: int | None) -> Select[Any]:
    """Return the query for the last deliveries in a state: an index has each state in order."""
    query = select(*DELIVERY_COLUMNS).where(_DELIVERIES.c.state == state)
    if receiver is not None:
        query = query.where(_DELIVERIES.c.receiver == receiver)
    return query.order_by(_last_attempt().desc(), by_code_point(_DELIVERIES.c.id)).limit(limit)


def _last_attempt(table: FromClause = _DELIVERIES) -> ColumnElement[datetime]:
    """Return when a delivery was tried last, or was first due."""
    return func.coalesce(table.c.tried_at, table.c.next_at)
