"""What verifying the audit trail and the acts finds. The storage is read in pages."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from typing import Any

from sqlalchemy import Connection, Row, func, select

from storage import acts, audit, tables
from storage.acts import ActKind
from storage.audit import digest_of
from storage.chain import Anchor, Checkpoint, Link, Walk, pages, rows
from storage.findings import findings_by_id
from storage.records import Incident
from storage.rows import incident_of
from storage.wire import incident_fields

_AUDIT, _ACTS, _CHECKPOINTS = tables.audit, tables.acts, tables.checkpoints
_INCIDENTS = tables.incidents


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Up to where the trail and the acts hold, and the first `problem`, if there is one.

    `forgotten` entries of the trail were removed by retention. `lost` says why an anchor could
    not be compared.
    """

    trail: Anchor
    acts: Anchor
    forgotten: int
    lost: str | None = None
    problem: str | None = None


def verify(
    connection: Connection, trail: Anchor | None = None, acts_: Anchor | None = None
) -> Verdict:
    """Verify both chains, and hold incidents and findings against the entries about them.

    With anchors of an earlier verdict that were kept elsewhere, what they cover must still be
    there.
    """
    verdict = Verdict(trail=audit.BEGINNING, acts=acts.BEGINNING, forgotten=_forgotten(connection))
    walk = Walk(acts.BEGINNING, acts_)
    problem = _follow_acts(connection, walk) or walk.end()
    verdict = replace(verdict, acts=walk.held)
    if problem is not None:
        return replace(verdict, problem=f"acts: {problem}")
    walk = Walk(audit.BEGINNING, trail)
    problem = _follow_trail(connection, walk) or walk.end() or _first_that_differs(connection)
    return replace(verdict, trail=walk.held, lost=_lost(walk, trail), problem=problem)


def _forgotten(connection: Connection) -> int:
    numbers = func.sum(_CHECKPOINTS.c.last - _CHECKPOINTS.c.first + 1)
    return int(connection.execute(select(numbers)).scalar() or 0)


def _lost(walk: Walk, anchor: Anchor | None) -> str | None:
    if walk.lost is None or anchor is None:
        return None
    run = f"entries {walk.lost.first} to {walk.lost.last}"
    return f"entry {anchor.number} was removed by retention with {run}: act {walk.lost.act}"


def _follow_acts(connection: Connection, walk: Walk) -> str | None:
    """Go over the acts; every checkpoint must be sealed by the act that it names."""
    sealed = 0
    for page in pages(_links(connection, _ACTS)):
        for link in page:
            problem = walk.step(link)
            if problem is not None:
                return problem
        try:
            entries = [acts.entry_of(link.entry) for link in page]
        except (ValueError, KeyError, TypeError):
            return f"an entry from {page[0].number} to {page[-1].number} is not an act"
        found = _checkpoints_of(connection, entries)
        for entry, each in found:
            if each.seal not in entry.act.seals:
                return f"the checkpoint of {each.first} to {each.last} is not that of its act"
        sealed += len(found)
    count = connection.execute(select(func.count()).select_from(_CHECKPOINTS)).scalar_one()
    return None if count == sealed else f"{count - sealed} checkpoints are sealed by no act"


def _checkpoints_of(
    connection: Connection, entries: Iterable[acts.ActEntry]
) -> list[tuple[acts.ActEntry, Checkpoint]]:
    """Return the checkpoints that name one of these acts, with the act."""
    forgets = {e.number: e for e in entries if e.act.kind is ActKind.TRAIL_FORGET}
    if not forgets:
        return []
    query = select(_CHECKPOINTS).where(_CHECKPOINTS.c.act.in_(sorted(forgets)))
    return [(forgets[r.act], Checkpoint(**r._asdict())) for r in connection.execute(query)]


def _links(connection: Connection, table: Any) -> Iterator[Link]:
    query = select(table.c.number, table.c.entry, table.c.digest).order_by(table.c.number)
    return (Link(**row._asdict()) for row in rows(connection, query))


def _follow_trail(connection: Connection, walk: Walk) -> str | None:
    """Go over entries and checkpoints, and hold the findings against the entries."""
    removed = rows(connection, select(_CHECKPOINTS).order_by(_CHECKPOINTS.c.first))
    left = rows(connection, select(_AUDIT).order_by(_AUDIT.c.number))
    for page in pages(merge(left, removed, key=lambda row: int(row[0]))):
        there = list[Row[Any]]()
        for row in page:
            if "act" in row._fields:
                problem = walk.step(Checkpoint(**row._asdict()))
            else:
                there.append(row)
                problem = walk.step(Link(number=row.number, entry=row.entry, digest=row.digest))
            if problem is not None:
                return problem
        problem = _first_false(connection, there)
        if problem is not None:
            return problem
    return None


def _first_false(connection: Connection, page: Sequence[Row[Any]]) -> str | None:
    """Return the first entry of a page that is about another incident, or not about a finding."""
    sealed = list[tuple[str, str, str]]()
    for row in page:
        try:
            fields = json.loads(row.entry)
            says = fields["number"], fields["incident"]["id"], fields["incident"]["revision"]
            sealed += [(row.incident_id, *each) for each in fields.get("findings", {}).items()]
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"entry {row.number} is no entry of the trail"
        if says != (row.number, row.incident_id, row.revision):
            return f"entry {row.number} is stored under another incident than it is about"
    return _first_false_finding(connection, sealed)


def _first_false_finding(
    connection: Connection, sealed: Sequence[tuple[str, str, str]]
) -> str | None:
    """Hold findings against (incident, finding, digest); retention may have removed a finding."""
    found = findings_by_id(connection, [id for _, id, _ in sealed])
    for incident_id, id, digest in sealed:
        if id in found and digest_of(found[id]) != digest:
            return f"finding {id} is not as incident {incident_id} had it"
    return None


def _first_that_differs(connection: Connection) -> str | None:
    """Return an incident that is not as its last entry has it, or that has none, or is gone."""
    for page in pages(rows(connection, select(_INCIDENTS))):
        last = _last_entries(connection, [row.id for row in page])
        for row in page:
            entry = last.get(row.id)
            if entry is None:
                return f"incident {row.id} has no entry"
            if json.loads(entry)["incident"] != _as_json(incident_of(row)):
                return f"incident {row.id} is not as its last entry has it"
    known = select(_INCIDENTS.c.id).where(_INCIDENTS.c.id == _AUDIT.c.incident_id).exists()
    gone = connection.execute(select(_AUDIT.c.incident_id).where(~known).limit(1)).scalar()
    return None if gone is None else f"incident {gone} is gone"


def _last_entries(connection: Connection, incident_ids: Sequence[str]) -> dict[str, str]:
    last = select(func.max(_AUDIT.c.number)).where(_AUDIT.c.incident_id.in_(incident_ids))
    last = last.group_by(_AUDIT.c.incident_id)
    query = select(_AUDIT.c.incident_id, _AUDIT.c.entry).where(_AUDIT.c.number.in_(last))
    return {row.incident_id: row.entry for row in connection.execute(query)}


def _as_json(incident: Incident) -> dict[str, Any]:
    return dict(json.loads(json.dumps(incident_fields(incident))))
