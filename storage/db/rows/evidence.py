"""The stills behind incidents, as rows: what is to be taken, what was kept, what is missing.

A row without `settled_at` is work to do: stills to take or, where the incident was dismissed,
to remove. A partial index holds those rows alone, so that finding them costs the same however
many incidents there were.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, and_, func, or_, select, update

from storage.db import tables
from storage.db.sql.upsert import dialect_insert
from storage.records.records import EvidenceMoment, EvidenceStill

_EVIDENCE, _INCIDENTS = tables.evidence, tables.incidents


class EvidenceRows:
    """The stills behind incidents in one open transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def schedule(self, incident_ids: Collection[UUID]) -> None:
        """Write that the stills of all moments are to be taken, of incidents without any yet."""
        rows = [
            {"incident_id": str(id), "moment": each}
            for id in incident_ids
            for each in EvidenceMoment
        ]
        if rows:
            statement = dialect_insert(self._connection, _EVIDENCE).on_conflict_do_nothing()
            self._connection.execute(statement, rows)

    def schedule_removal(self, incident_ids: Collection[UUID]) -> None:
        """Write that what was taken, or is to be, is to be removed."""
        ids = [str(id) for id in incident_ids]
        if ids:
            statement = update(_EVIDENCE).where(_EVIDENCE.c.incident_id.in_(ids))
            self._connection.execute(statement.values(settled_at=None))

    def record_stills(
        self, incident_id: UUID, stills: Sequence[EvidenceStill], now: datetime
    ) -> bool:
        """Write stills that were to be taken; return whether any of them still were."""
        found = [self._record_still(incident_id, each, now) for each in stills]
        return any(found)

    def record_removed(self, incident_id: UUID, reason: str, now: datetime) -> None:
        """Write that the stills behind an incident are gone; their digests stay."""
        statement = update(_EVIDENCE).where(_EVIDENCE.c.incident_id == str(incident_id))
        missing = func.coalesce(_EVIDENCE.c.missing, reason)
        self._connection.execute(statement.values(missing=missing, settled_at=now))

    def _record_still(self, incident_id: UUID, still: EvidenceStill, now: datetime) -> bool:
        condition = and_(
            _EVIDENCE.c.incident_id == str(incident_id),
            _EVIDENCE.c.moment == still.moment,
            _EVIDENCE.c.settled_at.is_(None),
        )
        statement = update(_EVIDENCE).where(condition).values(asdict(still) | {"settled_at": now})
        return self._connection.execute(statement).rowcount == 1


def unsettled_query(moment: EvidenceMoment, limit: int | None = None) -> Select[Any]:
    """Return the query for incidents whose stills of a moment are work to do, oldest first."""
    work = and_(_EVIDENCE.c.settled_at.is_(None), _EVIDENCE.c.moment == moment)
    query = select(_INCIDENTS).join(_EVIDENCE, _EVIDENCE.c.incident_id == _INCIDENTS.c.id)
    return query.where(work).order_by(_INCIDENTS.c.first_seen_at).limit(limit)


def stored_before_query(before: datetime, limit: int) -> Select[Any]:
    """Return the query for incidents closed before an instant that have stills, oldest first.

    What is kept was settled before: that finds them without looking at all closed incidents.
    """
    is_stored = and_(_EVIDENCE.c.digest.is_not(None), _EVIDENCE.c.missing.is_(None))
    oldest = (
        select(_EVIDENCE.c.incident_id)
        .join(_INCIDENTS, _INCIDENTS.c.id == _EVIDENCE.c.incident_id)
        .where(is_stored, _EVIDENCE.c.settled_at < before, _INCIDENTS.c.closed_at < before)
        .order_by(_EVIDENCE.c.settled_at)
        .limit(limit)
    )
    return select(_INCIDENTS).where(_INCIDENTS.c.id.in_(oldest))


def settled_query(incident_id: UUID) -> Select[Any]:
    """Return the query for the stills of an incident that are kept, or known to be missing."""
    known = or_(_EVIDENCE.c.digest.is_not(None), _EVIDENCE.c.missing.is_not(None))
    return select(_EVIDENCE).where(_EVIDENCE.c.incident_id == str(incident_id), known)
