"""Findings, incidents and deliveries as they stand in the database."""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, Select, Table, func, select

from storage.db import tables
from storage.db.audit import actions, trail
from storage.db.audit.actions import (
    ActionKind,
    ActionOrigin,
    AuditAction,
    AuditActionEntry,
    AuditActor,
)
from storage.db.audit.hash_chain import ChainAnchor
from storage.db.audit.verification import AuditVerification, verify_audit
from storage.db.database import READ_ONLY_OPTION, database_location, translate_errors
from storage.db.leader_election import LeaderElector
from storage.db.lost_commits import CommitTracker, LostCommit, format_losses
from storage.db.rows import evidence
from storage.db.rows.deliveries import deliveries_query, next_delivery_query
from storage.db.rows.notifications import notification_from_row, notifications_query
from storage.db.rows.row_mapping import (
    delivery_from_row,
    finding_from_row,
    incident_from_row,
    rows_by_id_prefix,
    still_from_row,
)
from storage.db.sql.collation import by_code_point
from storage.db.transaction import PendingWork, Transaction
from storage.fair_lock import FairLock
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.notifications import Notification
from storage.records.records import (
    LIVE_STATES,
    EvidenceMoment,
    EvidenceStill,
    Finding,
    Incident,
    IncidentState,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertCounts:
    """How many rows there are, and in which states."""

    findings: int
    incidents: dict[IncidentState, int]
    deliveries: dict[DeliveryState, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOffset:
    """Where a reader goes on, and the identity of the log that this is in; None while unknown."""

    offset: int = 0
    log_identity: str | None = None


class AlertStore:
    """What alerts writes and everybody may read; safe to use from any thread and process.

    With an `elector`, what another process has taken over raises LeaseLost, and writes nothing.
    """

    def __init__(self, engine: Engine, elector: LeaderElector | None = None) -> None:
        self.pending_work = {each: threading.Event() for each in PendingWork}
        """Set when a commit of this process leaves such work; cleared by whoever does it."""
        self.rewind_count = 0
        """How often the database has lost commits of this process: what is cached is read again."""
        self._commits = CommitTracker()
        self._engine = engine
        self._elector = elector
        # SQLite polls for its lock, so a busy thread would keep the others out for ever.
        self._writer_lock = FairLock()
        self._read_engine = engine.execution_options(**{READ_ONLY_OPTION: True})

    @property
    def engine(self) -> Engine:
        """Return the engine, for other stores of the same database."""
        return self._engine

    @property
    def location(self) -> str:
        """Return where the database is, without a secret."""
        return database_location(self._engine.url)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Keep all that the block writes, or nothing; raises StorageBlocked and StorageUnfit."""
        with self._writer_lock:
            with translate_errors(self._engine), self._engine.begin() as connection:
                if self._elector is not None:
                    self._elector.check_term(connection)
                transaction = Transaction(connection)
                yield transaction
            self._commits.record(transaction.advanced_offsets, transaction.audit_anchor)
        for each in transaction.pending_work:
            self.pending_work[each].set()

    def confirm_lease(self) -> None:
        """Return where what leaves this process is its to send; raises LeaseLost where not."""
        if self._elector is not None:
            self._elector.confirm()

    @contextmanager
    def read_transaction(self) -> Iterator[Connection]:
        """Read all that the block reads as of one instant; raises StorageDown."""
        with translate_errors(self._engine), self._read_engine.begin() as connection:
            yield connection

    def handle_lost_commits(self) -> list[LostCommit]:
        """Return what this process has committed and the database has lost; usually nothing.

        Where there is any, an act says so, `rewinds` grows, and the database is taken as it is.
        """
        noted = self._commits.snapshot()
        if noted.is_empty:
            return []
        with self.read_transaction() as connection:
            losses = noted.find_lost(connection)
        if losses:
            with self.transaction() as transaction:
                actions.append_action(transaction.connection, _rewind_action(losses))
            self._commits.reset()
            self.rewind_count += 1
        return losses

    def committed_offset(self, group: str, topic: str) -> int:
        """Return where a reader goes on; 0 when it never advanced."""
        return self.stored_offsets(group).get(topic, StoredOffset()).offset

    def stored_offsets(self, group: str) -> dict[str, StoredOffset]:
        """Return where a reader goes on in each part that it has been in, and in which log."""
        table = tables.positions
        query = select(table.c.topic, table.c.next, table.c.log).where(table.c.reader == group)
        return {
            row.topic: StoredOffset(offset=row.next, log_identity=row.log)
            for row in self._rows(query)
        }

    def incidents(
        self, states: Collection[IncidentState] = tuple(IncidentState), limit: int | None = None
    ) -> list[Incident]:
        """Return incidents in these states, newest first."""
        table = tables.incidents
        order = (table.c.first_seen_at.desc(), by_code_point(table.c.id))
        query = select(table).order_by(*order).limit(limit)
        if set(states) < set(IncidentState):
            query = query.where(table.c.state.in_(states))
        if set(states) <= set(LIVE_STATES):
            query = query.where(table.c.closed_at.is_(None))
        return [incident_from_row(row) for row in self._rows(query)]

    def find_incident(self, prefix: str) -> Incident | None:
        """Return the incident whose id begins so; ValueError when more than one does."""
        table = tables.incidents
        with self.read_transaction() as connection:
            rows = rows_by_id_prefix(connection, select(table), table.c.id, prefix)
        if len(rows) > 1:
            raise ValueError(f"{prefix}: more than one incident begins so")
        return incident_from_row(rows[0]) if rows else None

    def findings(self, ids: Collection[str]) -> list[Finding]:
        """Return the findings with these ids, oldest first."""
        table = tables.findings
        order = (table.c.end, by_code_point(table.c.id))
        query = select(table).where(table.c.id.in_(ids)).order_by(*order)
        return [finding_from_row(row) for row in self._rows(query)]

    def unsettled_evidence(
        self, moment: EvidenceMoment, limit: int | None = None
    ) -> list[Incident]:
        """Return incidents whose stills of a moment are to be taken or removed, oldest first."""
        return [
            incident_from_row(row) for row in self._rows(evidence.unsettled_query(moment, limit))
        ]

    def closed_with_stills(self, before: datetime, limit: int) -> list[Incident]:
        """Return incidents that closed before an instant and of which stills are kept."""
        return [
            incident_from_row(row)
            for row in self._rows(evidence.stored_before_query(before, limit))
        ]

    def first_findings(self, incidents: Sequence[Incident]) -> dict[UUID, Finding]:
        """Return the finding that each incident began with, by its id, where one began it."""
        first = {each.id: id for each in incidents for id in each.evidence[:1]}
        found = {each.id: each for each in self.findings(set(first.values()))}
        return {id: found[finding] for id, finding in first.items() if finding in found}

    def evidence(self, incident_id: UUID) -> list[EvidenceStill]:
        """Return the stills behind an incident, as far as they are kept or known to be missing."""
        rows = self._rows(evidence.settled_query(incident_id))
        return sorted(
            map(still_from_row, rows), key=lambda kept: list(EvidenceMoment).index(kept.moment)
        )

    def audit_entries(self, incident_id: UUID) -> list[dict[str, Any]]:
        """Return the entries of the audit trail about an incident, oldest first."""
        with self.read_transaction() as connection:
            return trail.incident_entries(connection, str(incident_id))

    def verify_audit(
        self, trail_anchor: ChainAnchor | None = None, actions_anchor: ChainAnchor | None = None
    ) -> AuditVerification:
        """Verify the audit trail and the acts: see `storage.db.audit.verification.verify`."""
        with self.read_transaction() as connection:
            return verify_audit(connection, trail_anchor, actions_anchor)

    def audit_actions(self, limit: int, *, of_retention: bool = True) -> list[AuditActionEntry]:
        """Return what people did, and retention where it is wanted, the last acts first."""
        with self.read_transaction() as connection:
            return actions.newest_actions(connection, limit, of_retention=of_retention)

    def deliveries(self, incident_id: UUID | None = None) -> list[Delivery]:
        """Return the deliveries that tell of one incident, or all."""
        return [delivery_from_row(row) for row in self._rows(deliveries_query(incident_id))]

    def notifications(self, incident_id: UUID) -> list[Notification]:
        """Return what people were to hear of an incident, and why they did not."""
        return [notification_from_row(row) for row in self._rows(notifications_query(incident_id))]

    def next_delivery(self, receiver: str, now: datetime) -> Delivery | None:
        """Return the waiting delivery to a receiver whose turn it is, see `deliveries.next_of`."""
        rows = self._rows(next_delivery_query(receiver, now))
        return delivery_from_row(rows[0]) if rows else None

    def delivery_body(self, delivery: Delivery) -> bytes | None:
        """Return the bytes that a delivery carries; None once the delivery is deleted."""
        table = tables.deliveries
        rows = self._rows(select(table.c.body).where(table.c.id == str(delivery.id)))
        return bytes(rows[0].body) if rows else None

    def record_outcome(self, delivery: Delivery) -> None:
        """Write what became of a delivery, in a transaction of its own."""
        with self.transaction() as transaction:
            transaction.deliveries.record_outcome(delivery)

    def counts(self) -> AlertCounts:
        """Count findings, and incidents and deliveries by state."""
        (row,) = self._rows(select(func.count().label("all")).select_from(tables.findings))
        incidents = self._by_state(tables.incidents)
        deliveries = self._by_state(tables.deliveries)
        return AlertCounts(
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
        with self.read_transaction() as connection:
            return connection.execute(query).all()


def _rewind_action(losses: list[LostCommit]) -> AuditAction:
    return AuditAction(
        actor=AuditActor(who="alerts", origin=ActionOrigin.ALERTS),
        kind=ActionKind.DATABASE_REWIND,
        object="database",
        details=format_losses(losses),
        note="the server lost commits that it had acknowledged",
    )
