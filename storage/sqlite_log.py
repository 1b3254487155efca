"""The log of one machine: a SQLite file."""

import heapq
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from threading import Event
from uuid import uuid4

from storage.changes import Changes
from storage.errors import BeyondEnd, SchemaTooNew, SchemaTooOld
from storage.keys import key_of
from storage.log import (
    Entry,
    InTurn,
    Message,
    Page,
    expired,
    microseconds,
    now_for,
    part_with,
)
from storage.sqlite import ReadConnection, connect, connect_reading, errors_named
from storage.sqlite_share import SqliteShare

PARTS = 12
"""Parts of each topic in a new log, as on Kafka: at most this many analyzers share the cameras."""
_LARGE_WAL = (f"PRAGMA wal_autocheckpoint={2**25 // 4096}", f"PRAGMA journal_size_limit={2**26}")
"""A checkpoint costs two syncs, and a window fills SQLite's own 4 MB in a few appends.

A WAL that is cut shorter than it grows has to be extended again, which costs more than to write.
"""
_SCHEMA = 3
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
_SHARING = """
CREATE TABLE layout (parts INTEGER NOT NULL);
CREATE TABLE members (
    reader TEXT NOT NULL, topic TEXT NOT NULL, member TEXT NOT NULL UNIQUE, lease INTEGER NOT NULL
);
CREATE TABLE owners (
    reader TEXT NOT NULL, part TEXT NOT NULL, member TEXT NOT NULL, tenure INTEGER NOT NULL,
    PRIMARY KEY (reader, part)
)
"""
_TRIMMED = 50
"""Entries that go in one transaction: windows of 1 MB take about a tenth of a second."""
_ENTRIES = "SELECT topic, position, key, at, value FROM entries WHERE topic = ? AND position >= ?"
_text = partial(str, encoding="utf-8", errors="replace")
"""Anybody may write to the file, and SQLite keeps any bytes as text."""


class SqliteLog:
    """A log in one SQLite file; any number of processes may each open it and use it at once.

    Space of trimmed entries is used again by later appends, so the file stays near the largest
    size it was allowed to keep. Local disks only: SQLite's WAL needs shared memory. `parts` is
    for a new file; one that is there keeps the number that it has. With `reading` nothing is
    written: the file has to be there, and be brought up.
    """

    def __init__(self, path: Path, parts: int = 1, *, reading: bool = False) -> None:
        self._path = path
        self._shares: list[SqliteShare] = []
        self._lock = threading.RLock()
        self._watching: sqlite3.Connection | None = None
        self._changes = Changes(self._version)
        with errors_named(path):
            self._db = (connect_reading if reading else connect)(path, check_same_thread=False)
        try:
            self._set_up(parts, reading=reading)
            self._parts = self._number("SELECT parts FROM layout")
        except BaseException:
            self.close()
            raise

    def parts(self, topic: str) -> tuple[str, ...]:
        """Return the parts of a topic, in order; where there is one it is the topic itself."""
        if self._parts == 1:
            return (topic,)
        return tuple(f"{topic}-{number}" for number in range(self._parts))

    def part_of(self, topic: str, key: str) -> str:
        """Return the part of a topic that a key is in."""
        return part_with(self.parts(topic), key)

    def paired(self, part: str, topic: str) -> str:
        """Return the part of a topic that pairs off with a part of another."""
        return topic if self._parts == 1 else f"{topic}-{part.rpartition('-')[2]}"

    def identity(self, part: str) -> str:
        """Return what tells this file from any other; a copy of the file has the same."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        with self._guarded():
            ((found,),) = self._db.execute("SELECT identity FROM layout").fetchall()
        return str(found)

    def join(self, reader: str, topic: str) -> SqliteShare:
        """Take a share of a topic among all that joined as the same reader."""
        share = SqliteShare(self, reader, topic)
        self._shares.append(share)
        return share

    def members(self, reader: str, topic: str) -> list[str]:
        """Return who shares a topic as this reader, first come first."""
        query = "SELECT member FROM members WHERE reader = ? AND topic = ? ORDER BY rowid"
        with self._guarded():
            return [member for (member,) in self._db.execute(query, (reader, topic))]

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Write all values or none, durable on return; return the position of the last.

        Raises StorageFull when the disk is full.
        """
        return self.append_all(topic, [(key, value) for value in values])

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Do the same for values of different keys: (key, value)."""
        messages = [Message(topic=topic, key=key, value=value) for key, value in values]
        with self.transaction():
            ends = self.write_messages(messages)
        return ends[self.part_of(topic, values[-1][0])] - 1

    def append_messages(self, messages: Sequence[Message]) -> None:
        """Write all messages or none, durable on return; raise StorageFull for a full disk."""
        with self.transaction():
            self.write_messages(messages)

    def write_messages(self, messages: Sequence[Message]) -> dict[str, int]:
        """Do the same inside an open transaction; return the position behind the last of a part."""
        at = now_for(messages)
        by_part: dict[str, list[tuple[str, bytes]]] = {}
        for each in messages:
            part = self.part_of(each.topic, each.key)
            by_part.setdefault(part, []).append((each.key, each.value))
        return {part: self._append(part, at, held) for part, held in by_part.items()}

    def _append(self, part: str, at: int, values: Sequence[tuple[str, bytes]]) -> int:
        """Write values into one part; return the position behind the last."""
        size = sum(len(value) for _, value in values)
        self._db.execute("INSERT OR IGNORE INTO topics VALUES (?, 0, 0, 0)", (part,))
        ((end,),) = self._db.execute(
            "UPDATE topics SET next = next + ?, bytes = bytes + ? WHERE topic = ? RETURNING next",
            (len(values), size, part),
        ).fetchall()
        first = end - len(values)
        rows = ((part, first + n, key, at, value) for n, (key, value) in enumerate(values))
        self._db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows)
        return int(end)

    def read(self, part: str, position: int, limit: int = 100, key: str | None = None) -> Page:
        """Return at most `limit` entries at or after `position`, in order, perhaps of one key."""
        if key is not None:
            return self._read_key(part, position, limit, key)
        query = f"{_ENTRIES} ORDER BY position LIMIT ?"
        with self._guarded():
            rows = self._db.execute(query, (part, position, limit)).fetchall()
            oldest, end = (position, position) if rows else (self.oldest(part), self.next(part))
        if position > end:
            raise BeyondEnd(part, position, end)
        entries = [_entry(*row) for row in rows]
        first = entries[0].position if entries else max(position, oldest)
        next = entries[-1].position + 1 if entries else first
        return Page(entries, part=part, position=position, next=next, missed=first - position)

    def _read_key(self, part: str, position: int, limit: int, key: str) -> Page:
        query = f"{_ENTRIES} AND position < ? AND key = ? ORDER BY position LIMIT ?"
        with self._guarded():
            first, end = max(position, self.oldest(part)), self.next(part)
            rows = self._db.execute(query, (part, position, end, key, limit)).fetchall()
        if position > end:
            raise BeyondEnd(part, position, end)
        entries = [_entry(*row) for row in rows]
        behind = entries[-1].position + 1 if entries else first
        next = behind if len(entries) == limit else max(first, end)
        return Page(entries, part=part, position=position, next=next, missed=first - position)

    def follow(self) -> InTurn:
        """Return a reader for who reads on all the time."""
        return InTurn(self)

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
        with self.transaction():
            self.write_position(reader, part, position)

    def write_position(self, reader: str, part: str, position: int) -> None:
        """Do the same inside an open transaction."""
        self._db.execute(
            "INSERT INTO readers VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET position = excluded.position",
            (reader, part, position),
        )

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when any process committed something, `stop` is set, or the time is over."""
        self._changes.wait(stop, seconds)

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries of all parts beyond this many bytes or this age; return how many.

        In each part all that is older than what went is gone, too. It is done in transactions of
        which none is long: others append in between.
        """
        cutoff, total = microseconds(datetime.now(UTC) - keep_for), 0
        while True:
            gone = self._trim(self.parts(topic), keep_bytes, cutoff)
            total += gone
            if gone < _TRIMMED:
                return total

    def _trim(self, parts: Sequence[str], keep_bytes: int, cutoff: int) -> int:
        """Do some of it, in one transaction; return how many entries went."""
        with self.transaction():
            kept = sum(
                self._number("SELECT bytes FROM topics WHERE topic = ?", part) for part in parts
            )
            gone = self._oldest_beyond(parts, cutoff, kept - keep_bytes)
            for part, sizes in gone.items():
                self._drop(part, sizes)
        return sum(map(len, gone.values()))

    def _oldest_beyond(
        self, parts: Sequence[str], cutoff: int, surplus: int
    ) -> dict[str, list[int]]:
        """Return the sizes of the entries that go from each part, oldest first."""
        query = "SELECT at, topic, length(value) FROM entries WHERE topic = ? ORDER BY position"
        cursors = [self._db.execute(query, (part,)) for part in parts]
        seen, gone = list[str](), dict[str, list[int]]()

        def in_order() -> Iterator[tuple[bool, int]]:
            for at, part, size in heapq.merge(*cursors, key=lambda row: row[0]):
                seen.append(part)
                yield at < cutoff, size

        for part, size in zip(seen, expired(islice(in_order(), _TRIMMED), surplus), strict=False):
            gone.setdefault(part, []).append(size)
        for cursor in cursors:
            cursor.close()
        return gone

    def _drop(self, part: str, sizes: Sequence[int]) -> None:
        """Drop the oldest entries of a part, which have these sizes."""
        self._db.execute(
            "UPDATE topics SET oldest = oldest + ?, bytes = bytes - ? WHERE topic = ?",
            (len(sizes), sum(sizes), part),
        )
        self._db.execute(
            "DELETE FROM entries WHERE topic = ? AND position < ?", (part, self.oldest(part))
        )

    def close(self) -> None:
        """Let go of the file and of all shares; what was appended stays."""
        for share in self._shares:
            share.close()
        with self._lock:
            if self._watching is not None:
                self._watching.close()
            self._db.close()

    def _set_up(self, parts: int, *, reading: bool) -> None:
        self._db.text_factory = _text
        if self._check_schema() < _SCHEMA:
            self._bring_up(parts)
        if reading:
            return
        with errors_named(self._path):
            for pragma in _LARGE_WAL:
                self._db.execute(pragma)
            # A connection sees in `data_version` what others committed, not what it did itself.
            self._watching = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False
            )

    def _check_schema(self) -> int:
        schema = self._number("PRAGMA user_version")
        if schema > _SCHEMA:
            raise SchemaTooNew(str(self._path), str(schema), str(_SCHEMA))
        return schema

    def _bring_up(self, parts: int) -> None:
        if isinstance(self._db, ReadConnection):
            found, told = self._number("PRAGMA user_version"), "start longwatch once"
            raise SchemaTooOld(str(self._path), str(found or ""), str(_SCHEMA), told)
        with self.transaction():
            schema = self._check_schema()  # another process may have been first
            if schema < _SCHEMA:
                self._upgrade(schema, parts)
                self._db.execute(f"PRAGMA user_version={_SCHEMA}")

    def _upgrade(self, schema: int, parts: int) -> None:
        """Make the tables of a new file, or those that an older one does not have."""
        missing = [_TABLES] * (schema < 1) + [_SHARING] * (schema < 2)
        for table in ";".join(missing).split(";"):
            self._db.execute(table)
        if schema < 2:
            # An older file has one part: what is in it and every position stay as they are.
            self._db.execute("INSERT INTO layout VALUES (?)", (parts if schema == 0 else 1,))
        self._db.execute("ALTER TABLE layout ADD COLUMN identity TEXT")
        self._db.execute("UPDATE layout SET identity = ?", (str(uuid4()),))

    def _number(self, query: str, *values: str) -> int:
        with self._guarded():
            row = self._db.execute(query, values).fetchone()
        return 0 if row is None else int(row[0])

    def _version(self) -> int:
        """Return a number that changes with every commit, and never for who only reads."""
        if self._watching is None:
            return 0
        with errors_named(self._path):
            ((version,),) = self._watching.execute("PRAGMA data_version").fetchall()
        return int(version)

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Commit what the block wrote, or nothing of it; raise StorageBlocked or StorageUnfit.

        What is not `durable` outlives this process, and not a power cut; it waits for no disk.
        """
        with self._guarded():
            try:
                self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Keep other threads from the connection, and name the errors of SQLite."""
        with self._lock, errors_named(self._path):
            if isinstance(self._db, ReadConnection):
                self._db = self._db.renewed()
                self._db.text_factory = _text
            yield
            if isinstance(self._db, ReadConnection):
                self._db.check()


def _entry(part: str, position: int, key: str | bytes, at: object, value: object) -> Entry:
    """Return an entry, whatever types SQLite let others write into its columns."""
    at = at if isinstance(at, int) else 0
    value = value if isinstance(value, bytes) else str(value).encode()
    return Entry(part, position, key_of(key), at, value)
