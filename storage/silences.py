"""Silences as they stand in the database: who muted what, from when to when, and why."""

from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, Row, Select, select, update

from storage import acts, places, tables
from storage.acts import Act, ActKind, Actor, How
from storage.distinct import distinct_values
from storage.incidents import IncidentStore
from storage.insert import insert
from storage.routing import wake_muted
from storage.rows import rows_beginning
from storage.text_order import by_code_point

_SILENCES = tables.silences


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceRow:
    """A silence as it is stored; what a matcher means stands in `alerts.silences`."""

    id: UUID
    matchers: tuple[str, ...]
    start: datetime
    end: datetime
    who: str
    comment: str


class SilenceStore:
    """The silences of a store; safe to use from any thread and process."""

    def __init__(self, store: IncidentStore) -> None:
        self._store = store

    def add(self, silence: SilenceRow, how: How) -> None:
        """Write a silence, and the act of whom it names."""
        row = asdict(silence) | {"id": str(silence.id), "matchers": list(silence.matchers)}
        lasts = f"from {silence.start.isoformat()} until {silence.end.isoformat()}"
        act = Act(
            actor=Actor(who=silence.who, how=how),
            kind=ActKind.SILENCE_ADD,
            object=str(silence.id),
            details=f"{', '.join(silence.matchers)} {lasts}",
            note=silence.comment,
        )
        with self._store.transaction() as ledger:
            ledger.connection.execute(insert(ledger.connection, _SILENCES).values(row))
            acts.append(ledger.connection, act)

    def all(self, now: datetime | None = None) -> list[SilenceRow]:
        """Return those that have not ended by now, or all, by when they end."""
        query = select(_SILENCES).order_by(_SILENCES.c.end, by_code_point(_SILENCES.c.id))
        if now is not None:
            query = query.where(_SILENCES.c.end > now)
        return [_silence_of(row) for row in self._store.rows(query)]

    def find(self, prefix: str) -> SilenceRow | None:
        """Return the silence whose id begins so; ValueError when more than one does."""
        with self._store.reading() as connection:
            rows = rows_beginning(connection, select(_SILENCES), _SILENCES.c.id, prefix)
        if len(rows) > 1:
            raise ValueError(f"{prefix}: more than one silence begins so")
        return _silence_of(rows[0]) if rows else None

    def expire(self, id: UUID, now: datetime, actor: Actor, note: str = "") -> bool:
        """End a silence now, and let what it muted be looked at; False where it has ended."""
        lasts = update(_SILENCES).where(_SILENCES.c.id == str(id), _SILENCES.c.end > now)
        ending = lasts.values(end=now).returning(_SILENCES.c.matchers)
        with self._store.transaction() as ledger:
            matchers = ledger.connection.execute(ending).scalar_one_or_none()
            if matchers is None:
                return False
            ledger.connection.execute(wake_muted(now))
            act = Act(
                actor=actor,
                kind=ActKind.SILENCE_EXPIRE,
                object=str(id),
                details=", ".join(matchers),
                note=note,
            )
            acts.append(ledger.connection, act)
        return True


def labels_of(store: IncidentStore) -> tuple[set[str], set[str]]:
    """Return the cameras and the rules that incidents and coverage name."""
    columns = (tables.incidents.c.camera, tables.coverage.c.camera)
    found = {row.value for each in columns for row in store.rows(distinct_values(each))}
    rules = {row.rule for row in store.rows(places.rules_seen())}
    return found, rules - {None}


def active(connection: Connection, now: datetime) -> list[SilenceRow]:
    """Return the silences that hold at an instant, in an open transaction."""
    query: Select[tuple[object, ...]] = select(_SILENCES)
    holds = query.where(_SILENCES.c.start <= now, _SILENCES.c.end > now)
    return [_silence_of(row) for row in connection.execute(holds)]


def _silence_of(row: Row[tuple[object, ...]]) -> SilenceRow:
    fields = row._asdict()
    return SilenceRow(**fields | {"id": UUID(row.id), "matchers": tuple(row.matchers)})
