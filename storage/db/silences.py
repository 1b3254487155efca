"""Silences as they stand in the database: who muted what, from when to when, and why."""

from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, Row, Select, select, update

from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.audit import actions
from storage.db.audit.actions import ActionKind, ActionOrigin, AuditAction, AuditActor
from storage.db.rows import newest_incidents
from storage.db.rows.notifications import requeue_muted_groups
from storage.db.rows.row_mapping import rows_by_id_prefix
from storage.db.sql.collation import by_code_point
from storage.db.sql.distinct import distinct_values_query
from storage.db.sql.upsert import dialect_insert

_SILENCES = tables.silences


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceRow:
    """A stored silence; `alerts.dispatch.muting` parses its matchers."""

    id: UUID
    matchers: tuple[str, ...]
    start: datetime
    end: datetime
    who: str
    comment: str


class SilenceStore:
    """The silences of a store; safe to use from any thread and process."""

    def __init__(self, store: AlertStore) -> None:
        self._store = store

    def add(self, silence: SilenceRow, origin: ActionOrigin) -> None:
        """Write a silence, and the act of whom it names."""
        row = asdict(silence) | {"id": str(silence.id), "matchers": list(silence.matchers)}
        period = f"from {silence.start.isoformat()} until {silence.end.isoformat()}"
        action = AuditAction(
            actor=AuditActor(who=silence.who, origin=origin),
            kind=ActionKind.SILENCE_ADD,
            object=str(silence.id),
            details=f"{', '.join(silence.matchers)} {period}",
            note=silence.comment,
        )
        with self._store.transaction() as transaction:
            transaction.connection.execute(
                dialect_insert(transaction.connection, _SILENCES).values(row)
            )
            actions.append_action(transaction.connection, action)

    def all(self, now: datetime | None = None) -> list[SilenceRow]:
        """Return those that have not ended by now, or all, by when they end."""
        query = select(_SILENCES).order_by(_SILENCES.c.end, by_code_point(_SILENCES.c.id))
        if now is not None:
            query = query.where(_SILENCES.c.end > now)
        return [_silence_from_row(row) for row in self._store.rows(query)]

    def find(self, prefix: str) -> SilenceRow | None:
        """Return the silence whose id begins so; ValueError when more than one does."""
        with self._store.read_transaction() as connection:
            rows = rows_by_id_prefix(connection, select(_SILENCES), _SILENCES.c.id, prefix)
        if len(rows) > 1:
            raise ValueError(f"{prefix}: more than one silence begins so")
        return _silence_from_row(rows[0]) if rows else None

    def expire(self, id: UUID, now: datetime, actor: AuditActor, note: str = "") -> bool:
        """End a silence now, and let what it muted be looked at; False where it has ended."""
        unexpired = update(_SILENCES).where(_SILENCES.c.id == str(id), _SILENCES.c.end > now)
        statement = unexpired.values(end=now).returning(_SILENCES.c.matchers)
        with self._store.transaction() as transaction:
            matchers = transaction.connection.execute(statement).scalar_one_or_none()
            if matchers is None:
                return False
            transaction.connection.execute(requeue_muted_groups(now))
            action = AuditAction(
                actor=actor,
                kind=ActionKind.SILENCE_EXPIRE,
                object=str(id),
                details=", ".join(matchers),
                note=note,
            )
            actions.append_action(transaction.connection, action)
        return True


def known_cameras_and_rules(store: AlertStore) -> tuple[set[str], set[str]]:
    """Return the cameras and the rules that incidents and coverage name."""
    columns = (tables.incidents.c.camera, tables.coverage.c.camera)
    found = {row.value for each in columns for row in store.rows(distinct_values_query(each))}
    rules = {row.rule for row in store.rows(newest_incidents.rules_query())}
    return found, rules - {None}


def active_silences(connection: Connection, now: datetime) -> list[SilenceRow]:
    """Return the silences that hold at an instant, in an open transaction."""
    query: Select[tuple[object, ...]] = select(_SILENCES)
    query_active = query.where(_SILENCES.c.start <= now, _SILENCES.c.end > now)
    return [_silence_from_row(row) for row in connection.execute(query_active)]


def _silence_from_row(row: Row[tuple[object, ...]]) -> SilenceRow:
    fields = row._asdict()
    return SilenceRow(**fields | {"id": UUID(row.id), "matchers": tuple(row.matchers)})
