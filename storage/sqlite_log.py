"""The log of one machine: a SQLite file."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from storage.errors import BeyondEnd, SchemaTooNew, StorageFull
from storage.log import Entry, Everything, expired, microseconds, now_for
from storage.sqlite import BUSY_SECONDS, PRAGMAS, is_full, opening

_SCHEMA = 1
_TABLES = """
CREATE TABLE topics (
    topic TEXT PRIMARY KEY, oldest INTEGER NOT NULL, next INTEGER NOT NULL, bytes INTEGER NOT NULL
);
CREATE TABLE entries (
    topic TEXT NOT NULL, position INTEGER NOT NULL, key TEXT NOT NULL,
    at INTEGER NOT NULL, value BLOB NOT NULL, UNIQUE (topic, position)
);
CREATE TABLE readers (
    reader TEXT NOT NULL, topic TEXT NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (reader, topic)
)
"""
_ENTRIES = "SELECT topic, position, key, at, value FROM entries WHERE topic = ? AND position >= ?"
_entry = partial(tuple.__new__, Entry)
"""What `Entry._make` does, without a call in Python for each."""


class SqliteLog:
    """A log in one SQLite file; any number of processes may each open it and use it at once.

    Space of trimmed entries is used again by later appends, so the file stays near the largest
    size it was allowed to keep. Local disks only: SQLite's WAL needs shared memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._db = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        with opening(path), self._full_disk_named():
            for pragma in PRAGMAS:
                self._db.execute(pragma)
            self._create()

    def parts(self, topic: str) -> tuple[str, ...]:
        """Return the topic itself: it has one part."""
        return (topic,)

    def part_of(self, topic: str, key: str) -> str:
        """Return the topic itself: it has one part."""
        return topic

    def join(self, reader: str, topic: str) -> Everything:
        """Take all of a topic."""
        return Everything(self, reader, topic)

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Write all values or none, durable on return; return the position of the last.

        Raises StorageFull when the disk is full.
        """
        return self.append_all(topic, [(key, value) for value in values])

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Do the same for values of different keys: (key, value)."""
        at = now_for(values)
        size = sum(len(value) for _, value in values)
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO topics VALUES (?, 0, 0, 0)", (topic,))
            ((end,),) = self._db.execute(
                "UPDATE topics SET next = next + ?, bytes = bytes + ? WHERE topic = ?"
                " RETURNING next",
                (len(values), size, topic),
            ).fetchall()
            first = end - len(values)
            rows = ((topic, first + n, key, at, value) for n, (key, value) in enumerate(values))
            self._db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows)
        return int(end) - 1

    def read(
        self, part: str, position: int, limit: int = 100, key: str | None = None
    ) -> list[Entry]:
        """Return at most `limit` entries at or after `position`, in order, perhaps of one key."""
        of_key, named = ("", ()) if key is None else (" AND key = ?", (key,))
        query = f"{_ENTRIES}{of_key} ORDER BY position LIMIT ?"
        with self._lock:
            rows = self._db.execute(query, (part, position, *named, limit)).fetchall()
            end = position if rows else self.next(part)
        if position > end:
            raise BeyondEnd(part, position, end)
        return list(map(_entry, rows))

    def oldest(self, part: str) -> int:
        """Return the first position still kept; `next` when none is."""
        return self._number("SELECT oldest FROM topics WHERE topic = ?", part)

    def next(self, part: str) -> int:
        """Return the position that the next append will get."""
        return self._number("SELECT next FROM topics WHERE topic = ?", part)

    def committed(self, reader: str, part: str) -> int:
        """Return the position where this reader goes on; 0 when it never committed."""
        return self._number(
            "SELECT position FROM readers WHERE reader = ? AND topic = ?", reader, part
        )

    def commit(self, reader: str, part: str, position: int) -> None:
        """Keep the position where this reader goes on."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO readers VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET position = excluded.position",
                (reader, part, position),
            )

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries beyond this many bytes or this age; return how many went."""
        cutoff = microseconds(datetime.now(UTC) - keep_for)
        with self._transaction():
            kept = self._number("SELECT bytes FROM topics WHERE topic = ?", topic)
            rows = self._db.execute(
                "SELECT at < ?, length(value) FROM entries WHERE topic = ? ORDER BY position",
                (cutoff, topic),
            )
            gone = expired(rows, kept - keep_bytes)
            rows.close()
            self._db.execute(
                "UPDATE topics SET oldest = oldest + ?, bytes = bytes - ? WHERE topic = ?",
                (len(gone), sum(gone), topic),
            )
            self._db.execute(
                "DELETE FROM entries WHERE topic = ? AND position < ?",
                (topic, self.oldest(topic)),
            )
        return len(gone)

    def close(self) -> None:
        """Let go of the file; what was appended stays."""
        with self._lock:
            self._db.close()

    def _create(self) -> None:
        schema = self._number("PRAGMA user_version")
        if schema > _SCHEMA:
            raise SchemaTooNew(str(self._path), str(schema), str(_SCHEMA))
        if schema < _SCHEMA:
            with self._transaction():
                for table in _TABLES.split(";"):
                    self._db.execute(table)
                self._db.execute(f"PRAGMA user_version={_SCHEMA}")

    def _number(self, query: str, *values: str) -> int:
        with self._lock:
            row = self._db.execute(query, values).fetchone()
        return 0 if row is None else int(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what the block wrote, or nothing of it; raise StorageFull for a full disk."""
        with self._lock, self._full_disk_named():
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _full_disk_named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if is_full(error):
                raise StorageFull(str(self._path)) from error
            raise
