"""The log of one machine: a SQLite file."""

import heapq
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice
from pathlib import Path
from threading import Event

from storage.errors import OffsetOutOfRange
from storage.log.change_waiter import ChangeWaiter
from storage.log.entry_keys import printable_key
from storage.log.log import (
    LogEntry,
    LogMessage,
    LogPage,
    expired_sizes,
    to_microseconds,
)
from storage.log.sole import SequentialTailReader
from storage.log.sqlite.file import SqliteFile
from storage.log.sqlite.membership import SqliteGroupMembership

PARTITIONS = 12
"""Partitions of a topic in a new log: at most this many analyzers share the cameras."""
_TRIM_BATCH = 50
"""Entries dropped in one transaction: windows of 1 MB take about a tenth of a second."""
_ENTRIES = "SELECT topic, position, key, at, value FROM entries WHERE topic = ? AND position >= ?"


class SqliteLog(SqliteFile):
    """A log in one SQLite file; any number of processes may each open it and use it at once.

    Later appends reuse the space of trimmed entries, so the file stays near the largest size it
    was allowed to keep. Local disks only: SQLite's WAL needs shared memory.
    """

    def __init__(self, path: Path, partitions: int = 1, *, read_only: bool = False) -> None:
        self._memberships: list[SqliteGroupMembership] = []
        self._change_waiter = ChangeWaiter(self._data_version)
        super().__init__(path, partitions, read_only=read_only)

    def identity(self, partition: str) -> str:
        """Return an id of this file; a copy of the file has the same id."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        with self._locked():
            ((found,),) = self._db.execute("SELECT identity FROM layout").fetchall()
        return str(found)

    def join_group(self, group: str, topic: str) -> SqliteGroupMembership:
        """Join the group that shares the partitions of a topic."""
        membership = SqliteGroupMembership(self, group, topic)
        self._memberships.append(membership)
        return membership

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Append all values or none, durable on return; return the offset of the last one.

        Raises StorageFull if the disk is full.
        """
        return self.append_all(topic, [(key, value) for value in values])

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Append (key, value) pairs, as `append` does."""
        messages = [LogMessage(topic=topic, key=key, value=value) for key, value in values]
        with self.transaction():
            ends = self.write_messages(messages)
        return ends[self.partition_for(topic, values[-1][0])] - 1

    def append_messages(self, messages: Sequence[LogMessage]) -> None:
        """Append all messages or none, durable on return; raise StorageFull if the disk is full."""
        with self.transaction():
            self.write_messages(messages)

    def read(
        self, partition: str, offset: int, limit: int = 100, key: str | None = None
    ) -> LogPage:
        """Return at most `limit` entries at or after `offset`, in order, optionally of one key."""
        if key is not None:
            return self._read_key(partition, offset, limit, key)
        query = f"{_ENTRIES} ORDER BY position LIMIT ?"
        with self._locked():
            rows = self._db.execute(query, (partition, offset, limit)).fetchall()
            start, end = (offset, offset) if rows else self._offset_range(partition)
        if offset > end:
            raise OffsetOutOfRange(partition, offset, end)
        entries = [_entry(*row) for row in rows]
        first = entries[0].offset if entries else max(offset, start)
        next_offset = entries[-1].offset + 1 if entries else first
        return _page(entries, partition, offset, next_offset, first)

    def _read_key(self, partition: str, offset: int, limit: int, key: str) -> LogPage:
        query = f"{_ENTRIES} AND position < ? AND key = ? ORDER BY position LIMIT ?"
        with self._locked():
            start, end = self._offset_range(partition)
            rows = self._db.execute(query, (partition, offset, end, key, limit)).fetchall()
        if offset > end:
            raise OffsetOutOfRange(partition, offset, end)
        entries, first = [_entry(*row) for row in rows], max(offset, start)
        after_last = entries[-1].offset + 1 if entries else first
        next_offset = after_last if len(entries) == limit else max(first, end)
        return _page(entries, partition, offset, next_offset, first)

    def _offset_range(self, partition: str) -> tuple[int, int]:
        return self.start_offset(partition), self.end_offset(partition)

    def follow(self) -> SequentialTailReader:
        """Return a reader that follows the ends of partitions."""
        return SequentialTailReader(self)

    def start_offset(self, partition: str) -> int:
        """Return the first offset still kept; the end offset if none is."""
        return self._select_number("SELECT oldest FROM topics WHERE topic = ?", partition)

    def end_offset(self, partition: str) -> int:
        """Return the offset of the next append."""
        return self._select_number("SELECT next FROM topics WHERE topic = ?", partition)

    def commit(self, group: str, partition: str, offset: int) -> None:
        """Commit the next offset for this group."""
        with self.transaction():
            self.write_offset(group, partition, offset)

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when any process has committed, `stop` is set or time is up."""
        self._change_waiter.wait(stop, seconds)

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries of all partitions beyond this size or age; return how many.

        It uses short transactions, between which others append.
        """
        cutoff, total = to_microseconds(datetime.now(UTC) - keep_for), 0
        while True:
            trimmed = self._trim_batch(self.partitions(topic), keep_bytes, cutoff)
            total += trimmed
            if trimmed < _TRIM_BATCH:
                return total

    def _trim_batch(self, partitions: Sequence[str], keep_bytes: int, cutoff: int) -> int:
        """Drop one batch in one transaction; return how many entries it had."""
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
        """Return the sizes of the entries to drop from each partition, oldest first."""
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
        """Drop the oldest entries of a partition, which have these sizes."""
        self._db.execute(
            "UPDATE topics SET oldest = oldest + ?, bytes = bytes - ? WHERE topic = ?",
            (len(sizes), sum(sizes), partition),
        )
        self._db.execute(
            "DELETE FROM entries WHERE topic = ? AND position < ?",
            (partition, self.start_offset(partition)),
        )

    def close(self) -> None:
        """Leave all groups and close the file; what was appended stays."""
        for membership in self._memberships:
            membership.close()
        super().close()


def _page(
    entries: list[LogEntry], partition: str, offset: int, next_offset: int, first: int
) -> LogPage:
    missed = first - offset
    return LogPage(
        entries, partition=partition, offset=offset, next_offset=next_offset, missed=missed
    )


def _entry(partition: str, offset: int, key: str | bytes, at: object, value: object) -> LogEntry:
    """Return an entry; other programs may have written any type into its columns."""
    at = at if isinstance(at, int) else 0
    value = value if isinstance(value, bytes) else str(value).encode()
    return LogEntry(partition, offset, printable_key(key), at, value)
