"""Who is in the way of a statement that waited for a lock in vain."""

import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from storage.errors import StorageBusy, StorageError

WRITERS = 0x6C6F6E67
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
_STOPS_READERS = {"AccessExclusiveLock"}
_STOPS_WRITERS = {"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"}
"""The modes that are in the way of others: PostgreSQL's manual, table 13.2."""
_OF_ROWS = {"RowShareLock", "RowExclusiveLock"}
"""The modes of whoever has locked or written rows of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A lock that a process of the server holds, or waits for behind others."""

    is_of_writers: bool
    table: str | None
    mode: str
    is_granted: bool
    process: int | None
    name: str | None
    behind: str | None

    @property
    def holder(self) -> str:
        """Return who holds or awaits the lock; a transaction that was prepared has no process."""
        if self.process is None:
            return "a prepared transaction (see pg_prepared_xacts)"
        return f"process {self.process} of the server ({self.name or 'no name'})"


def lock_holder(error: DBAPIError, engine: Engine, place: str) -> StorageBusy:
    """Look who holds the lock that a statement waited for in vain."""
    statement = str(error.statement)
    try:
        found = in_the_way(statement, _locks(engine))
    except (SQLAlchemyError, StorageError, engine.dialect.loaded_dbapi.Error):
        found = None
    if found is None:
        is_writer = "pg_advisory_xact_lock" in statement
        return StorageBusy(place, "the write lock" if is_writer else "a lock on a table")
    what = "a lock on table" if found.mode not in _OF_ROWS else "a lock on rows of table"
    lock = "the write lock" if found.is_of_writers else f"{what} {found.table}"
    return StorageBusy(place, lock, found.holder, found.behind or "")


def in_the_way(statement: str, locks: Iterable[Lock]) -> Lock | None:
    """Return the lock that a statement waits for, of all locks, those that are held first."""
    every = list(locks)
    if "pg_advisory_xact_lock" in statement:
        return next((lock for lock in every if lock.is_of_writers), None)
    words = set(re.findall(r"\w+", statement))
    named = [lock for lock in every if lock.table in words]
    for mode in _in_the_way_of(statement):
        for lock in named:
            if lock.mode in mode:
                return lock
    return None


def _in_the_way_of(statement: str) -> Sequence[set[str]]:
    """Return the modes of locks that are in the way of a statement, the likeliest first."""
    match statement.upper().split(maxsplit=1)[:1]:
        case ["SELECT" | "WITH"] if not re.search(r"\b(UPDATE|INSERT|DELETE)\b", statement):
            return (_STOPS_READERS,)
        case ["SELECT" | "WITH" | "INSERT" | "UPDATE" | "DELETE"]:
            return _STOPS_WRITERS, _OF_ROWS
    return _STOPS_WRITERS, _OF_ROWS, {"AccessShareLock", "ShareUpdateExclusiveLock"}


def _locks(engine: Engine) -> list[Lock]:
    with closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute("SET LOCAL statement_timeout = '1s'")
        cursor.execute(_LOCKS, (WRITERS,))
        return [
            Lock(
                is_of_writers=row[0],
                table=row[1],
                mode=row[2],
                is_granted=row[3],
                process=row[4],
                name=row[5],
                behind=row[6],
            )
            for row in cursor.fetchall()
        ]
