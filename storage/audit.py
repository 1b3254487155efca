"""The audit trail: every revision of every incident, each entry sealed by a chain of digests.

An entry is canonical JSON: its number, when it was written, who changed the incident, their
note, and the incident as it stood then. Its digest is SHA-256 of the digest before it and the
entry, so that none can be changed, taken out or put in between without breaking all that
follow. That the last ones were cut off shows only against a digest that was kept elsewhere.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, select

from storage import tables
from storage.records import Incident, Revision
from storage.rows import incident_of
from storage.wire import incident_fields

BEGINNING = sha256(b"longwatch audit trail").hexdigest()
PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What verifying found: so many entries hold, up to `digest`; `problem` says what does not."""

    entries: int
    digest: str
    problem: str | None = None


def seal(digest: str, entry: str) -> str:
    """Return the digest of an entry behind the digest before it."""
    return sha256(f"{digest}\n{entry}".encode()).hexdigest()


def append(connection: Connection, revisions: Iterable[Revision]) -> None:
    """Write revisions at the end of the trail, in a transaction that keeps other writers out."""
    table = tables.audit
    last = select(table.c.number, table.c.digest).order_by(table.c.number.desc()).limit(1)
    row = connection.execute(last).one_or_none()
    before, digest = (0, BEGINNING) if row is None else (row.number, row.digest)
    written = datetime.now(UTC)
    rows = []
    for number, revision in enumerate(revisions, start=before + 1):
        entry = _entry(number, written, revision)
        digest = seal(digest, entry)
        rows.append(
            {
                "number": number,
                "incident_id": str(revision.incident.id),
                "revision": revision.incident.revision,
                "entry": entry,
                "digest": digest,
            }
        )
    if rows:
        connection.execute(insert(table), rows)


def entries(connection: Connection, incident_id: str) -> list[dict[str, Any]]:
    """Return the entries about an incident, oldest first."""
    table = tables.audit
    query = select(table.c.entry).where(table.c.incident_id == incident_id)
    return [json.loads(row.entry) for row in connection.execute(query.order_by(table.c.number))]


def verify(connection: Connection, number: int = 0, digest: str | None = None) -> Verdict:
    """Reckon the whole chain again, and hold the incidents against their last entries.

    With the `number` and `digest` of an earlier verdict that was kept elsewhere, what it
    covered must still be there.
    """
    held = Verdict(entries=0, digest=BEGINNING)
    latest = dict[str, str]()
    for row in _pages(connection, select(tables.audit).order_by(tables.audit.c.number)):
        sealed = seal(held.digest, row.entry)
        problem = _problem(row, held.entries + 1, sealed)
        if problem is None and row.number == number and digest != sealed:
            problem = f"entry {number} is not the one that was verified before"
        if problem is not None:
            return Verdict(entries=held.entries, digest=held.digest, problem=problem)
        held = Verdict(entries=row.number, digest=sealed)
        latest[row.incident_id] = row.entry
    if held.entries < number:
        missing = f"the entries after {held.entries} are gone: {number} were verified before"
        return Verdict(entries=held.entries, digest=held.digest, problem=missing)
    differs = _first_that_differs(connection, latest)
    return Verdict(entries=held.entries, digest=held.digest, problem=differs)


def _entry(number: int, written: datetime, revision: Revision) -> str:
    fields = {
        "number": number,
        "written_at": written.isoformat(),
        "who": revision.who,
        "note": revision.note,
        "incident": incident_fields(revision.incident),
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _pages(connection: Connection, query: Select[Any]) -> Iterator[Row[Any]]:
    """Yield rows of which few are held at a time."""
    with connection.execute(query.execution_options(yield_per=PAGE)) as rows:
        yield from rows


def _problem(row: Row[Any], number: int, sealed: str) -> str | None:
    if row.number != number:
        return f"entry {number} is missing"
    if row.digest != sealed:
        return f"entry {number} was changed, or one before it"
    fields = json.loads(row.entry)
    told = (fields["number"], fields["incident"]["id"], fields["incident"]["revision"])
    if told != (row.number, row.incident_id, row.revision):
        return f"entry {number} stands under another incident than it tells of"
    return None


def _first_that_differs(connection: Connection, latest: dict[str, str]) -> str | None:
    for row in _pages(connection, select(tables.incidents)):
        entry = latest.pop(row.id, None)
        if entry is not None and json.loads(entry)["incident"] != _as_told(incident_of(row)):
            return f"incident {row.id} is not as its last entry tells"
    return f"incident {min(latest)} is gone" if latest else None


def _as_told(incident: Incident) -> dict[str, Any]:
    return dict(json.loads(json.dumps(incident_fields(incident))))
