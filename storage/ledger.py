"""One transaction of the database: a finding and all that follows from it."""

from dataclasses import asdict

from sqlalchemy import Connection, and_, case, exists, select, update
from sqlalchemy.dialects.sqlite import insert

from storage import tables
from storage.errors import PositionMoved
from storage.records import Delivery, DeliveryState, Finding, Incident
from storage.rows import incident_of


class Ledger:
    """One open transaction: all of it is kept, or nothing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def insert_finding(self, finding: Finding) -> bool:
        """Write a finding once; return whether it is new."""
        row = insert(tables.findings).values(id=finding.id, **asdict(finding))
        return self._connection.execute(row.on_conflict_do_nothing()).rowcount == 1

    def live_incident(self, camera: str, rule: str, rule_version: str) -> Incident | None:
        """Return the incident of a rule on a camera that is pending or open."""
        table = tables.incidents
        query = select(table).where(
            table.c.camera == camera,
            table.c.rule == rule,
            table.c.rule_version == rule_version,
            table.c.closed_at.is_(None),
        )
        row = self._connection.execute(query).one_or_none()
        return None if row is None else incident_of(row)

    def save_incident(self, incident: Incident) -> None:
        """Write the first revision of an incident, or the one after the stored revision."""
        row = asdict(incident) | {"id": str(incident.id), "evidence": list(incident.evidence)}
        if incident.revision == 1:
            self._connection.execute(insert(tables.incidents).values(row))
            return
        table = tables.incidents
        stored = and_(table.c.id == row["id"], table.c.revision == incident.revision - 1)
        if self._connection.execute(update(table).where(stored).values(row)).rowcount != 1:
            raise ValueError(f"incident {incident.id} is not at revision {incident.revision - 1}")

    def add_delivery(self, delivery: Delivery, body: bytes) -> None:
        """Write a delivery; older ones of the incident that have failed once are superseded."""
        row = asdict(delivery) | {
            "id": str(delivery.id),
            "incident_id": str(delivery.incident_id),
            "body": body,
        }
        table = tables.deliveries
        failed = and_(
            table.c.incident_id == row["incident_id"],
            table.c.receiver == delivery.receiver,
            table.c.revision < delivery.revision,
            table.c.state == DeliveryState.WAITING,
            table.c.attempts > 0,
        )
        superseded = update(table).where(failed).values(state=DeliveryState.SUPERSEDED)
        self._connection.execute(superseded)
        self._connection.execute(insert(table).values(row))

    def advance(self, reader: str, topic: str, expected: int, position: int) -> None:
        """Move a reader from `expected` to `position`; PositionMoved when it stands elsewhere."""
        table = tables.positions
        start = insert(table).values(reader=reader, topic=topic, next=0)
        self._connection.execute(start.on_conflict_do_nothing())
        stands = and_(table.c.reader == reader, table.c.topic == topic, table.c.next == expected)
        moved = self._connection.execute(update(table).where(stands).values(next=position))
        if moved.rowcount != 1:
            raise PositionMoved(reader, topic, expected)

    def mark_delivery(self, delivery: Delivery) -> None:
        """Write what became of a delivery that was waiting.

        When it failed and a newer revision of its incident is there, it is superseded.
        """
        table = tables.deliveries
        other = table.alias()
        newer = exists().where(
            other.c.incident_id == str(delivery.incident_id),
            other.c.receiver == delivery.receiver,
            other.c.revision > delivery.revision,
        )
        waiting = case((newer, DeliveryState.SUPERSEDED), else_=DeliveryState.WAITING)
        changed = update(table).where(table.c.id == str(delivery.id))
        changed = changed.values(
            state=waiting if delivery.state is DeliveryState.WAITING else delivery.state,
            attempts=delivery.attempts,
            next_at=delivery.next_at,
        )
        if delivery.state is not DeliveryState.DELIVERED:
            changed = changed.where(table.c.state == DeliveryState.WAITING)
        self._connection.execute(changed)
