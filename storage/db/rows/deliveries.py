"""Deliveries in a transaction: written, marked, and superseded by later ones.

`serial` counts the deliveries of a receiver in the order in which they were written. One is later
than another when it is a later message of the same group, or was written later and holds one of
the same incidents: a digest and the message of a group may do so. A part of a message is not
later than another part: they hold different incidents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    FromClause,
    ScalarSelect,
    Select,
    and_,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    union_all,
    update,
)

from storage.db import tables
from storage.db.rows.row_mapping import DELIVERY_COLUMNS
from storage.db.sql.collation import by_code_point
from storage.db.sql.upsert import dialect_insert
from storage.records.deliveries import Delivery, DeliveryState

_DELIVERIES, _DELIVERY_INCIDENTS, _NOTICES = (
    tables.deliveries,
    tables.delivery_incidents,
    tables.notices,
)
_GROUPS, _SERIALS = tables.groups, tables.serials
WAITING, SUPERSEDED = "waiting", "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDelivery:
    """A delivery to write, what it carries, and the revisions of the incidents it holds."""

    delivery: Delivery
    body: bytes
    incidents: Mapping[UUID, int]


class DeliveryRows:
    """The deliveries of one open transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, delivery: Delivery, body: bytes, incidents: Mapping[UUID, int]) -> None:
        """Write a delivery and which revisions of which incidents it holds; see `add_all`."""
        self.add_all([NewDelivery(delivery=delivery, body=body, incidents=incidents)])

    def add_all(self, deliveries: Sequence[NewDelivery]) -> None:
        """Write the parts of a message; earlier deliveries that have failed once are superseded."""
        for new in deliveries:
            self._insert(new)
        failed = {id for new in deliveries for id in self._failed_before(new.delivery)}
        for id in sorted(failed):
            self._supersede(id)

    def _insert(self, new: NewDelivery) -> None:
        delivery = new.delivery
        fields = asdict(delivery) | {"id": str(delivery.id), "group_id": str(delivery.group_id)}
        fields |= {"body": new.body, "serial": self._last_serial(delivery.receiver) + 1}
        self._connection.execute(dialect_insert(self._connection, _DELIVERIES).values(fields))
        rows = [
            {"delivery_id": str(delivery.id), "incident_id": str(id), "revision": revision}
            for id, revision in new.incidents.items()
        ]
        if rows:
            self._connection.execute(dialect_insert(self._connection, _DELIVERY_INCIDENTS), rows)

    def _failed_before(self, delivery: Delivery) -> Sequence[str]:
        """Return the ids of deliveries that have failed and that this one is later than."""
        later = _DELIVERIES.alias()
        failed = select(_DELIVERIES.c.id).where(
            later.c.id == str(delivery.id),
            _is_later(later, _DELIVERIES),
            _DELIVERIES.c.receiver == delivery.receiver,
            is_waiting(),
            _DELIVERIES.c.attempts > 0,
        )
        return self._connection.execute(failed).scalars().all()

    def record_outcome(self, delivery: Delivery) -> None:
        """Write the outcome of a delivery that was waiting.

        When it failed and a later one is there, it is superseded.
        """
        statement = update(_DELIVERIES).where(_DELIVERIES.c.id == str(delivery.id))
        if delivery.state is not DeliveryState.DELIVERED:
            statement = statement.where(_DELIVERIES.c.state == DeliveryState.WAITING)
        statement = statement.values(
            state=delivery.state,
            attempts=delivery.attempts,
            next_at=delivery.next_at,
            reason=delivery.reason,
            tried_at=delivery.tried_at,
        )
        written = self._connection.execute(statement).rowcount == 1
        if written and delivery.state is DeliveryState.WAITING and self._has_later(delivery):
            self._supersede(str(delivery.id))

    def delete_ended(self, group_id: UUID, number: int) -> None:
        """Delete the deliveries of a group that have ended, but for this number: heartbeats."""
        ended = and_(
            _DELIVERIES.c.group_id == str(group_id),
            _DELIVERIES.c.number < number,
            _DELIVERIES.c.state != DeliveryState.WAITING,
        )
        self._connection.execute(delete(_DELIVERIES).where(ended))

    def has_waiting(self, group_id: UUID) -> bool:
        """Return whether a delivery of a group waits."""
        conditions = (_DELIVERIES.c.group_id == str(group_id), _DELIVERIES.c.state == WAITING)
        return bool(self._connection.execute(select(exists().where(*conditions))).scalar())

    def _last_serial(self, receiver: str) -> int:
        """Return the last serial of a receiver, be its delivery deleted or not."""
        newest = select(func.max(_DELIVERIES.c.serial)).where(_DELIVERIES.c.receiver == receiver)
        deleted = select(_SERIALS.c.serial).where(_SERIALS.c.receiver == receiver)
        query = select(newest.scalar_subquery(), deleted.scalar_subquery())
        return max(serial or 0 for serial in self._connection.execute(query).one())

    def _has_later(self, delivery: Delivery) -> bool:
        return self._connection.execute(_later_delivery_query(str(delivery.id))).first() is not None

    def _supersede(self, id: str) -> None:
        """End a delivery; a later one that holds an incident tells it, else it waits again.

        Nobody was notified of the earlier state of an incident that has changed since.
        """
        end_delivery = update(_DELIVERIES).where(_DELIVERIES.c.id == id)
        self._connection.execute(end_delivery.values(state=DeliveryState.SUPERSEDED))
        outdated = and_(_NOTICES.c.delivery_id == id, ~_NOTICES.c.is_current)
        supersede_outdated = update(_NOTICES).where(outdated)
        self._connection.execute(supersede_outdated.values(state=SUPERSEDED, delivery_id=None))
        current = and_(_NOTICES.c.delivery_id == id, _NOTICES.c.is_current)
        rows = self._connection.execute(select(_NOTICES.c.group_id).where(current)).all()
        later = _newest_later_delivery(id)
        self._connection.execute(
            update(_NOTICES).where(current, later.is_not(None)).values(delivery_id=later)
        )
        wait_again = update(_NOTICES).where(current)
        self._connection.execute(wait_again.values(state=WAITING, delivery_id=None))
        groups = sorted({row.group_id for row in rows})
        if groups:
            mark_changed = update(_GROUPS).where(_GROUPS.c.id.in_(groups))
            self._connection.execute(mark_changed.values(has_news=True))


def is_waiting(table: FromClause = _DELIVERIES) -> ColumnElement[bool]:
    """Return the condition that a delivery waits, as the indexes of those that wait have it."""
    return table.c.state == literal_column("'waiting'")


def is_due(now: datetime) -> ColumnElement[bool]:
    """Return the condition that a waiting delivery is due, so never tried or tried long enough ago.

    One that was tried ahead of our clock is due: the clock was set back since.
    """
    tried_ahead = _DELIVERIES.c.tried_at > now
    return or_(_DELIVERIES.c.attempts == 0, _DELIVERIES.c.next_at <= now, tried_ahead)


def next_delivery_query(receiver: str, now: datetime) -> Select[Any]:
    """Return the query for the waiting delivery to a receiver whose turn it is.

    Lower priorities go first, and then what was written first. One never tried is due at once;
    none has its turn before those it is later than have ended, so that revision n+1 of an
    incident is not sent before n succeeded or was superseded.
    """
    earlier = _DELIVERIES.alias()
    earlier_waiting = (earlier.c.receiver == receiver, is_waiting(earlier))
    blocked = (
        exists().where(*earlier_waiting, _is_later(_DELIVERIES, earlier)).correlate(_DELIVERIES)
    )
    query = select(*DELIVERY_COLUMNS).where(
        _DELIVERIES.c.receiver == receiver,
        is_waiting(),
        is_due(now),
        ~blocked,
    )
    return query.order_by(_DELIVERIES.c.priority, _DELIVERIES.c.serial).limit(1)


def deliveries_query(incident_id: UUID | None) -> Select[Any]:
    """Return the query for the deliveries that tell of an incident, or for all."""
    query = select(*DELIVERY_COLUMNS)
    if incident_id is not None:
        delivery_ids = select(_DELIVERY_INCIDENTS.c.delivery_id).where(
            _DELIVERY_INCIDENTS.c.incident_id == str(incident_id)
        )
        query = query.where(_DELIVERIES.c.id.in_(delivery_ids))
    return query.order_by(
        _DELIVERIES.c.next_at,
        _DELIVERIES.c.number,
        _DELIVERIES.c.part,
        by_code_point(_DELIVERIES.c.id),
    )


def _is_later(later: FromClause, earlier: FromClause) -> ColumnElement[bool]:
    """Return whether one delivery is later than another."""
    mine, theirs = _DELIVERY_INCIDENTS.alias(), _DELIVERY_INCIDENTS.alias()
    shared = (
        exists()
        .where(
            mine.c.delivery_id == later.c.id,
            theirs.c.incident_id == mine.c.incident_id,
            theirs.c.delivery_id == earlier.c.id,
        )
        .correlate(later, earlier)
    )
    return and_(_follows(later, earlier), or_(_continues(later, earlier), shared))


def _follows(later: FromClause, earlier: FromClause) -> ColumnElement[bool]:
    """Return whether one delivery was written after another to the same receiver."""
    return and_(later.c.receiver == earlier.c.receiver, later.c.serial > earlier.c.serial)


def _continues(later: FromClause, earlier: FromClause) -> ColumnElement[bool]:
    """Return whether one delivery is of a later message of the same group."""
    return and_(later.c.group_id == earlier.c.group_id, later.c.number > earlier.c.number)


def _later_delivery_query(id: str) -> CompoundSelect[Any]:
    """Return the query for one delivery that is later than this one.

    It goes by the group and by the incidents: all that was written since may be long.
    """
    it, later = _DELIVERIES.alias(), _DELIVERIES.alias()
    query = select(later.c.id).where(it.c.id == id, _follows(later, it))
    mine, theirs = _DELIVERY_INCIDENTS.alias(), _DELIVERY_INCIDENTS.alias()
    shares = (
        theirs.c.delivery_id == it.c.id,
        mine.c.incident_id == theirs.c.incident_id,
        mine.c.delivery_id == later.c.id,
    )
    return union_all(query.where(_continues(later, it)), query.where(*shares)).limit(1)


def _newest_later_delivery(id: str) -> ScalarSelect[Any]:
    """Return the newest delivery after this one that holds the incident of a notice, if any."""
    this = _DELIVERIES.alias()
    serial = select(this.c.serial).where(this.c.id == id).scalar_subquery()
    query = (
        select(_DELIVERIES.c.id)
        .join(_DELIVERY_INCIDENTS, _DELIVERY_INCIDENTS.c.delivery_id == _DELIVERIES.c.id)
        .where(
            _DELIVERY_INCIDENTS.c.incident_id == _NOTICES.c.incident_id,
            _DELIVERIES.c.receiver == _NOTICES.c.receiver,
            _DELIVERIES.c.serial > serial,
            _DELIVERIES.c.state != DeliveryState.SUPERSEDED,
        )
    )
    newest = query.order_by(_DELIVERIES.c.serial.desc()).limit(1)
    return newest.correlate(_NOTICES).scalar_subquery()
