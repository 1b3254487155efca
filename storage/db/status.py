"""What a database of any schema says of itself: schema, leases, sizes and replication."""

import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Engine, func, inspect, select, text

from storage.db import tables
from storage.db.database import (
    current_heads,
    database_location,
    engine_for,
    known_revisions,
    translate_errors,
)
from storage.db.lease_rows import Lease, database_time, has_leases, read_leases
from storage.db.sql.table_sizes import TableSize, pragma, table_sizes

_SERVER = text("""
SELECT current_setting('server_version') AS version, pg_is_in_recovery() AS is_standby,
    current_setting('synchronous_standby_names') AS synchronous,
    clock_timestamp() - pg_last_xact_replay_timestamp() AS behind,
    pg_database_size(current_database()) AS size
""")
_STANDBYS = text("""
SELECT application_name AS name, state, sync_state AS sync FROM pg_stat_replication
ORDER BY application_name, pid
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """A server that follows this one, and how; None where the role may not see that."""

    name: str
    state: str | None
    sync: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replication:
    """Whether a server is a standby, how old what it has replayed is, and who follows it.

    `synchronous` are PostgreSQL's synchronous_standby_names.
    """

    is_standby: bool
    behind: timedelta | None
    synchronous: str
    standbys: tuple[Standby, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpace:
    """Of a file of SQLite: the bytes of its WAL, and those in it that are free."""

    wal: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseStatus:
    """A database at the instant `at` of its own clock.

    `found` is None without a schema of longwatch, and `leases` where its schema has none yet.
    """

    location: str
    server: str
    at: datetime
    revision: str | None
    newest_revision: str
    is_newer: bool
    leases: tuple[Lease, ...] | None
    size: int
    tables: tuple[TableSize, ...]
    oldest_finding: datetime | None
    oldest_incident: datetime | None
    file: FileSpace | None = None
    replication: Replication | None = None


def database_status(url: str) -> DatabaseStatus:
    """Inspect a database without a change; raise as `inspect_schema`, except SchemaTooNew."""
    engine = engine_for(url, read_only=True)
    try:
        with translate_errors(engine), engine.begin() as connection:
            return _read_status(engine, connection)
    finally:
        engine.dispose()


def _read_status(engine: Engine, connection: Connection) -> DatabaseStatus:
    heads, known = current_heads(connection), known_revisions()
    return DatabaseStatus(
        location=database_location(engine.url),
        at=database_time(connection),
        revision=", ".join(heads) or None,
        newest_revision=known[0],
        is_newer=not set(known).issuperset(heads),
        leases=tuple(read_leases(connection)) if has_leases(connection) else None,
        tables=tuple(table_sizes(connection)),
        oldest_finding=_oldest(connection, tables.findings.c.end),
        oldest_incident=_oldest(connection, tables.incidents.c.first_seen_at),
        **_backend_fields(engine, connection),
    )


def _oldest(connection: Connection, column: Column[datetime]) -> datetime | None:
    """Return the first instant where an index gives it: without one all rows would be read."""
    name, inspector = column.table.name, inspect(connection)
    if not inspector.has_table(name):
        return None
    if column.name not in {each["column_names"][0] for each in inspector.get_indexes(name)}:
        return None
    return connection.execute(select(func.min(column))).scalar()


def _backend_fields(engine: Engine, connection: Connection) -> dict[str, Any]:
    if connection.dialect.name == "postgresql":
        row = connection.execute(_SERVER).one()
        replication = Replication(
            is_standby=row.is_standby,
            behind=row.behind if row.is_standby else None,
            synchronous=row.synchronous,
            standbys=tuple(Standby(**each._asdict()) for each in connection.execute(_STANDBYS)),
        )
        server = f"PostgreSQL {row.version}"
        return {"server": server, "size": row.size, "replication": replication}
    page, path = pragma(connection, "page_size"), Path(str(engine.url.database))
    wal = path.with_name(f"{path.name}-wal")
    return {
        "server": f"SQLite {sqlite3.sqlite_version}",
        "size": page * pragma(connection, "page_count"),
        "file": FileSpace(
            wal=wal.stat().st_size if wal.exists() else 0,
            free=page * pragma(connection, "freelist_count"),
        ),
    }
