"""A log in the memory of one process."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from threading import Event
from uuid import uuid4

from storage.errors import OffsetMoved, OffsetOutOfRange
from storage.log.change_waiter import ChangeWaiter
from storage.log.log import (
    LogEntry,
    LogMessage,
    LogPage,
    OffsetCommit,
    append_timestamp,
    expired_sizes,
    to_microseconds,
)
from storage.log.partitions import paired_partition, partition_for_key, partition_names
from storage.log.sole import SequentialTailReader, SoleMembership


@dataclass(slots=True)
class _Partition:
    start_offset: int = 0
    entries: list[LogEntry] = field(default_factory=list)

    @property
    def end_offset(self) -> int:
        return self.start_offset + len(self.entries)


class MemoryLog:
    """A log in the memory of one process, for tests and backtests."""

    def __init__(self, partitions: int = 1, now: Callable[[], datetime] | None = None) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._partition_count = partitions
        self._identity = str(uuid4())
        self._partitions: defaultdict[str, _Partition] = defaultdict(_Partition)
        self._committed: dict[tuple[str, str], int] = {}
        self._appends = 0
        self._change_waiter = ChangeWaiter(lambda: self._appends)
        self._assignments: dict[tuple[str, str], _GroupAssignment] = {}

    def partitions(self, topic: str) -> tuple[str, ...]:
        """Return the partitions of a topic, in order; a single one has the name of the topic."""
        return partition_names(topic, self._partition_count)

    def partition_for(self, topic: str, key: str) -> str:
        """Return the partition of a topic that a key is in."""
        return partition_for_key(self.partitions(topic), key)

    def identity(self, partition: str) -> str:
        """Return an id that no other log has."""
        return self._identity

    def join_group(self, group: str, topic: str) -> SoleMembership:
        """Join the group that shares the partitions of a topic."""
        if self._partition_count == 1:
            return SoleMembership(self, group, topic)
        assignment = self._assignments.setdefault(
            (group, topic), _GroupAssignment(self.partitions(topic))
        )
        return _MemoryMembership(self, group, topic, assignment)

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Append all values; return the offset of the last one."""
        return self.append_all(topic, [(key, value) for value in values])

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Append (key, value) pairs; return the offset of the last one."""
        at = append_timestamp(values)
        if self._now is not None:
            at = to_microseconds(self._now())
        with self._lock:
            for key, value in values:
                partition = self.partition_for(topic, key)
                stored = self._partitions[partition]
                offset = stored.end_offset
                entry = LogEntry(partition, offset, key, at, value)
                stored.entries.append(entry)
            self._appends += 1
            return offset

    def append_messages(self, messages: Sequence[LogMessage]) -> None:
        """Append messages in order."""
        for (topic, key), run in groupby(messages, lambda each: (each.topic, each.key)):
            self.append(topic, key, *(each.value for each in run))

    def read(
        self, partition: str, offset: int, limit: int = 100, key: str | None = None
    ) -> LogPage:
        """Return at most `limit` entries at or after `offset`, in order, optionally of one key."""
        with self._lock:
            stored = self._partitions[partition]
            if offset > stored.end_offset:
                raise OffsetOutOfRange(partition, offset, stored.end_offset)
            first = max(offset, stored.start_offset)
            later = islice(stored.entries, first - stored.start_offset, None)
            entries = list(islice((e for e in later if key in (None, e.key)), limit))
            after_last = entries[-1].offset + 1 if entries else first
            next_offset = after_last if len(entries) == limit else stored.end_offset
        missed = first - offset
        return LogPage(
            entries, partition=partition, offset=offset, next_offset=next_offset, missed=missed
        )

    def follow(self) -> SequentialTailReader:
        """Return a reader that follows the ends of partitions."""
        return SequentialTailReader(self)

    def start_offset(self, partition: str) -> int:
        """Return the first offset still kept; the end offset if none is."""
        with self._lock:
            return self._partitions[partition].start_offset

    def end_offset(self, partition: str) -> int:
        """Return the offset of the next append."""
        with self._lock:
            return self._partitions[partition].end_offset

    def committed(self, group: str, partition: str) -> int:
        """Return the next offset for this group; 0 if it never committed."""
        with self._lock:
            return self._committed.get((group, partition), 0)

    def commit(self, group: str, partition: str, offset: int) -> None:
        """Commit the next offset for this group."""
        with self._lock:
            self._committed[group, partition] = offset

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when there are new entries, `stop` is set or time is up."""
        self._change_waiter.wait(stop, seconds)

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries of each partition beyond this size or age; return how many."""
        cutoff, total = datetime.now(UTC) - keep_for, 0
        with self._lock:
            for partition in self.partitions(topic):
                stored = self._partitions[partition]
                rows = [(entry.at < cutoff, len(entry.value)) for entry in stored.entries]
                sizes = expired_sizes(rows, sum(size for _, size in rows) - keep_bytes)
                del stored.entries[: len(sizes)]
                stored.start_offset += len(sizes)
                total += len(sizes)
        return total

    def close(self) -> None:
        """Do nothing: there is no file."""


class _GroupAssignment:
    """The members of a group; they own the partitions in turn."""

    def __init__(self, partitions: Sequence[str]) -> None:
        self._partitions = partitions
        self._members: list[_MemoryMembership] = []
        self._owners: dict[str, _MemoryMembership] = {}
        self._generations = dict.fromkeys(partitions, 0)

    def add(self, membership: "_MemoryMembership") -> None:
        self._members.append(membership)
        self._rebalance()

    def remove(self, membership: "_MemoryMembership") -> None:
        self._members.remove(membership)
        self._rebalance()

    def owned_by(self, membership: "_MemoryMembership") -> dict[str, int]:
        """Return the generations of the partitions that one member owns."""
        return {
            partition: self._generations[partition]
            for partition, by in self._owners.items()
            if by is membership
        }

    def _rebalance(self) -> None:
        for nth, partition in enumerate(self._partitions if self._members else ()):
            owner = self._members[nth % len(self._members)]
            if self._owners.get(partition) is not owner:
                self._owners[partition] = owner
                self._generations[partition] += 1
        if not self._members:
            self._owners.clear()


class _MemoryMembership(SoleMembership):
    """The partitions that one member of a group owns."""

    def __init__(
        self, log: MemoryLog, group: str, topic: str, assignment: _GroupAssignment
    ) -> None:
        super().__init__(log, group, topic)
        self._topic = topic
        self._assignment = assignment
        assignment.add(self)

    def partitions(self) -> frozenset[str]:
        """Return the partitions owned now."""
        return frozenset(self._assignment.owned_by(self))

    def generation(self, partition: str) -> int:
        """Return how often the partition had changed owners when this member got it."""
        return self._assignment.owned_by(self).get(partition, 0)

    def commit(self, partition: str, offset: int, generation: int) -> None:
        """Commit the next offset; OffsetMoved if the generation is over."""
        self._check_owner(partition, OffsetCommit(offset, generation))
        super().commit(partition, offset, generation)

    def append(self, messages: Sequence[LogMessage], commits: Mapping[str, OffsetCommit]) -> bool:
        """Append messages in order; OffsetMoved, and nothing appended, if a generation is over."""
        for partition, commit in commits.items():
            self._check_owner(partition, commit)
        return super().append(messages, commits)

    def close(self) -> None:
        """Leave the group."""
        self._assignment.remove(self)

    def _check_owner(self, partition: str, commit: OffsetCommit) -> None:
        owned = paired_partition(partition, self._topic)
        if self._assignment.owned_by(self).get(owned) != commit.generation:
            raise OffsetMoved(self._group, partition, commit.offset)
