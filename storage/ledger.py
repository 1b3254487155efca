"""One transaction of the database: a finding and all that follows from it."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, fields
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, and_, select, update

from storage import audit, places, tables
from storage.chain import Anchor
from storage.coverage import CoverageRows
from storage.deliveries import DeliveryRows
from storage.errors import PositionMoved
from storage.evidence import EvidenceRows
from storage.findings import keep_findings
from storage.insert import insert
from storage.instants import Present
from storage.records import Finding, Incident, Revision
from storage.routing import RoutingRows
from storage.rows import incident_of

_FINDING = [field.name for field in fields(Finding)]


class Work(StrEnum):
    """What a transaction leaves to other threads to do."""

    ROUTE = "route"
    POST = "post"
    TAKE_STILLS = "take stills"
    PUBLISH = "publish"


class Ledger:
    """One open transaction: all of it is kept, or nothing.

    What it `leaves` to do is announced once it is committed.
    """

    def __init__(self, connection: Connection) -> None:
        self.leaves: set[Work] = set()
        self.moved = dict[tuple[str, str], int]()
        """The positions of readers in topics that it moves."""
        self.trail: Anchor | None = None
        """The last entry of the audit trail that it writes."""
        self._connection = connection
        self.coverage = CoverageRows(connection)
        self.deliveries = DeliveryRows(connection)
        self.evidence = EvidenceRows(connection)
        self.routing = RoutingRows(connection)
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
        writing = (
            insert(self._connection, tables.findings)
            .on_conflict_do_nothing()
            .returning(tables.findings.c.id)
        )
        # What `asdict` does, ten times as fast.
        rows = [
            {"id": id} | {name: getattr(finding, name) for name in _FINDING}
            for id, finding in first.items()
        ]
        new = set(self._connection.execute(writing, rows).scalars())
        found = {id: finding for id, finding in first.items() if id in new}
        self._new_findings |= found
        return list(found.values())

    def latest_incidents(
        self, cameras: Collection[str], present: Present | None = None
    ) -> dict[tuple[str, str, str], Incident]:
        """Return the newest incident of every rule on these cameras: (camera, rule, version).

        One that is live is the newest. With `present`, one that began ahead of it and is closed
        hides no other.
        """
        if not cameras:
            return {}
        latest = None if present is None else present.now + present.tolerance
        found = map(incident_of, places.newest(self._connection, cameras, latest))
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
        return None if row is None else incident_of(row)

    def save(self, revisions: Sequence[Revision]) -> None:
        """Write revisions that follow the stored ones, and an entry of the trail for each.

        Several of one incident may come at once, in order. Raises ValueError where the first
        does not follow what is stored. Call it through `alerts.publish`, which also puts them
        on the log.
        """
        changed = _last_of(revisions)
        keep_findings(self._connection, [each.evidence for each in self._closing(changed)])
        # What ended first: of one rule and camera one incident at a time may be live.
        for before, incident in changed:
            if before > 0:
                self._update_incident(before, incident)
        new = [_incident_row(incident) for before, incident in changed if before == 0]
        if new:
            self._connection.execute(insert(self._connection, tables.incidents), new)
        self.trail = audit.append(self._connection, revisions, self._new_findings) or self.trail

    def _closing(self, changed: Sequence[tuple[int, Incident]]) -> list[Incident]:
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
        changing = update(table).where(stored).values(_incident_row(incident))
        if self._connection.execute(changing).rowcount != 1:
            raise ValueError(f"incident {incident.id} is not at revision {before}")

    def advance(self, reader: str, topic: str, expected: int, position: int) -> None:
        """Move a reader from `expected` to `position`; PositionMoved when it is elsewhere."""
        self._move(reader, topic, expected, {"next": position})

    def enter_log(
        self, reader: str, topic: str, expected: int, position: int, identity: str
    ) -> None:
        """Move a reader from `expected` to `position` in the log with this identity."""
        self._move(reader, topic, expected, {"next": position, "log": identity})

    def _move(self, reader: str, topic: str, expected: int, values: dict[str, Any]) -> None:
        table = tables.positions
        start = insert(self._connection, table).values(reader=reader, topic=topic, next=0)
        self._connection.execute(start.on_conflict_do_nothing())
        stands = and_(table.c.reader == reader, table.c.topic == topic, table.c.next == expected)
        moved = self._connection.execute(update(table).where(stands).values(values))
        if moved.rowcount != 1:
            raise PositionMoved(reader, topic, expected)
        self.moved[reader, topic] = values["next"]


def _incident_row(incident: Incident) -> dict[str, Any]:
    return asdict(incident) | {"id": str(incident.id), "evidence": list(incident.evidence)}


def _last_of(revisions: Sequence[Revision]) -> list[tuple[int, Incident]]:
    """Return each incident as it stands last, and the number of its revision before the first."""
    first, last = dict[str, int](), dict[str, Incident]()
    for revision in revisions:
        name = str(revision.incident.id)
        first.setdefault(name, revision.incident.revision - 1)
        last[name] = revision.incident
    return [(first[name], incident) for name, incident in last.items()]
