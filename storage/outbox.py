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

from storage import acts, tables
from storage.acts import Act, ActKind, Actor
from storage.deliveries import is_due, is_waiting
from storage.incidents import IncidentStore
from storage.insert import insert
from storage.ledger import Ledger
from storage.records import Delivery, DeliveryState, ReceiverState, ReceiverStatus
from storage.rows import DELIVERY, delivery_of, rows_beginning
from storage.text_order import by_code_point

UNDELIVERED = (DeliveryState.EXHAUSTED, DeliveryState.REFUSED, DeliveryState.ORPHANED)
"""The states in which a delivery has ended and nobody was told."""
ENDED_WELL = (DeliveryState.DELIVERED, DeliveryState.SUPERSEDED)
"""The states in which a delivery has ended, and it or a later one was received."""

_DELIVERIES, _RECEIVERS = tables.deliveries, tables.receivers


class Outbox:
    """The deliveries of a store, by receiver; safe to use from any thread and process."""

    def __init__(self, store: IncidentStore) -> None:
        self._store = store

    def waiting(self, now: datetime) -> dict[str, bool]:
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
            select(_latest(state, receiver, limit).subquery()) for state in sorted(set(states))
        ]
        if not latest:
            return []
        found = union_all(*latest).subquery()
        query = (
            select(found)
            .order_by(_last_moment(found).desc(), by_code_point(found.c.id))
            .limit(limit)
        )
        return [delivery_of(row) for row in self._store.rows(query)]

    def incidents_of(self, deliveries: Collection[UUID]) -> dict[UUID, list[UUID]]:
        """Return the ids of the incidents in each of these deliveries."""
        told = tables.delivery_incidents
        query = select(told.c.delivery_id, told.c.incident_id).where(
            told.c.delivery_id.in_([str(id) for id in deliveries])
        )
        found: dict[UUID, list[UUID]] = {}
        order = (by_code_point(told.c.delivery_id), by_code_point(told.c.incident_id))
        for row in self._store.rows(query.order_by(*order)):
            found.setdefault(UUID(row.delivery_id), []).append(UUID(row.incident_id))
        return found

    def find(self, prefix: str) -> Delivery | None:
        """Return the delivery whose id begins so; ValueError when more than one does."""
        with self._store.reading() as connection:
            rows = rows_beginning(connection, select(*DELIVERY), _DELIVERIES.c.id, prefix)
        if len(rows) > 1:
            raise ValueError(f"{prefix}: more than one delivery begins so")
        return delivery_of(rows[0]) if rows else None

    def replay(self, delivery: Delivery, now: datetime, actor: Actor, note: str = "") -> bool:
        """Let a delivery that has ended wait again, from the start of its schedule, same id."""
        act = Act(
            actor=actor,
            kind=ActKind.DELIVERY_REPLAY,
            object=str(delivery.id),
            details=f"{delivery.state} to {delivery.receiver}",
            note=note,
        )
        return self._replay(_DELIVERIES.c.id == str(delivery.id), now, act) == 1

    def replay_all(
        self, receiver: str, since: datetime | None, now: datetime, actor: Actor, note: str = ""
    ) -> int:
        """Let all that a receiver was never told, since an instant, wait again; return how many."""
        lost = and_(_DELIVERIES.c.receiver == receiver, _DELIVERIES.c.state.in_(UNDELIVERED))
        if since is not None:
            lost = and_(lost, _last_moment() >= since)
        act = Act(
            actor=actor,
            kind=ActKind.RECEIVER_REPLAY,
            object=receiver,
            details=f"undelivered since {since.isoformat()}" if since else "all undelivered",
            note=note,
        )
        return self._replay(lost, now, act)

    def statuses(self) -> dict[str, ReceiverStatus]:
        """Return how receivers stand; one that never gave cause is not among them."""
        rows = self._store.rows(select(_RECEIVERS))
        return {
            row.name: ReceiverStatus(**row._asdict() | {"state": ReceiverState(row.state)})
            for row in rows
        }

    def enable(self, name: str, now: datetime, actor: Actor, note: str = "") -> bool:
        """Post to a disabled receiver again; return whether it was disabled."""
        stands = and_(_RECEIVERS.c.name == name, _RECEIVERS.c.state == ReceiverState.DISABLED)
        changed = update(_RECEIVERS).where(stands)
        changed = changed.values(state=ReceiverState.ACTIVE, reason="enabled by hand", since=now)
        act = Act(actor=actor, kind=ActKind.RECEIVER_ENABLE, object=name, note=note)
        with self._store.transaction() as ledger:
            is_enabled = ledger.connection.execute(changed).rowcount == 1
            if is_enabled:
                acts.append(ledger.connection, act)
        return is_enabled

    def _replay(self, which: ColumnElement[bool], now: datetime, act: Act) -> int:
        """Let deliveries wait again; write the act where any of them had ended."""
        ended = _DELIVERIES.c.state != DeliveryState.WAITING
        again = update(_DELIVERIES).where(which, ended)
        again = again.values(state=DeliveryState.WAITING, attempts=0, next_at=now)
        with self._store.transaction() as ledger:
            count = ledger.connection.execute(again).rowcount
            if count:
                details = f"{act.details}, {count} replayed"
                acts.append(ledger.connection, replace(act, details=details))
        return count


def set_status(ledger: Ledger, status: ReceiverStatus) -> None:
    """Write how a receiver stands now."""
    row = asdict(status)
    writing = insert(ledger.connection, _RECEIVERS).values(row)
    ledger.connection.execute(writing.on_conflict_do_update(index_elements=["name"], set_=row))


def end_waiting(ledger: Ledger, receiver: str, state: DeliveryState, reason: str) -> int:
    """End all that waits for a receiver, undelivered; return how many that were."""
    ending = update(_DELIVERIES).where(_DELIVERIES.c.receiver == receiver, is_waiting())
    ending = ending.values(state=state, reason=reason)
    return ledger.connection.execute(ending).rowcount


def _latest(state: DeliveryState, receiver: str | None, limit: int | None) -> Select[Any]:
    """Return the query for the last deliveries in a state: an index has each state in order."""
    query = select(*DELIVERY).where(_DELIVERIES.c.state == state)
    if receiver is not None:
        query = query.where(_DELIVERIES.c.receiver == receiver)
    return query.order_by(_last_moment().desc(), by_code_point(_DELIVERIES.c.id)).limit(limit)


def _last_moment(table: FromClause = _DELIVERIES) -> ColumnElement[datetime]:
    """Return when a delivery was tried last, or was first due."""
    return func.coalesce(table.c.tried_at, table.c.next_at)
