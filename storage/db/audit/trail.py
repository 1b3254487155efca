"""The audit trail: every revision of every incident, each an entry of a sealed chain.

An entry says when it was written, who changed the incident, their note, the incident as it was
then, and a digest of each finding that the revision added to it. The trail is verified by
`storage.db.audit.verification`.

Retention removes the entries of incidents that it deletes and leaves checkpoints, and an act of
it on the chain of acts with the seal of each checkpoint. What that proves:

- An entry that is left is the one that was written, and follows what was there before it, as
  far as the chain proves anything at all (see `storage.db.audit.hash_chain`).
- Entries are missing only where an act says so. Who removes entries by hand must add an act to
  the end of that chain; that it is there, and when it was written, cannot be taken back once an
  anchor after it is kept elsewhere.
- Of what the removed entries said, nothing is proven. Who can write to the database can do what
  retention does, and so can remove what is not old enough: the acts tell which entries, and when.
- Who can write to the database can also write both chains anew from some entry on. That shows
  only against an anchor of each chain that is kept elsewhere: `audit verify --since`.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from storage.db import tables
from storage.db.audit import actions, checkpoints
from storage.db.audit.actions import ActionKind, ActionOrigin, AuditAction, AuditActor
from storage.db.audit.hash_chain import (
    ChainAnchor,
    canonical_json,
    chain_entries,
    genesis,
    last_anchor,
)
from storage.db.sql.paging import paginate
from storage.records.records import Finding, IncidentRevision
from storage.records.wire import finding_fields, incident_fields

GENESIS = genesis("longwatch audit trail")
RETENTION_ACTOR = AuditActor(who="retention", origin=ActionOrigin.RETENTION)
_AUDIT = tables.audit


def append_revisions(
    connection: Connection, revisions: Iterable[IncidentRevision], findings: Mapping[str, Finding]
) -> ChainAnchor | None:
    """Write revisions at the end of the trail, in a transaction that keeps other writers out.

    `findings` are those that the transaction wrote, by their ids. Return the last new entry.
    """
    each = list(revisions)
    rows: list[dict[str, Any]] = [
        {
            "number": link.number,
            "incident_id": str(revision.incident.id),
            "revision": revision.incident.revision,
            "entry": link.entry,
            "digest": link.digest,
        }
        for revision, link in zip(
            each, chain_entries(trail_anchor(connection), _fields(each, findings)), strict=True
        )
    ]
    if not rows:
        return None
    connection.execute(insert(_AUDIT), rows)
    return ChainAnchor(number=rows[-1]["number"], digest=rows[-1]["digest"])


def incident_entries(connection: Connection, incident_id: str) -> list[dict[str, Any]]:
    """Return the entries about an incident, oldest first."""
    query = select(_AUDIT.c.entry).where(_AUDIT.c.incident_id == incident_id)
    return [json.loads(row.entry) for row in connection.execute(query.order_by(_AUDIT.c.number))]


def remove_incidents(
    connection: Connection, incident_ids: Collection[str], reason: str = "older than it is kept"
) -> None:
    """Remove the entries of incidents that are being deleted, and leave sealed checkpoints.

    All of it in the caller's transaction, which keeps other writers out: one act however many
    incidents, so name many at once. See the head of this file for what is proven afterwards.
    """
    numbers = list[int]()
    for ids in paginate(incident_ids):
        query = select(_AUDIT.c.number).where(_AUDIT.c.incident_id.in_(ids))
        numbers += connection.execute(query).scalars()
    if not numbers:
        return
    plan = checkpoints.plan_merge(connection, numbers, GENESIS)
    action = AuditAction(
        actor=RETENTION_ACTOR,
        kind=ActionKind.TRAIL_FORGET,
        object=f"{min(numbers)}-{max(numbers)}",
        details=f"{len(numbers)} entries of {len(set(incident_ids))} incidents",
        note=reason,
        seals=tuple(each.seal for each in plan.created),
    )
    checkpoints.write_checkpoints(connection, plan, actions.append_action(connection, action))
    for ids in paginate(incident_ids):
        connection.execute(delete(_AUDIT).where(_AUDIT.c.incident_id.in_(ids)))


def finding_digest(finding: Finding) -> str:
    """Return the digest of a finding that entries hold."""
    return sha256(canonical_json(finding_fields(finding)).encode()).hexdigest()


def trail_anchor(connection: Connection) -> ChainAnchor:
    """Return the last entry, also where retention has removed it."""
    found = last_anchor(connection, _AUDIT), checkpoints.last_removed_anchor(connection)
    return max((each for each in found if each), key=lambda each: each.number, default=GENESIS)


def _fields(
    revisions: Iterable[IncidentRevision], findings: Mapping[str, Finding]
) -> Iterable[dict[str, Any]]:
    written_at, sealed = datetime.now(UTC).isoformat(), set[tuple[str, str]]()
    for revision in revisions:
        incident = revision.incident
        added = [
            id
            for id in incident.evidence
            if id in findings and (str(incident.id), id) not in sealed
        ]
        sealed |= {(str(incident.id), id) for id in added}
        fields = {
            "written_at": written_at,
            "who": revision.who,
            "note": revision.note,
            "incident": incident_fields(incident),
        }
        digests = {id: finding_digest(findings[id]) for id in added}
        yield fields | ({"findings": digests} if digests else {})
