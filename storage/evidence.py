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

from storage import tables
from storage.insert import insert
from storage.records import Kept, Moment

_EVIDENCE, _INCIDENTS = tables.evidence, tables.incidents


class EvidenceRows:
    """The stills behind incidents in one open transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def expect(self, incident_ids: Collection[UUID]) -> None:
        """Write that the stills of all moments are to be taken, of incidents without any yet."""
        rows = [{"incident_id": str(id), "moment": each} for id in incident_ids for each in Moment]
        if rows:
            writing = insert(self._connection, _EVIDENCE).on_conflict_do_nothing()
            self._connection.execute(writing, rows)

    def discard(self, incident_ids: Collection[UUID]) -> None:
        """Write that what was taken, or is to be, is to be removed."""
        ids = [str(id) for id in incident_ids]
        if ids:
            changing = update(_EVIDENCE).where(_EVIDENCE.c.incident_id.in_(ids))
            self._connection.execute(changing.values(settled_at=None))

    def settle(self, incident_id: UUID, kept: Sequence[Kept], now: datetime) -> bool:
        """Write stills that were to be taken; return whether any of them still were."""
        found = [self._settle(incident_id, each, now) for each in kept]
        return any(found)

    def remove(self, incident_id: UUID, why: str, now: datetime) -> None:
        """Write that the stills behind an incident are gone; their digests stay."""
        changing = update(_EVIDENCE).where(_EVIDENCE.c.incident_id == str(incident_id))
        gone = func.coalesce(_EVIDENCE.c.missing, why)
        self._connection.execute(changing.values(missing=gone, settled_at=now))

    def _settle(self, incident_id: UUID, kept: Kept, now: datetime) -> bool:
        of_it = and_(
            _EVIDENCE.c.incident_id == str(incident_id),
            _EVIDENCE.c.moment == kept.moment,
            _EVIDENCE.c.settled_at.is_(None),
        )
        changing = update(_EVIDENCE).where(of_it).values(asdict(kept) | {"settled_at": now})
        return self._connection.execute(changing).rowcount == 1


def unsettled(moment: Moment, limit: int | None = None) -> Select[Any]:
    """Return the query for incidents whose stills of a moment are work to do, oldest first."""
    work = and_(_EVIDENCE.c.settled_at.is_(None), _EVIDENCE.c.moment == moment)
    query = select(_INCIDENTS).join(_EVIDENCE, _EVIDENCE.c.incident_id == _INCIDENTS.c.id)
    return query.where(work).order_by(_INCIDENTS.c.first_seen_at).limit(limit)


def kept_before(before: datetime, limit: int) -> Select[Any]:
    """Return the query for incidents closed before an instant that have stills, oldest first.

    What is kept was settled before: that finds them without looking at all closed incidents.
    """
    there = and_(_EVIDENCE.c.digest.is_not(None), _EVIDENCE.c.missing.is_(None))
    oldest = (
        select(_EVIDENCE.c.incident_id)
        .join(_INCIDENTS, _INCIDENTS.c.id == _EVIDENCE.c.incident_id)
        .where(there, _EVIDENCE.c.settled_at < before, _INCIDENTS.c.closed_at < before)
        .order_by(_EVIDENCE.c.settled_at)
        .limit(limit)
    )
    return select(_INCIDENTS).where(_INCIDENTS.c.id.in_(oldest))


def settled_of(incident_id: UUID) -> Select[Any]:
    """Return the query for the stills of an incident that are kept, or known to be missing."""
    known = or_(_EVIDENCE.c.digest.is_not(None), _EVIDENCE.c.missing.is_not(None))
    return select(_EVIDENCE).where(_EVIDENCE.c.incident_id == str(incident_id), known)
