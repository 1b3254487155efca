"""What verifying the audit trail and the acts finds. The storage is read in pages."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from typing import Any

from sqlalchemy import Connection, Row, Table, func, select

from storage.db import tables
from storage.db.audit import actions, trail
from storage.db.audit.actions import ActionKind
from storage.db.audit.hash_chain import ChainAnchor, ChainCheckpoint, ChainEntry, ChainVerifier
from storage.db.audit.trail import finding_digest
from storage.db.rows.findings import findings_by_id
from storage.db.rows.row_mapping import incident_from_row
from storage.db.sql.paging import paginate, stream_rows
from storage.records.wire import incident_fields

_AUDIT, _ACTS, _CHECKPOINTS = tables.audit, tables.acts, tables.checkpoints
_INCIDENTS = tables.incidents


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditVerification:
    """Up to where the trail and the acts hold, and the first `problem`, if there is one.

    `forgotten` entries of the trail were removed by retention. `lost` says why an anchor could
    not be compared.
    """

    trail: ChainAnchor
    actions: ChainAnchor
    removed: int
    removed_anchor: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class _TrailEntry:
    """A link of the trail, and what it is stored under."""

    link: ChainEntry
    incident_id: str
    revision: int

    @classmethod
    def from_row(cls, row: Row[Any]) -> "_TrailEntry":
        link = ChainEntry(number=row.number, entry=row.entry, digest=row.digest)
        return cls(link, row.incident_id, row.revision)


@dataclass(frozen=True, slots=True)
class _FindingDigest:
    """The digest of a finding behind an incident, as an entry has it."""

    incident_id: str
    finding_id: str
    digest: str


def verify_audit(
    connection: Connection,
    trail_anchor: ChainAnchor | None = None,
    actions_anchor: ChainAnchor | None = None,
) -> AuditVerification:
    """Verify both chains, and hold incidents and findings against the entries about them.

    With anchors of an earlier verdict that were kept elsewhere, what they cover must still be
    there.
    """
    verification = AuditVerification(
        trail=trail.GENESIS, actions=actions.GENESIS, removed=_count_removed(connection)
    )
    verifier = ChainVerifier(actions.GENESIS, actions_anchor)
    problem = _verify_actions(connection, verifier) or verifier.finish()
    verification = replace(verification, actions=verifier.verified)
    if problem is not None:
        return replace(verification, problem=f"acts: {problem}")
    verifier = ChainVerifier(trail.GENESIS, trail_anchor)
    problem = (
        _verify_trail(connection, verifier) or verifier.finish() or _incident_problem(connection)
    )
    return replace(
        verification,
        trail=verifier.verified,
        removed_anchor=_removed_anchor_problem(verifier, trail_anchor),
        problem=problem,
    )


def _count_removed(connection: Connection) -> int:
    numbers = func.sum(_CHECKPOINTS.c.last - _CHECKPOINTS.c.first + 1)
    return int(connection.execute(select(numbers)).scalar() or 0)


def _removed_anchor_problem(verifier: ChainVerifier, anchor: ChainAnchor | None) -> str | None:
    if verifier.covering_checkpoint is None or anchor is None:
        return None
    removed = verifier.covering_checkpoint
    run = f"entries {removed.first} to {removed.last}"
    return f"entry {anchor.number} was removed by retention with {run}: act {removed.act}"


def _verify_actions(connection: Connection, verifier: ChainVerifier) -> str | None:
    """Go over the acts; every checkpoint must be sealed by the act that it names."""
    sealed = 0
    for page in paginate(_stream_entries(connection, _ACTS)):
        for link in page:
            problem = verifier.step(link)
            if problem is not None:
                return problem
        try:
            entries = [actions.parse_action_entry(link.entry) for link in page]
        except (ValueError, KeyError, TypeError):
            return f"an entry from {page[0].number} to {page[-1].number} is not an act"
        found = _checkpoints_of(connection, entries)
        for entry, each in found:
            if each.seal not in entry.action.seals:
                return f"the checkpoint of {each.first} to {each.last} is not that of its act"
        sealed += len(found)
    count = connection.execute(select(func.count()).select_from(_CHECKPOINTS)).scalar_one()
    return None if count == sealed else f"{count - sealed} checkpoints are sealed by no act"


def _checkpoints_of(
    connection: Connection, entries: Iterable[actions.AuditActionEntry]
) -> list[tuple[actions.AuditActionEntry, ChainCheckpoint]]:
    """Return the checkpoints that name one of these acts, with the act."""
    removals = {e.number: e for e in entries if e.action.kind is ActionKind.TRAIL_FORGET}
    if not removals:
        return []
    query = select(_CHECKPOINTS).where(_CHECKPOINTS.c.act.in_(sorted(removals)))
    return [(removals[r.act], ChainCheckpoint(**r._asdict())) for r in connection.execute(query)]


def _stream_entries(connection: Connection, table: Table) -> Iterator[ChainEntry]:
    query = select(table.c.number, table.c.entry, table.c.digest).order_by(table.c.number)
    return (ChainEntry(**row._asdict()) for row in stream_rows(connection, query))


def _verify_trail(connection: Connection, verifier: ChainVerifier) -> str | None:
    """Go over entries and checkpoints, and hold the findings against the entries."""
    query = select(_CHECKPOINTS).order_by(_CHECKPOINTS.c.first)
    removed: Iterator[_TrailEntry | ChainCheckpoint] = (
        ChainCheckpoint(**row._asdict()) for row in stream_rows(connection, query)
    )
    query = select(_AUDIT).order_by(_AUDIT.c.number)
    left: Iterator[_TrailEntry | ChainCheckpoint] = (
        _TrailEntry.from_row(row) for row in stream_rows(connection, query)
    )
    for page in paginate(merge(left, removed, key=_number)):
        for each in page:
            problem = verifier.step(each.link if isinstance(each, _TrailEntry) else each)
            if problem is not None:
                return problem
        problem = _entry_problem(
            connection, [each for each in page if isinstance(each, _TrailEntry)]
        )
        if problem is not None:
            return problem
    return None


def _number(each: "_TrailEntry | ChainCheckpoint") -> int:
    return each.first if isinstance(each, ChainCheckpoint) else each.link.number


def _entry_problem(connection: Connection, page: Sequence["_TrailEntry"]) -> str | None:
    """Return what is wrong with an entry of a page that is sealed well."""
    sealed = list[_FindingDigest]()
    for each in page:
        number = each.link.number
        try:
            fields = json.loads(each.link.entry)
            stored_under = (
                fields["number"],
                fields["incident"]["id"],
                fields["incident"]["revision"],
            )
            findings = fields.get("findings", {}).items()
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"entry {number} is no entry of the trail"
        if stored_under != (number, each.incident_id, each.revision):
            return f"entry {number} is stored under another incident than it is about"
        sealed += [_FindingDigest(each.incident_id, id, digest) for id, digest in findings]
    return _finding_problem(connection, sealed)


def _finding_problem(connection: Connection, sealed: Sequence["_FindingDigest"]) -> str | None:
    """Return a finding that was changed, or that is gone though it is behind an incident."""
    found = findings_by_id(connection, [each.finding_id for each in sealed])
    missing = list[_FindingDigest]()
    for each in sealed:
        finding = found.get(each.finding_id)
        if finding is None:
            missing.append(each)
        elif finding_digest(finding) != each.digest:
            return f"finding {each.finding_id} is not as incident {each.incident_id} had it"
    evidence = _evidence_of(connection, {each.incident_id for each in missing})
    for each in missing:
        if each.finding_id in evidence.get(each.incident_id, ()):
            return f"finding {each.finding_id} behind incident {each.incident_id} is gone"
    return None


def _evidence_of(connection: Connection, incident_ids: Iterable[str]) -> dict[str, list[str]]:
    ids = sorted(incident_ids)
    if not ids:
        return {}
    query = select(_INCIDENTS.c.id, _INCIDENTS.c.evidence).where(_INCIDENTS.c.id.in_(ids))
    return {row.id: row.evidence for row in connection.execute(query)}


def _incident_problem(connection: Connection) -> str | None:
    """Return an incident that is not as its last entry has it, or that has none, or is gone."""
    for page in paginate(stream_rows(connection, select(_INCIDENTS))):
        last = _last_entries(connection, [row.id for row in page])
        for row in page:
            entry = last.get(row.id)
            if entry is None:
                return f"incident {row.id} has no entry"
            if json.loads(entry)["incident"] != incident_fields(incident_from_row(row)):
                return f"incident {row.id} is not as its last entry has it"
    known = select(_INCIDENTS.c.id).where(_INCIDENTS.c.id == _AUDIT.c.incident_id).exists()
    gone = connection.execute(select(_AUDIT.c.incident_id).where(~known).limit(1)).scalar()
    return None if gone is None else f"incident {gone} is gone"


def _last_entries(connection: Connection, incident_ids: Sequence[str]) -> dict[str, str]:
    last = select(func.max(_AUDIT.c.number)).where(_AUDIT.c.incident_id.in_(incident_ids))
    last = last.group_by(_AUDIT.c.incident_id)
    query = select(_AUDIT.c.incident_id, _AUDIT.c.entry).where(_AUDIT.c.number.in_(last))
    return {row.incident_id: row.entry for row in connection.execute(query)}
