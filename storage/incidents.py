"""Findings, incidents and deliveries as they stand in the database."""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, Select, Table, func, select

from storage import acts, audit, evidence, tables
from storage.acts import Act, ActEntry, ActKind, Actor, How
from storage.chain import Anchor
from storage.commits import LastCommits, Loss, losses_text
from storage.database import READING, place_of, trouble_named
from storage.deliveries import next_of, of_incident
from storage.in_order import InOrder
from storage.leases import LeaderElector
from storage.ledger import Ledger, Work
from storage.records import (
    LIVE,
    Delivery,
    DeliveryState,
    Finding,
    Incident,
    IncidentState,
    Kept,
    Moment,
)
from storage.routing import Notice, notice_of, notices_of
from storage.rows import delivery_of, finding_of, incident_of, kept_of, rows_beginning
from storage.text_order import by_code_point
from storage.verdict import Verdict, verify


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many rows there are, and in which states."""

    findings: int
    incidents: dict[IncidentState, int]
    deliveries: dict[DeliveryState, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a reader goes on, and the identity of the log that this is in; None while unknown."""

    next: int = 0
    log: str | None = None


class IncidentStore:
    """What alerts writes and everybody may read; safe to use from any thread and process.

    With an `elector`, what another process has taken over raises LeaseLost, and writes nothing.
    """

    def __init__(self, engine: Engine, elector: LeaderElector | None = None) -> None:
        self.work = {each: threading.Event() for each in Work}
        """Set when a commit of this process leaves such work; cleared by whoever does it."""
        self.rewinds = 0
        """How often the database has lost commits of this process: what is cached is read again."""
        self._commits = LastCommits()
        self._engine = engine
        self._elector = elector
        # SQLite polls for its lock, so a busy thread would keep the others out for ever.
        self._writing = InOrder()
        self._reading = engine.execution_options(**{READING: True})

    @property
    def engine(self) -> Engine:
        """Return the engine, for other stores of the same database."""
        return self._engine

    @property
    def place(self) -> str:
        """Return where the database is, without a secret."""
        return place_of(self._engine.url)

    @contextmanager
    def transaction(self) -> Iterator[Ledger]:
        """Keep all that the block writes, or nothing; raises StorageBlocked and StorageUnfit."""
        with self._writing:
            with trouble_named(self._engine), self._engine.begin() as connection:
                if self._elector is not None:
                    self._elector.check(connection)
                ledger = Ledger(connection)
                yield ledger
            self._commits.note(ledger.moved, ledger.trail)
        for each in ledger.leaves:
            self.work[each].set()

    def confirm(self) -> None:
        """Return where what leaves this process is its to send; raises LeaseLost where not."""
        if self._elector is not None:
            self._elector.confirm()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read all that the block reads as of one instant; raises StorageDown."""
        with trouble_named(self._engine), self._reading.begin() as connection:
            yield connection

    def find_losses(self) -> list[Loss]:
        """Return what this process has committed and the database has lost; usually nothing.

        Where there is any, an act says so, `rewinds` grows, and the database is taken as it is.
        """
        noted = self._commits.noted()
        if noted.is_empty:
            return []
        with self.reading() as connection:
            losses = noted.losses(connection)
        if losses:
            with self.transaction() as ledger:
                acts.append(ledger.connection, _rewind(losses))
            self._commits.forget()
            self.rewinds += 1
        return losses

    def position(self, reader: str, topic: str) -> int:
        """Return where a reader goes on; 0 when it never advanced."""
        return self.cursors(reader).get(topic, Cursor()).next

    def cursors(self, reader: str) -> dict[str, Cursor]:
        """Return where a reader goes on in each part that it has been in, and in which log."""
        table = tables.positions
        query = select(table.c.topic, table.c.next, table.c.log).where(table.c.reader == reader)
        return {row.topic: Cursor(next=row.next, log=row.log) for row in self._rows(query)}

    def incidents(
        self, states: Collection[IncidentState] = tuple(IncidentState), limit: int | None = None
    ) -> list[Incident]:
        """Return incidents in these states, newest first."""
        table = tables.incidents
        order = (table.c.first_seen_at.desc(), by_code_point(table.c.id))
        query = select(table).order_by(*order).limit(limit)
        if set(states) < set(IncidentState):
            query = query.where(table.c.state.in_(states))
        if set(states) <= set(LIVE):
            query = query.where(table.c.closed_at.is_(None))
        return [incident_of(row) for row in self._rows(query)]

    def incident(self, prefix: str) -> Incident | None:
        """Return the incident whose id begins so; ValueError when more than one does."""
        table = tables.incidents
        with self.reading() as connection:
            rows = rows_beginning(connection, select(table), table.c.id, prefix)
        if len(rows) > 1:
            raise ValueError(f"{prefix}: more than one incident begins so")
        return incident_of(rows[0]) if rows else None

    def findings(self, ids: Collection[str]) -> list[Finding]:
        """Return the findings with these ids, oldest first."""
        table = tables.findings
        order = (table.c.end, by_code_point(table.c.id))
        query = select(table).where(table.c.id.in_(ids)).order_by(*order)
        return [finding_of(row) for row in self._rows(query)]

    def unsettled_evidence(self, moment: Moment, limit: int | None = None) -> list[Incident]:
        """Return incidents whose stills of a moment are to be taken or removed, oldest first."""
        return [incident_of(row) for row in self._rows(evidence.unsettled(moment, limit))]

    def with_stills(self, before: datetime, limit: int) -> list[Incident]:
        """Return incidents that closed before an instant and of which stills are kept."""
        return [incident_of(row) for row in self._rows(evidence.kept_before(before, limit))]

    def first_findings(self, incidents: Sequence[Incident]) -> dict[UUID, Finding]:
        """Return the finding that each incident began with, by its id, where one began it."""
        first = {each.id: id for each in incidents for id in each.evidence[:1]}
        found = {each.id: each for each in self.findings(set(first.values()))}
        return {id: found[finding] for id, finding in first.items() if finding in found}

    def evidence(self, incident_id: UUID) -> list[Kept]:
        """Return the stills behind an incident, as far as they are kept or known to be missing."""
        rows = self._rows(evidence.settled_of(incident_id))
        return sorted(map(kept_of, rows), key=lambda kept: list(Moment).index(kept.moment))

    def trail(self, incident_id: UUID) -> list[dict[str, Any]]:
        """Return the entries of the audit trail about an incident, oldest first."""
        with self.reading() as connection:
            return audit.entries(connection, str(incident_id))

    def verify(self, trail: Anchor | None = None, acts_: Anchor | None = None) -> Verdict:
        """Verify the audit trail and the acts: see `storage.verdict.verify`."""
        with self.reading() as connection:
            return verify(connection, trail, acts_)

    def acts(self, limit: int, *, of_retention: bool = True) -> list[ActEntry]:
        """Return what people did, and retention where it is wanted, the last acts first."""
        with self.reading() as connection:
            return acts.newest(connection, limit, of_retention=of_retention)

    def deliveries(self, incident_id: UUID | None = None) -> list[Delivery]:
        """Return the deliveries that tell of one incident, or all."""
        return [delivery_of(row) for row in self._rows(of_incident(incident_id))]

    def notices(self, incident_id: UUID) -> list[Notice]:
        """Return what people were to hear of an incident, and why they did not."""
        return [notice_of(row) for row in self._rows(notices_of(incident_id))]

    def next_delivery(self, receiver: str, now: datetime) -> Delivery | None:
        """Return the waiting delivery to a receiver whose turn it is, see `deliveries.next_of`."""
        rows = self._rows(next_of(receiver, now))
        return delivery_of(rows[0]) if rows else None

    def body(self, delivery: Delivery) -> bytes | None:
        """Return the bytes that a delivery carries; None once the delivery is deleted."""
        table = tables.deliveries
        rows = self._rows(select(table.c.body).where(table.c.id == str(delivery.id)))
        return bytes(rows[0].body) if rows else None

    def mark(self, delivery: Delivery) -> None:
        """Write what became of a delivery, in a transaction of its own."""
        with self.transaction() as ledger:
            ledger.deliveries.mark(delivery)

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

    def rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """Return the rows of a query, for other files of storage."""
        return self._rows(query)

    def _rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with self.reading() as connection:
            return connection.execute(query).all()


def _rewind(losses: list[Loss]) -> Act:
    return Act(
        actor=Actor(who="alerts", how=How.ALERTS),
        kind=ActKind.DATABASE_REWIND,
        object="database",
        details=losses_text(losses),
        note="the server lost commits that it had acknowledged",
    )
