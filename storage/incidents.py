"""Findings, incidents and deliveries as they stand in the database."""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Row, Select, Table, exists, func, or_, select

from storage import tables
from storage.database import READING, full_disk_named
from storage.ledger import Ledger
from storage.records import Delivery, DeliveryState, Finding, Incident, IncidentState
from storage.rows import DELIVERY, delivery_of, finding_of, incident_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many rows there are, and in which states."""

    findings: int
    incidents: dict[IncidentState, int]
    deliveries: dict[DeliveryState, int]


class IncidentStore:
    """What alerts writes and everybody may read; safe to use from any thread and process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # SQLite polls for its lock, so a busy thread would keep the others out for ever.
        self._writing = threading.Lock()
        self._reading = engine.execution_options(**{READING: True})

    @contextmanager
    def transaction(self) -> Iterator[Ledger]:
        """Keep all that the block writes, or nothing; StorageFull when the disk is full."""
        with self._writing, full_disk_named(self._engine), self._engine.begin() as connection:
            yield Ledger(connection)

    def position(self, reader: str, topic: str) -> int:
        """Return where a reader goes on; 0 when it never advanced."""
        table = tables.positions
        query = select(table.c.next).where(table.c.reader == reader, table.c.topic == topic)
        return sum(row.next for row in self._rows(query))

    def incidents(
        self, states: Collection[IncidentState] = tuple(IncidentState), limit: int | None = None
    ) -> list[Incident]:
        """Return incidents in these states, newest first."""
        table = tables.incidents
        query = (
            select(table)
            .where(table.c.state.in_(states))
            .order_by(table.c.first_seen_at.desc(), table.c.id)
            .limit(limit)
        )
        return [incident_of(row) for row in self._rows(query)]

    def incident(self, prefix: str) -> Incident | None:
        """Return the incident whose id begins so; ValueError when more than one does."""
        table = tables.incidents
        query = select(table).where(table.c.id.startswith(prefix, autoescape=True)).limit(2)
        rows = self._rows(query)
        if len(rows) > 1:
            raise ValueError(f"{prefix}: more than one incident begins so")
        return incident_of(rows[0]) if rows else None

    def findings(self, ids: Collection[str]) -> list[Finding]:
        """Return the findings with these ids, oldest first."""
        table = tables.findings
        query = select(table).where(table.c.id.in_(ids)).order_by(table.c.end, table.c.id)
        return [finding_of(row) for row in self._rows(query)]

    def deliveries(self, incident_id: UUID | None = None) -> list[Delivery]:
        """Return the deliveries of one incident, or of all."""
        table = tables.deliveries
        query = select(*DELIVERY).order_by(table.c.next_at, table.c.revision, table.c.id)
        if incident_id is not None:
            query = query.where(table.c.incident_id == str(incident_id))
        return [delivery_of(row) for row in self._rows(query)]

    def next_delivery(self, receiver: str, now: datetime) -> Delivery | None:
        """Return the waiting delivery to a receiver whose turn it is.

        One never tried is due at once; none has its turn before the earlier revisions of its
        incident have come to an end.
        """
        table = tables.deliveries
        earlier = table.alias()
        blocked = exists().where(
            earlier.c.incident_id == table.c.incident_id,
            earlier.c.receiver == table.c.receiver,
            earlier.c.revision < table.c.revision,
            earlier.c.state == DeliveryState.WAITING,
        )
        query = (
            select(*DELIVERY)
            .where(
                table.c.receiver == receiver,
                table.c.state == DeliveryState.WAITING,
                or_(table.c.attempts == 0, table.c.next_at <= now),
                ~blocked,
            )
            .order_by(table.c.next_at, table.c.revision, table.c.id)
            .limit(1)
        )
        rows = self._rows(query)
        return delivery_of(rows[0]) if rows else None

    def body(self, delivery: Delivery) -> bytes:
        """Return the bytes that a delivery carries."""
        table = tables.deliveries
        (row,) = self._rows(select(table.c.body).where(table.c.id == str(delivery.id)))
        return bytes(row.body)

    def mark(self, delivery: Delivery) -> None:
        """Write what became of a delivery, in a transaction of its own."""
        with self.transaction() as ledger:
            ledger.mark_delivery(delivery)

    def counts(self) -> Counts:
        """Count findings, and incidents and deliveries by state."""
        (row,) = self._rows(select(func.count().label("all")).select_from(tables.findings))
        incidents = self._by_state(tables.incidents)
        deliveries = self._by_state(tables.deliveries)
        return Counts(
            findings=row.all,
            incidents={state: incidents.get(state, 0) for state in IncidentState},
            deliveries={state: deliveries.get(state, 0) for state in DeliveryState},
        )

    def _by_state(self, table: Table) -> dict[str, int]:
        query = select(table.c.state, func.count().label("rows")).group_by(table.c.state)
        return {row.state: row.rows for row in self._rows(query)}

    def _rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with full_disk_named(self._engine), self._reading.begin() as connection:
            return connection.execute(query).all()
