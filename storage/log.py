"""The log: entries in topics, in order, kept for a while, read from a position.

Positions of a topic start at 0, follow each other without a hole and are never used again,
also after `trim`. A reader whose position is below `oldest` has missed the entries between.
"""

import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from storage.errors import SchemaTooNew, StorageFull
from storage.sqlite import BUSY_SECONDS, PRAGMAS, is_full, opening

WINDOWS = "windows"
FINDINGS = "findings"
INCIDENTS = "incidents"
DEAD = "dead"
REQUESTS = "requests"
REPLIES = "replies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One value in the log; `at` is the instant of its append, `key` the camera."""

    topic: str
    position: int
    key: str
    at: datetime
    value: bytes


class Log(Protocol):
    """Append and read entries; every method may be called from any thread."""

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Write all values or none, durable on return; return the position of the last.

        Raises StorageFull when the disk is full.
        """

    def read(self, topic: str, position: int, limit: int = 100) -> list[Entry]:
        """Return at most `limit` entries at or after `position`, in order."""

    def oldest(self, topic: str) -> int:
        """Return the first position still kept; `next` when none is."""

    def next(self, topic: str) -> int:
        """Return the position that the next append will get."""

    def committed(self, reader: str, topic: str) -> int:
        """Return the position where this reader goes on; 0 when it never committed."""

    def commit(self, reader: str, topic: str, position: int) -> None:
        """Keep the position where this reader goes on."""

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries beyond this many bytes or this age; return how many went."""

    def close(self) -> None:
        """Let go of the files; what was appended stays."""


@dataclass(slots=True)
class _Topic:
    oldest: int = 0
    entries: list[Entry] = field(default_factory=list)

    @property
    def next(self) -> int:
        return self.oldest + len(self.entries)


class MemoryLog:
    """A log in the memory of one process, for tests and backtests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._topics: defaultdict[str, _Topic] = defaultdict(_Topic)
        self._committed: dict[tuple[str, str], int] = {}

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Write all values; return the position of the last."""
        at = _now(values)
        with self._lock:
            kept = self._topics[topic]
            for value in values:
                position = kept.next
                entry = Entry(topic=topic, position=position, key=key, at=at, value=value)
                kept.entries.append(entry)
            return position

    def read(self, topic: str, position: int, limit: int = 100) -> list[Entry]:
        """Return at most `limit` entries at or after `position`, in order."""
        with self._lock:
            kept = self._topics[topic]
            start = max(0, position - kept.oldest)
            return kept.entries[start : start + limit]

    def oldest(self, topic: str) -> int:
        """Return the first position still kept; `next` when none is."""
        with self._lock:
            return self._topics[topic].oldest

    def next(self, topic: str) -> int:
        """Return the position that the next append will get."""
        with self._lock:
            return self._topics[topic].next

    def committed(self, reader: str, topic: str) -> int:
        """Return the position where this reader goes on; 0 when it never committed."""
        with self._lock:
            return self._committed.get((reader, topic), 0)

    def commit(self, reader: str, topic: str, position: int) -> None:
        """Keep the position where this reader goes on."""
        with self._lock:
            self._committed[reader, topic] = position

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries beyond this many bytes or this age; return how many went."""
        cutoff = datetime.now(UTC) - keep_for
        with self._lock:
            kept = self._topics[topic]
            rows = [(entry.at < cutoff, len(entry.value)) for entry in kept.entries]
            gone = _expired(rows, sum(size for _, size in rows) - keep_bytes)
            del kept.entries[: len(gone)]
            kept.oldest += len(gone)
            return len(gone)

    def close(self) -> None:
        """Do nothing: there is no file."""


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
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


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

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Write all values or none, durable on return; return the position of the last.

        Raises StorageFull when the disk is full.
        """
        at = (_now(values) - _EPOCH) // _MICROSECOND
        size = sum(map(len, values))
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO topics VALUES (?, 0, 0, 0)", (topic,))
            ((end,),) = self._db.execute(
                "UPDATE topics SET next = next + ?, bytes = bytes + ? WHERE topic = ?"
                " RETURNING next",
                (len(values), size, topic),
            ).fetchall()
            rows = ((topic, end - len(values) + n, key, at, v) for n, v in enumerate(values))
            self._db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows)
        return int(end) - 1

    def read(self, topic: str, position: int, limit: int = 100) -> list[Entry]:
        """Return at most `limit` entries at or after `position`, in order."""
        with self._lock:
            rows = self._db.execute(
                "SELECT position, key, at, value FROM entries"
                " WHERE topic = ? AND position >= ? ORDER BY position LIMIT ?",
                (topic, position, limit),
            ).fetchall()
        return [
            Entry(
                topic=topic,
                position=n,
                key=key,
                at=_EPOCH + at * _MICROSECOND,
                value=value,
            )
            for n, key, at, value in rows
        ]

    def oldest(self, topic: str) -> int:
        """Return the first position still kept; `next` when none is."""
        return self._number("SELECT oldest FROM topics WHERE topic = ?", topic)

    def next(self, topic: str) -> int:
        """Return the position that the next append will get."""
        return self._number("SELECT next FROM topics WHERE topic = ?", topic)

    def committed(self, reader: str, topic: str) -> int:
        """Return the position where this reader goes on; 0 when it never committed."""
        return self._number(
            "SELECT position FROM readers WHERE reader = ? AND topic = ?", reader, topic
        )

    def commit(self, reader: str, topic: str, position: int) -> None:
        """Keep the position where this reader goes on."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO readers VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET position = excluded.position",
                (reader, topic, position),
            )

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries beyond this many bytes or this age; return how many went."""
        cutoff = (datetime.now(UTC) - keep_for - _EPOCH) // _MICROSECOND
        with self._transaction():
            kept = self._number("SELECT bytes FROM topics WHERE topic = ?", topic)
            rows = self._db.execute(
                "SELECT at < ?, length(value) FROM entries WHERE topic = ? ORDER BY position",
                (cutoff, topic),
            )
            gone = _expired(rows, kept - keep_bytes)
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


def _now(values: tuple[bytes, ...]) -> datetime:
    if not values:
        raise ValueError("append at least one value")
    return datetime.now(UTC)


def _expired(rows: Iterable[tuple[bool, int]], surplus: int) -> list[int]:
    """Return the sizes of the entries that go, given (too old, size) from the oldest on."""
    gone = []
    for too_old, size in rows:
        if not too_old and surplus <= 0:
            break
        surplus -= size
        gone.append(size)
    return gone
