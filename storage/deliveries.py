"""Deliveries in a transaction: written, marked, and superseded by later ones of their group."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, exists, or_, select, update

from storage import tables
from storage.insert import insert
from storage.records import Delivery, DeliveryState
from storage.rows import DELIVERY

_DELIVERIES, _TOLD, _NOTICES = tables.deliveries, tables.delivery_incidents, tables.notices
WAITING = "waiting"


class DeliveryRows:
    """The deliveries of one open transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, delivery: Delivery, body: bytes, incidents: Mapping[UUID, int]) -> None:
        """Write a delivery and which revisions of which incidents it tells.

        Earlier ones of its group that have failed once are superseded.
        """
        fields = asdict(delivery) | {"id": str(delivery.id), "group_id": str(delivery.group_id)}
        self._connection.execute(
            insert(self._connection, _DELIVERIES).values(fields | {"body": body})
        )
        rows = [
            {"delivery_id": str(delivery.id), "incident_id": str(id), "revision": revision}
            for id, revision in incidents.items()
        ]
        if rows:
            self._connection.execute(insert(self._connection, _TOLD), rows)
        earlier = select(_DELIVERIES.c.id).where(
            _DELIVERIES.c.group_id == str(delivery.group_id),
            _DELIVERIES.c.receiver == delivery.receiver,
            _DELIVERIES.c.number < delivery.number,
            _DELIVERIES.c.state == DeliveryState.WAITING,
            _DELIVERIES.c.attempts > 0,
        )
        for id in self._connection.execute(earlier).scalars().all():
            self._supersede(id, str(delivery.id))

    def mark(self, delivery: Delivery) -> None:
        """Write what became of a delivery that was waiting.

        When it failed and a later one of its group is there, it is superseded.
        """
        changed = update(_DELIVERIES).where(_DELIVERIES.c.id == str(delivery.id))
        if delivery.state is not DeliveryState.DELIVERED:
            changed = changed.where(_DELIVERIES.c.state == DeliveryState.WAITING)
        changed = changed.values(
            state=delivery.state,
            attempts=delivery.attempts,
            next_at=delivery.next_at,
            reason=delivery.reason,
            tried_at=delivery.tried_at,
        )
        written = self._connection.execute(changed).rowcount == 1
        later = self._later(delivery)
        if written and delivery.state is DeliveryState.WAITING and later is not None:
            self._supersede(str(delivery.id), later)

    def forget_ended(self, group_id: UUID, number: int) -> None:
        """Delete the deliveries of a group that have ended, but for this number: heartbeats."""
        ended = and_(
            _DELIVERIES.c.group_id == str(group_id),
            _DELIVERIES.c.number < number,
            _DELIVERIES.c.state != DeliveryState.WAITING,
        )
        self._connection.execute(delete(_DELIVERIES).where(ended))

    def _later(self, delivery: Delivery) -> str | None:
        query = select(_DELIVERIES.c.id).where(
            _DELIVERIES.c.group_id == str(delivery.group_id),
            _DELIVERIES.c.receiver == delivery.receiver,
            _DELIVERIES.c.number > delivery.number,
        )
        newest = query.order_by(_DELIVERIES.c.number.desc()).limit(1)
        found: str | None = self._connection.execute(newest).scalar()
        return found

    def _supersede(self, id: str, by: str) -> None:
        """End a delivery; what it told is told by the later one, or waits to be told again."""
        ending = update(_DELIVERIES).where(_DELIVERIES.c.id == id)
        self._connection.execute(ending.values(state=DeliveryState.SUPERSEDED))
        news = and_(_NOTICES.c.delivery_id == id, _NOTICES.c.is_current)
        told = exists().where(
            _TOLD.c.delivery_id == by, _TOLD.c.incident_id == _NOTICES.c.incident_id
        )
        self._connection.execute(update(_NOTICES).where(news, told).values(delivery_id=by))
        again = update(_NOTICES).where(news, ~told)
        self._connection.execute(again.values(state=WAITING, delivery_id=None))


def is_due(now: datetime) -> ColumnElement[bool]:
    """Return the condition that a waiting delivery is due, so never tried or tried long enough ago.

    One that was tried ahead of our clock is due: the clock was set back since.
    """
    tried_ahead = _DELIVERIES.c.tried_at > now
    return or_(_DELIVERIES.c.attempts == 0, _DELIVERIES.c.next_at <= now, tried_ahead)


def next_of(receiver: str, now: datetime) -> Select[Any]:
    """Return the query for the waiting delivery to a receiver whose turn it is.

    One never tried is due at once; none has its turn before the earlier ones of its group have
    come to an end.
    """
    earlier = _DELIVERIES.alias()
    blocked = exists().where(
        earlier.c.group_id == _DELIVERIES.c.group_id,
        earlier.c.receiver == _DELIVERIES.c.receiver,
        earlier.c.number < _DELIVERIES.c.number,
        earlier.c.state == DeliveryState.WAITING,
    )
    query = select(*DELIVERY).where(
        _DELIVERIES.c.receiver == receiver,
        _DELIVERIES.c.state == DeliveryState.WAITING,
        is_due(now),
        ~blocked,
    )
    return query.order_by(_DELIVERIES.c.next_at, _DELIVERIES.c.number, _DELIVERIES.c.id).limit(1)


def of_incident(incident_id: UUID | None) -> Select[Any]:
    """Return the query for the deliveries that tell of an incident, or for all."""
    query = select(*DELIVERY)
    if incident_id is not None:
        told = select(_TOLD.c.delivery_id).where(_TOLD.c.incident_id == str(incident_id))
        query = query.where(_DELIVERIES.c.id.in_(told))
    return query.order_by(_DELIVERIES.c.next_at, _DELIVERIES.c.number, _DELIVERIES.c.id)
