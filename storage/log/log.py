"""The log: entries in topics, in order, kept for a while, read from an offset.

A topic has one or more partitions; all values of a key are in the same partition. Offsets of a
partition start at 0, grow and are never reused, even after `trim`. Some have no entry: a broker
puts transaction markers there. A reader whose offset is below `start_offset` has missed the
entries between; no other gap is a loss.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import NamedTuple, Protocol

from storage.errors import OffsetOutOfRange

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TIMESTAMP_US = 2**57  # microseconds: the year 6537
REREAD_ENTRIES = 20_000
"""How many entries before its end are read again from a log that lost later ones."""


class LogEntry(NamedTuple):
    """One value in the log; `key` is the camera, `topic` the partition.

    `timestamp_us` is the time of the append in microseconds since 1970. `fault` says why the
    entry could not be decoded; `value` is then empty.
    """

    topic: str
    offset: int
    key: str
    timestamp_us: int
    value: bytes
    fault: str = ""

    @property
    def at(self) -> datetime:
        """Return the time of the append, clamped to what a datetime can represent."""
        return EPOCH + timedelta(microseconds=min(max(self.timestamp_us, 0), _MAX_TIMESTAMP_US))


class LogPage(list[LogEntry]):
    """Entries of a partition in order, read from `offset`.

    `next_offset` is past the last entry and past offsets without an entry; if it equals `offset`,
    there is nothing more. The log had already dropped the first `missed` offsets.
    """

    def __init__(
        self,
        entries: Iterable[LogEntry],
        *,
        partition: str,
        offset: int,
        next_offset: int,
        missed: int = 0,
    ) -> None:
        super().__init__(entries)
        self.partition = partition
        self.offset = offset
        self.next_offset = next_offset
        self.missed = missed


class ReadRequest(NamedTuple):
    """At most `limit` entries at or after an offset."""

    offset: int
    limit: int


class OffsetCommit(NamedTuple):
    """The next offset for the owner of a partition, and the generation in which it read so far."""

    offset: int
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMessage:
    """A value to append to a topic; `key` is the camera."""

    topic: str
    key: str
    value: bytes


class GroupMembership(Protocol):
    """The partitions of a topic that one member of a group owns; used by one thread.

    Each partition has one owner at a time, as far as the log knows: a member that hangs may still
    believe it owns a partition, so the writes of an owner must be idempotent.
    """

    def partitions(self) -> frozenset[str]:
        """Return the partitions owned now; they change as members join and leave.

        Raises StorageBlocked if nothing was assigned for long, and StorageUnfit if a broker
        refuses this member; both say why.
        """

    def generation(self, partition: str) -> int:
        """Return a number that changes if another member may have owned the partition meanwhile.

        It is 0 for a partition that is not owned now.
        """

    def committed(self, partition: str) -> int:
        """Return the next offset for the owner; 0 if none was ever committed."""

    def commit(self, partition: str, offset: int, generation: int) -> None:
        """Commit the next offset, read in `generation`.

        Raises OffsetMoved if that generation is over, even if the partition is owned again, and
        StorageBlocked during a rebalance. The partition may also be one paired with an owned one:
        `generation` is then that of the owned one.
        """

    def append(self, messages: Sequence[LogMessage], commits: Mapping[str, OffsetCommit]) -> bool:
        """Append messages in order, durable on return, and commit offsets if one file has both.

        Return whether the offsets were committed with the messages; if not, commit them next.
        Raises OffsetMoved, whose `partition` another member owns now, and StorageBlocked and
        TooLarge as `append_messages` does. A log that commits both wrote nothing then.
        """

    def keepalive(self, seconds: float) -> None:
        """Promise another call within `seconds`; without one this member loses its partitions."""

    def close(self) -> None:
        """Leave the group: the other members take over the partitions."""


class TailReader(Protocol):
    """A reader that follows the ends of many partitions; used by one thread.

    It keeps no offset: ask again for entries that were read and not used.
    """

    def read(self, requests: Mapping[str, ReadRequest]) -> list[LogPage]:
        """Return a page for each of these partitions that has new entries; never waits.

        A partition that is left out is no longer fetched. Raises StorageBlocked, and
        OffsetOutOfRange for one partition, which costs the others nothing.
        """

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when a partition of the last read has more, `stop` is set or time is up."""

    def close(self) -> None:
        """Close the connections."""


class Log(Protocol):
    """Append and read entries; every method may be called from any thread.

    Every method raises StorageBlocked when it cannot be done for now.
    """

    def partitions(self, topic: str) -> tuple[str, ...]:
        """Return the partitions of a topic, in order; a single one has the name of the topic.

        The partitions of two topics pair up: a key in the third of one is in the third of the
        other. Partitions that other programs added to a topic and write to come last.
        """

    def partition_for(self, topic: str, key: str) -> str:
        """Return the partition of a topic that a key is in."""

    def identity(self, partition: str) -> str:
        """Return an id of the log behind a partition; one that replaces it has another id."""

    def join_group(self, group: str, topic: str) -> GroupMembership:
        """Join the group that shares the partitions of a topic."""

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Append all values, durable on return; return the offset of the last one.

        Raises StorageBlocked, after which a broker may have kept some of them, and TooLarge,
        after which none was kept.
        """

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Append (key, value) pairs, as `append` does."""

    def append_messages(self, messages: Sequence[LogMessage]) -> None:
        """Append messages of several topics, durable on return; in one file all or none.

        A broker acknowledges those of a topic before the next topic is sent. Raises
        StorageBlocked, after which a broker may have kept the first ones, and TooLarge, after
        which none was kept.
        """

    def follow(self) -> TailReader:
        """Return a reader that follows the ends of partitions."""

    def read(
        self, partition: str, offset: int, limit: int = 100, key: str | None = None
    ) -> LogPage:
        """Return at most `limit` entries at or after `offset`, in order, optionally of one key.

        Raises OffsetOutOfRange if the partition ends before `offset`.
        """

    def start_offset(self, partition: str) -> int:
        """Return the first offset still kept; the end offset if none is."""

    def end_offset(self, partition: str) -> int:
        """Return the offset of the next append."""

    def committed(self, group: str, partition: str) -> int:
        """Return the next offset for this group; 0 if it never committed."""

    def commit(self, group: str, partition: str, offset: int) -> None:
        """Commit the next offset for this group."""

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when there may be new entries, `stop` is set or time is up.

        A log that is not notified of appends returns after a while. Entries appended since this
        thread last waited end the wait at once.
        """

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries beyond this size or age; return how many were dropped.

        On a broker this does nothing: the topic's own retention does it.
        """

    def close(self) -> None:
        """Close files and connections; appended entries stay."""


def read_range(
    log: Log, partition: str, first: int, end: int, at_once: int = 100
) -> Iterator[LogEntry]:
    """Yield the entries of a partition from offset `first` to before `end`, page by page."""
    while first < end:
        page = log.read(partition, first, limit=min(at_once, end - first))
        yield from (entry for entry in page if entry.offset < end)
        if page.next_offset == first:
            return
        first = page.next_offset


def offset_after_loss(log: Log, partition: str, error: OffsetOutOfRange) -> int:
    """Return the offset from which to read a partition that lost entries.

    Entries appended since may have offsets that other entries had before; an entry that is read
    twice is recognised by its id.
    """
    return max(log.start_offset(partition), error.end_offset - REREAD_ENTRIES)


def append_timestamp(values: Sequence[object]) -> int:
    """Return the timestamp of an append in microseconds; raise ValueError if there is no value."""
    if not values:
        raise ValueError("append at least one value")
    return to_microseconds(datetime.now(UTC))


def to_microseconds(at: datetime) -> int:
    """Return the microseconds since 1970."""
    return (at - EPOCH) // timedelta(microseconds=1)


def expired_sizes(rows: Iterable[tuple[bool, int]], surplus: int) -> list[int]:
    """Return the sizes of the entries to drop, given (is too old, size) from the oldest on."""
    sizes = []
    for is_too_old, size in rows:
        if not is_too_old and surplus <= 0:
            break
        surplus -= size
        sizes.append(size)
    return sizes
