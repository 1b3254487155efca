"""The SQLite file of a log: its tables, its partitions, and what a transaction may write."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

from storage.errors import SchemaTooNew, SchemaTooOld
from storage.log.log import LogMessage, append_timestamp
from storage.log.partitions import partition_for_key, partition_names
from storage.sqlite_connection import (
    ReadOnlyConnection,
    connect,
    connect_read_only,
    translate_errors,
)

_LARGE_WAL = (f"PRAGMA wal_autocheckpoint={2**25 // 4096}", f"PRAGMA journal_size_limit={2**26}")
"""A checkpoint costs two syncs, and a few windows fill SQLite's default of 4 MB.

A WAL cut shorter than it grows is extended again, which costs more than the write itself.
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
_decode_text = partial(str, encoding="utf-8", errors="replace")
"""Any program may write to the file, and SQLite accepts any bytes as text."""


class SqliteFile:
    """A connection to the file of a log; any thread may use it.

    `partitions` is for a new file: an existing one keeps its number. With `read_only` nothing is
    written: the file has to exist, with the newest schema.
    """

    def __init__(self, path: Path, partitions: int = 1, *, read_only: bool = False) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._version_connection: sqlite3.Connection | None = None
        with translate_errors(path):
            self._db = (connect_read_only if read_only else connect)(path, check_same_thread=False)
        try:
            self._configure(partitions, read_only=read_only)
            self._partition_count = self._select_number("SELECT parts FROM layout")
        except BaseException:
            self.close()
            raise

    def partitions(self, topic: str) -> tuple[str, ...]:
        """Return the partitions of a topic, in order; a single one has the name of the topic."""
        return partition_names(topic, self._partition_count)

    def partition_for(self, topic: str, key: str) -> str:
        """Return the partition of a topic that a key is in."""
        return partition_for_key(self.partitions(topic), key)

    def members(self, group: str, topic: str) -> list[str]:
        """Return the members of a group, in the order in which they joined."""
        query = "SELECT member FROM members WHERE reader = ? AND topic = ? ORDER BY rowid"
        with self._locked():
            return [member for (member,) in self._db.execute(query, (group, topic))]

    def write_messages(self, messages: Sequence[LogMessage]) -> dict[str, int]:
        """Append messages in an open transaction; return the end offset of each partition."""
        at = append_timestamp(messages)
        by_part: dict[str, list[tuple[str, bytes]]] = {}
        for each in messages:
            partition = self.partition_for(each.topic, each.key)
            by_part.setdefault(partition, []).append((each.key, each.value))
        return {
            partition: self._append(partition, at, values) for partition, values in by_part.items()
        }

    def _append(self, partition: str, at: int, values: Sequence[tuple[str, bytes]]) -> int:
        """Append values to one partition; return its end offset."""
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

    def committed(self, group: str, partition: str) -> int:
        """Return the next offset for this group; 0 if it never committed."""
        return self._select_number(
            "SELECT position FROM readers WHERE reader = ? AND topic = ?", group, partition
        )

    def write_offset(self, group: str, partition: str, offset: int) -> None:
        """Commit the next offset for a group in an open transaction."""
        self._db.execute(
            "INSERT INTO readers VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET position = excluded.position",
            (group, partition, offset),
        )

    def close(self) -> None:
        """Close the connections."""
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
            # `data_version` of a connection shows the commits of other connections only.
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
            schema = self._check_schema()  # another process may have upgraded it
            if schema < _SCHEMA:
                self._create_missing_tables(schema, partitions)
                self._db.execute(f"PRAGMA user_version={_SCHEMA}")

    def _create_missing_tables(self, schema: int, partitions: int) -> None:
        """Create the tables of a new file, or those that an older one lacks."""
        missing = [_TABLES] * (schema < 1) + [_GROUP_TABLES] * (schema < 2)
        for table in ";".join(missing).split(";"):
            self._db.execute(table)
        if schema < 2:
            # An older file has one partition: its entries and offsets stay as they are.
            self._db.execute("INSERT INTO layout VALUES (?)", (partitions if schema == 0 else 1,))
        self._db.execute("ALTER TABLE layout ADD COLUMN identity TEXT")
        self._db.execute("UPDATE layout SET identity = ?", (str(uuid4()),))

    def _select_number(self, query: str, *values: str) -> int:
        with self._locked():
            row = self._db.execute(query, values).fetchone()
        return 0 if row is None else int(row[0])

    def _data_version(self) -> int:
        """Return a number that changes with every commit; constant for a read-only file."""
        if self._version_connection is None:
            return 0
        with translate_errors(self._path):
            ((version,),) = self._version_connection.execute("PRAGMA data_version").fetchall()
        return int(version)

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Commit all writes of the block, or none; raise StorageBlocked or StorageUnfit.

        Without `durable` it waits for no disk: the writes survive this process, but no power cut.
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
        """Lock the connection for this thread, and translate the errors of SQLite."""
        with self._lock, translate_errors(self._path):
            if isinstance(self._db, ReadOnlyConnection):
                self._db = self._db.reopen_if_opened()
                self._db.text_factory = _decode_text
            yield
            if isinstance(self._db, ReadOnlyConnection):
                self._db.check_unchanged()
