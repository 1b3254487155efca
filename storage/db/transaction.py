"""One transaction of the database: a finding and all that follows from it."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, fields
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, and_, select, update

from storage.clock import CurrentTime
from storage.db import tables
from storage.db.audit import trail
from storage.db.audit.hash_chain import ChainAnchor
from storage.db.rows import newest_incidents
from storage.db.rows.coverage import CoverageRows
from storage.db.rows.deliveries import DeliveryRows
from storage.db.rows.evidence import EvidenceRows
from storage.db.rows.findings import reference_findings
from storage.db.rows.notifications import NotificationRows
from storage.db.rows.row_mapping import incident_from_row
from storage.db.sql.upsert import dialect_insert
from storage.errors import OffsetMoved
from storage.records.records import Finding, Incident, IncidentRevision

_FINDING = [field.name for field in fields(Finding)]


class PendingWork(StrEnum):
    """What a transaction leaves to other threads to do."""

    DISPATCH = "route"
    DELIVER = "post"
    TAKE_STILLS = "take stills"
    PUBLISH = "publish"


class Transaction:
    """One open transaction: all of it is kept, or nothing.

    What it `leaves` to do is announced once it is committed.
    """

    def __init__(self, connection: Connection) -> None:
        self.pending_work: set[PendingWork] = set()
        self.advanced_offsets = dict[tuple[str, str], int]()
        """The positions of readers in topics that it moves."""
        self.audit_anchor: ChainAnchor | None = None
        """The last entry of the audit trail that it writes."""
        self._connection = connection
        self.coverage = CoverageRows(connection)
        self.deliveries = DeliveryRows(connection)
        self.evidence = EvidenceRows(connection)
        self.notifications = NotificationRows(connection)
        self._new_findings = dict[str, Finding]()

    @property
    def connection(self) -> Connection:
        """Return the open transaction itself, for what other files of storage keep in it."""
        return self._connection

    def insert_findings(self, findings: Sequence[Finding]) -> list[Finding]:
        """Write findings once; return those that are new, in order."""
        first = dict[str, Finding]()
        for finding in findings:
            first.setdefault(finding.id, finding)
        if not first:
            return []
        statement = (
            dialect_insert(self._connection, tables.findings)
            .on_conflict_do_nothing()
            .returning(tables.findings.c.id)
        )
        # What `asdict` does, ten times as fast.
        rows = [
            {"id": id} | {name: getattr(finding, name) for name in _FINDING}
            for id, finding in first.items()
        ]
        new = set(self._connection.execute(statement, rows).scalars())
        found = {id: finding for id, finding in first.items() if id in new}
        self._new_findings |= found
        return list(found.values())

    def latest_incidents(
        self, cameras: Collection[str], current_time: CurrentTime | None = None
    ) -> dict[tuple[str, str, str], Incident]:
        """Return the newest incident of every rule on these cameras: (camera, rule, version).

        One that is live is the newest. With `present`, one that began ahead of it and is closed
        hides no other.
        """
        if not cameras:
            return {}
        latest = None if current_time is None else current_time.now + current_time.tolerance
        found = map(
            incident_from_row, newest_incidents.newest_incidents(self._connection, cameras, latest)
        )
        return {(each.camera, each.rule, each.rule_version): each for each in found}

    def incident(self, id: UUID) -> Incident:
        """Return an incident, which has to be there."""
        found = self.find_incident(id)
        if found is None:
            raise LookupError(f"incident {id} is gone")
        return found

    def find_incident(self, id: UUID) -> Incident | None:
        """Return an incident; None where it is gone, as after a failover that lost commits."""
        query = select(tables.incidents).where(tables.incidents.c.id == str(id))
        row = self._connection.execute(query).one_or_none()
        return None if row is None else incident_from_row(row)

    def save_revisions(self, revisions: Sequence[IncidentRevision]) -> None:
        """Write revisions that follow the stored ones, and an entry of the trail for each.

        Several of one incident may come at once, in order. Raises ValueError where the first
        does not follow what is stored. Call it through `alerts.incidents.changes`, which also
        appends them to the log.
        """
        changed = _final_incidents(revisions)
        reference_findings(
            self._connection, [each.evidence for each in self._newly_closed(changed)]
        )
        # What ended first: of one rule and camera one incident at a time may be live.
        for before, incident in changed:
            if before > 0:
                self._update_incident(before, incident)
        new = [_incident_row(incident) for before, incident in changed if before == 0]
        if new:
            self._connection.execute(dialect_insert(self._connection, tables.incidents), new)
        self.audit_anchor = (
            trail.append_revisions(self._connection, revisions, self._new_findings)
            or self.audit_anchor
        )

    def _newly_closed(self, changed: Sequence[tuple[int, Incident]]) -> list[Incident]:
        """Return the incidents that are closed now and were not before."""
        closed = {str(each.id): each for _, each in changed if each.closed_at is not None}
        if not closed:
            return []
        table = tables.incidents
        before = select(table.c.id).where(table.c.id.in_(closed), table.c.closed_at.is_not(None))
        known = set(self._connection.execute(before).scalars())
        return [each for id, each in closed.items() if id not in known]

    def _update_incident(self, before: int, incident: Incident) -> None:
        table = tables.incidents
        stored = and_(table.c.id == str(incident.id), table.c.revision == before)
        statement = update(table).where(stored).values(_incident_row(incident))
        if self._connection.execute(statement).rowcount != 1:
            raise ValueError(f"incident {incident.id} is not at revision {before}")

    def advance_offset(self, group: str, topic: str, expected: int, offset: int) -> None:
        """Move a reader from `expected` to `position`; PositionMoved when it is elsewhere."""
        self._write_offset(group, topic, expected, {"next": offset})

    def switch_log(self, group: str, topic: str, expected: int, offset: int, identity: str) -> None:
        """Move a reader from `expected` to `position` in the log with this identity."""
        self._write_offset(group, topic, expected, {"next": offset, "log": identity})

    def _write_offset(self, group: str, topic: str, expected: int, values: dict[str, Any]) -> None:
        table = tables.positions
        start = dialect_insert(self._connection, table).values(reader=group, topic=topic, next=0)
        self._connection.execute(start.on_conflict_do_nothing())
        is_expected = and_(
            table.c.reader == group, table.c.topic == topic, table.c.next == expected
        )
        moved = self._connection.execute(update(table).where(is_expected).values(values))
        if moved.rowcount != 1:
            raise OffsetMoved(group, topic, expected)
        self.advanced_offsets[group, topic] = values["next"]


def _incident_row(incident: Incident) -> dict[str, Any]:
    return asdict(incident) | {"id": str(incident.id), "evidence": list(incident.evidence)}


def _final_incidents(revisions: Sequence[IncidentRevision]) -> list[tuple[int, Incident]]:
    """Return each incident as it stands last, and the number of its revision before the first."""
    first, last = dict[str, int](), dict[str, Incident]()
    for revision in revisions:
        name = str(revision.incident.id)
        first.setdefault(name, revision.incident.revision - 1)
        last[name] = revision.incident
    return [(first[name], incident) for name, incident in last.items()]
