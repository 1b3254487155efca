"""Who is in the way of a statement that waited for a lock in vain."""

import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from storage.errors import StorageBusy, StorageError

WRITER_LOCK_ID = 0x6C6F6E67
"""The advisory lock that whoever writes holds until the end of the transaction."""
_LOCKS = """
SELECT l.locktype = 'advisory', c.relname, l.mode, l.granted, a.pid,
  coalesce(nullif(a.application_name, ''), a.usename, a.backend_type),
  CASE WHEN NOT l.granted THEN (
    SELECT string_agg(format('process %%s (%%s)', b.pid,
      coalesce(nullif(b.application_name, ''), b.usename, b.backend_type)), ' and ' ORDER BY b.pid)
    FROM pg_stat_activity b WHERE b.pid = ANY(pg_blocking_pids(l.pid))) END
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) LEFT JOIN pg_class c ON c.oid = l.relation
WHERE l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.locktype = 'relation' AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid)
    OR l.locktype = 'advisory' AND l.granted AND (l.classid, l.objid, l.objsubid) = (0, %s, 1))
ORDER BY l.granted DESC, a.xact_start, a.pid
"""
_BLOCKS_READERS = {"AccessExclusiveLock"}
_BLOCKS_WRITERS = {"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"}
"""The modes that are in the way of others: PostgreSQL's manual, table 13.2."""
_ROW_LOCK_MODES = {"RowShareLock", "RowExclusiveLock"}
"""The modes of whoever has locked or written rows of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresLock:
    """A lock that a process of the server holds, or waits for behind others."""

    is_writer_lock: bool
    table: str | None
    mode: str
    is_granted: bool
    pid: int | None
    application: str | None
    blocked_by: str | None

    @property
    def holder(self) -> str:
        """Return who holds or awaits the lock; a transaction that was prepared has no process."""
        if self.pid is None:
            return "a prepared transaction (see pg_prepared_xacts)"
        return f"process {self.pid} of the server ({self.application or 'no name'})"


def find_lock_holder(error: DBAPIError, engine: Engine, location: str) -> StorageBusy:
    """Look who holds the lock that a statement waited for in vain."""
    statement = str(error.statement)
    try:
        found = find_blocking_lock(statement, _read_locks(engine))
    except (SQLAlchemyError, StorageError, engine.dialect.loaded_dbapi.Error):
        found = None
    if found is None:
        is_writer = "pg_advisory_xact_lock" in statement
        return StorageBusy(location, "the write lock" if is_writer else "a lock on a table")
    what = "a lock on table" if found.mode not in _ROW_LOCK_MODES else "a lock on rows of table"
    lock = "the write lock" if found.is_writer_lock else f"{what} {found.table}"
    return StorageBusy(location, lock, found.holder, found.blocked_by or "")


def find_blocking_lock(statement: str, locks: Iterable[PostgresLock]) -> PostgresLock | None:
    """Return the lock that a statement waits for, of all locks, those that are held first."""
    all_locks = list(locks)
    if "pg_advisory_xact_lock" in statement:
        return next((lock for lock in all_locks if lock.is_writer_lock), None)
    words = set(re.findall(r"\w+", statement))
    locks_on_tables = [lock for lock in all_locks if lock.table in words]
    for mode in _blocking_modes(statement):
        for lock in locks_on_tables:
            if lock.mode in mode:
                return lock
    return None


def _blocking_modes(statement: str) -> Sequence[set[str]]:
    """Return the modes of locks that are in the way of a statement, the likeliest first."""
    match statement.upper().split(maxsplit=1)[:1]:
        case ["SELECT" | "WITH"] if not re.search(r"\b(UPDATE|INSERT|DELETE)\b", statement):
            return (_BLOCKS_READERS,)
        case ["SELECT" | "WITH" | "INSERT" | "UPDATE" | "DELETE"]:
            return _BLOCKS_WRITERS, _ROW_LOCK_MODES
    return _BLOCKS_WRITERS, _ROW_LOCK_MODES, {"AccessShareLock", "ShareUpdateExclusiveLock"}


def _read_locks(engine: Engine) -> list[PostgresLock]:
    with closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute("SET LOCAL statement_timeout = '1s'")
        cursor.execute(_LOCKS, (WRITER_LOCK_ID,))
        return [
            PostgresLock(
                is_writer_lock=row[0],
                table=row[1],
                mode=row[2],
                is_granted=row[3],
                pid=row[4],
                application=row[5],
                blocked_by=row[6],
            )
            for row in cursor.fetchall()
        ]
