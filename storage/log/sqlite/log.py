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

from storage.errors import OffsetOutOfRange, SchemaTooNew, SchemaTooOld
from storage.log.change_waiter import ChangeWaiter
from storage.log.entry_keys import printable_key
from storage.log.log import (
    LogEntry,
    LogMessage,
    LogPage,
    SequentialTailReader,
    append_timestamp,
    expired_sizes,
    partition_for_key,
    to_microseconds,
)
from storage.log.sqlite.membership import SqliteGroupMembership
from storage.sqlite_connection import (
    ReadOnlyConnection,
    connect,
    connect_read_only,
    translate_errors,
)

PARTITIONS = 12
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
_GROUP_TABLES = """
CREATE TABLE layout (parts INTEGER NOT NULL);
CREATE TABLE members (
    reader TEXT NOT NULL, topic TEXT NOT NULL, member TEXT NOT NULL UNIQUE, lease INTEGER NOT NULL
);
CREATE TABLE owners (
    reader TEXT NOT NULL, part TEXT NOT NULL, member TEXT NOT NULL, tenure INTEGER NOT NULL,
    PRIMARY KEY (reader, part)
)
"""
_TRIM_BATCH = 50
"""Entries that go in one transaction: windows of 1 MB take about a tenth of a second."""
_ENTRIES = "SELECT topic, position, key, at, value FROM entries WHERE topic = ? AND position >= ?"
_decode_text = partial(str, encoding="utf-8", errors="replace")
"""Anybody may write to the file, and SQLite keeps any bytes as text."""


class SqliteLog:
    """A log in one SQLite file; any number of processes may each open it and use it at once.

    Space of trimmed entries is used again by later appends, so the file stays near the largest
    size it was allowed to keep. Local disks only: SQLite's WAL needs shared memory. `parts` is
    for a new file; one that is there keeps the number that it has. With `reading` nothing is
    written: the file has to be there, and be brought up.
    """

    def __init__(self, path: Path, partitions: int = 1, *, read_only: bool = False) -> None:
        self._path = path
        self._memberships: list[SqliteGroupMembership] = []
        self._lock = threading.RLock()
        self._version_connection: sqlite3.Connection | None = None
        self._change_waiter = ChangeWaiter(self._data_version)
        with translate_errors(path):
            self._db = (connect_read_only if read_only else connect)(path, check_same_thread=False)
        try:
            self._configure(partitions, read_only=read_only)
            self._partition_count = self._select_number("SELECT parts FROM layout")
        except BaseException:
            self.close()
            raise

    def partitions(self, topic: str) -> tuple[str, ...]:
        """Return the parts of a topic, in order; where there is one it is the topic itself."""
        if self._partition_count == 1:
            return (topic,)
        return tuple(f"{topic}-{number}" for number in range(self._partition_count))

    def partition_for(self, topic: str, key: str) -> str:
        """Return the part of a topic that a key is in."""
        return partition_for_key(self.partitions(topic), key)

    def paired_partition(self, partition: str, topic: str) -> str:
        """Return the part of a topic that pairs off with a part of another."""
        return topic if self._partition_count == 1 else f"{topic}-{partition.rpartition('-')[2]}"

    def identity(self, partition: str) -> str:
        """Return what tells this file from any other; a copy of the file has the same."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        with self._locked():
            ((found,),) = self._db.execute("SELECT identity FROM layout").fetchall()
        return str(found)

    def join_group(self, group: str, topic: str) -> SqliteGroupMembership:
        """Take a share of a topic among all that joined as the same reader."""
        membership = SqliteGroupMembership(self, group, topic)
        self._memberships.append(membership)
        return membership

    def members(self, group: str, topic: str) -> list[str]:
        """Return who shares a topic as this reader, first come first."""
        query = "SELECT member FROM members WHERE reader = ? AND topic = ? ORDER BY rowid"
        with self._locked():
            return [member for (member,) in self._db.execute(query, (group, topic))]

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Write all values or none, durable on return; return the position of the last.

        Raises StorageFull when the disk is full.
        """
        return self.append_all(topic, [(key, value) for value in values])

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Do the same for values of different keys: (key, value)."""
        messages = [LogMessage(topic=topic, key=key, value=value) for key, value in values]
        with self.transaction():
            ends = self.write_messages(messages)
        return ends[self.partition_for(topic, values[-1][0])] - 1

    def append_messages(self, messages: Sequence[LogMessage]) -> None:
        """Write all messages or none, durable on return; raise StorageFull for a full disk."""
        with self.transaction():
            self.write_messages(messages)

    def write_messages(self, messages: Sequence[LogMessage]) -> dict[str, int]:
        """Do the same inside an open transaction; return the position behind the last of a part."""
        at = append_timestamp(messages)
        by_part: dict[str, list[tuple[str, bytes]]] = {}
        for each in messages:
            partition = self.partition_for(each.topic, each.key)
            by_part.setdefault(partition, []).append((each.key, each.value))
        return {
            partition: self._append(partition, at, values) for partition, values in by_part.items()
        }

    def _append(self, partition: str, at: int, values: Sequence[tuple[str, bytes]]) -> int:
        """Write values into one part; return the position behind the last."""
        size = sum(len(value) for _, value in values)
        self._db.execute("INSERT OR IGNORE INTO topics VALUES (?, 0, 0, 0)", (partition,))
        ((end,),) = self._db.execute(
            "UPDATE topics SET next = next + ?, bytes = bytes + ? WHERE topic = ? RETURNING next",
            (len(values), size, partition),
        ).fetchall()
        first = end - len(values)
        rows = ((partition, first + n, key, at, value) for n, (key, value) in enumerate(values))
        self._db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows)
        return int(end)

    def read(
        self, partition: str, offset: int, limit: int = 100, key: str | None = None
    ) -> LogPage:
        """Return at most `limit` entries at or after `position`, in order, perhaps of one key."""
        if key is not None:
            return self._read_key(partition, offset, limit, key)
        query = f"{_ENTRIES} ORDER BY position LIMIT ?"
        with self._locked():
            rows = self._db.execute(query, (partition, offset, limit)).fetchall()
            start_offset, end = (
                (offset, offset)
                if rows
                else (self.start_offset(partition), self.end_offset(partition))
            )
        if offset > end:
            raise OffsetOutOfRange(partition, offset, end)
        entries = [_entry(*row) for row in rows]
        first = entries[0].offset if entries else max(offset, start_offset)
        next_offset = entries[-1].offset + 1 if entries else first
        return LogPage(
            entries,
            partition=partition,
            offset=offset,
            next_offset=next_offset,
            missed=first - offset,
        )

    def _read_key(self, partition: str, offset: int, limit: int, key: str) -> LogPage:
        query = f"{_ENTRIES} AND position < ? AND key = ? ORDER BY position LIMIT ?"
        with self._locked():
            first, end = max(offset, self.start_offset(partition)), self.end_offset(partition)
            rows = self._db.execute(query, (partition, offset, end, key, limit)).fetchall()
        if offset > end:
            raise OffsetOutOfRange(partition, offset, end)
        entries = [_entry(*row) for row in rows]
        after_last = entries[-1].offset + 1 if entries else first
        next_offset = after_last if len(entries) == limit else max(first, end)
        return LogPage(
            entries,
            partition=partition,
            offset=offset,
            next_offset=next_offset,
            missed=first - offset,
        )

    def follow(self) -> SequentialTailReader:
        """Return a reader for who reads on all the time."""
        return SequentialTailReader(self)

    def start_offset(self, partition: str) -> int:
        """Return the first position still kept; `next` when none is."""
        return self._select_number("SELECT oldest FROM topics WHERE topic = ?", partition)

    def end_offset(self, partition: str) -> int:
        """Return the position that the next append will get."""
        return self._select_number("SELECT next FROM topics WHERE topic = ?", partition)

    def committed(self, group: str, partition: str) -> int:
        """Return the position where this reader goes on; 0 when it never committed."""
        return self._select_number(
            "SELECT position FROM readers WHERE reader = ? AND topic = ?", group, partition
        )

    def commit(self, group: str, partition: str, offset: int) -> None:
        """Keep the position where this reader goes on."""
        with self.transaction():
            self.write_offset(group, partition, offset)

    def write_offset(self, group: str, partition: str, offset: int) -> None:
        """Do the same inside an open transaction."""
        self._db.execute(
            "INSERT INTO readers VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET position = excluded.position",
            (group, partition, offset),
        )

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when any process committed something, `stop` is set, or the time is over."""
        self._change_waiter.wait(stop, seconds)

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries of all parts beyond this many bytes or this age; return how many.

        In each part all that is older than what went is gone, too. It is done in transactions of
        which none is long: others append in between.
        """
        cutoff, total = to_microseconds(datetime.now(UTC) - keep_for), 0
        while True:
            trimmed = self._trim_batch(self.partitions(topic), keep_bytes, cutoff)
            total += trimmed
            if trimmed < _TRIM_BATCH:
                return total

    def _trim_batch(self, partitions: Sequence[str], keep_bytes: int, cutoff: int) -> int:
        """Do some of it, in one transaction; return how many entries went."""
        with self.transaction():
            stored_bytes = sum(
                self._select_number("SELECT bytes FROM topics WHERE topic = ?", partition)
                for partition in partitions
            )
            dropped = self._expired_entries(partitions, cutoff, stored_bytes - keep_bytes)
            for partition, sizes in dropped.items():
                self._drop(partition, sizes)
        return sum(map(len, dropped.values()))

    def _expired_entries(
        self, partitions: Sequence[str], cutoff: int, surplus: int
    ) -> dict[str, list[int]]:
        """Return the sizes of the entries that go from each part, oldest first."""
        query = "SELECT at, topic, length(value) FROM entries WHERE topic = ? ORDER BY position"
        cursors = [self._db.execute(query, (partition,)) for partition in partitions]
        partitions_in_order, sizes = list[str](), dict[str, list[int]]()

        def in_order() -> Iterator[tuple[bool, int]]:
            for at, partition, size in heapq.merge(*cursors, key=lambda row: row[0]):
                partitions_in_order.append(partition)
                yield at < cutoff, size

        for partition, size in zip(
            partitions_in_order,
            expired_sizes(islice(in_order(), _TRIM_BATCH), surplus),
            strict=False,
        ):
            sizes.setdefault(partition, []).append(size)
        for cursor in cursors:
            cursor.close()
        return sizes

    def _drop(self, partition: str, sizes: Sequence[int]) -> None:
        """Drop the oldest entries of a part, which have these sizes."""
        self._db.execute(
            "UPDATE topics SET oldest = oldest + ?, bytes = bytes - ? WHERE topic = ?",
            (len(sizes), sum(sizes), partition),
        )
        self._db.execute(
            "DELETE FROM entries WHERE topic = ? AND position < ?",
            (partition, self.start_offset(partition)),
        )

    def close(self) -> None:
        """Let go of the file and of all shares; what was appended stays."""
        for membership in self._memberships:
            membership.close()
        with self._lock:
            if self._version_connection is not None:
                self._version_connection.close()
            self._db.close()

    def _configure(self, partitions: int, *, read_only: bool) -> None:
        self._db.text_factory = _decode_text
        if self._check_schema() < _SCHEMA:
            self._upgrade_schema(partitions)
        if read_only:
            return
        with translate_errors(self._path):
            for pragma in _LARGE_WAL:
                self._db.execute(pragma)
            # A connection sees in `data_version` what others committed, not what it did itself.
            self._version_connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False
            )

    def _check_schema(self) -> int:
        schema = self._select_number("PRAGMA user_version")
        if schema > _SCHEMA:
            raise SchemaTooNew(str(self._path), str(schema), str(_SCHEMA))
        return schema

    def _upgrade_schema(self, partitions: int) -> None:
        if isinstance(self._db, ReadOnlyConnection):
            found, remedy = self._select_number("PRAGMA user_version"), "start longwatch once"
            raise SchemaTooOld(str(self._path), str(found or ""), str(_SCHEMA), remedy)
        with self.transaction():
            schema = self._check_schema()  # another process may have been first
            if schema < _SCHEMA:
                self._create_missing_tables(schema, partitions)
                self._db.execute(f"PRAGMA user_version={_SCHEMA}")

    def _create_missing_tables(self, schema: int, partitions: int) -> None:
        """Make the tables of a new file, or those that an older one does not have."""
        missing = [_TABLES] * (schema < 1) + [_GROUP_TABLES] * (schema < 2)
        for table in ";".join(missing).split(";"):
            self._db.execute(table)
        if schema < 2:
            # An older file has one part: what is in it and every position stay as they are.
            self._db.execute("INSERT INTO layout VALUES (?)", (partitions if schema == 0 else 1,))
        self._db.execute("ALTER TABLE layout ADD COLUMN identity TEXT")
        self._db.execute("UPDATE layout SET identity = ?", (str(uuid4()),))

    def _select_number(self, query: str, *values: str) -> int:
        with self._locked():
            row = self._db.execute(query, values).fetchone()
        return 0 if row is None else int(row[0])

    def _data_version(self) -> int:
        """Return a number that changes with every commit, and never for who only reads."""
        if self._version_connection is None:
            return 0
        with translate_errors(self._path):
            ((version,),) = self._version_connection.execute("PRAGMA data_version").fetchall()
        return int(version)

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Commit what the block wrote, or nothing of it; raise StorageBlocked or StorageUnfit.

        What is not `durable` outlives this process, and not a power cut; it waits for no disk.
        """
        with self._locked():
            try:
                self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other threads from the connection, and name the errors of SQLite."""
        with self._lock, translate_errors(self._path):
            if isinstance(self._db, ReadOnlyConnection):
                self._db = self._db.reopen_if_opened()
                self._db.text_factory = _decode_text
            yield
            if isinstance(self._db, ReadOnlyConnection):
                self._db.check_unchanged()


def _entry(partition: str, offset: int, key: str | bytes, at: object, value: object) -> LogEntry:
    """Return an entry, whatever types SQLite let others write into its columns."""
    at = at if isinstance(at, int) else 0
    value = value if isinstance(value, bytes) else str(value).encode()
    return LogEntry(partition, offset, printable_key(key), at, value)
