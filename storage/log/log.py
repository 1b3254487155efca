"""The log: entries in topics, in order, kept for a while, read from a position.

A topic is kept in one or more parts, and all values of a key are in the same part. Positions of
a part start at 0, grow and are never used again, also after `trim`. Some may hold no entry: a
broker puts markers of transactions there. A reader whose position is below `oldest` has missed
the entries between, and no other hole is a loss.
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
"""Entries before the end that are read again from a log that lost what came after."""


class LogEntry(NamedTuple):
    """One value in the log; `key` is the camera, `topic` the part that it is in.

    It was appended so many `microseconds` after 1970 began. With a `fault` it could not be
    decoded: that says why, and `value` is empty, so that no decoder takes it.
    """

    topic: str
    offset: int
    key: str
    timestamp_us: int
    value: bytes
    fault: str = ""

    @property
    def at(self) -> datetime:
        """Return the instant of its append; one that no clock shows is taken as the nearest."""
        return EPOCH + timedelta(microseconds=min(max(self.timestamp_us, 0), _MAX_TIMESTAMP_US))


class LogPage(list[LogEntry]):
    """Entries of a part in order, read from a position on, and where to read on.

    `next` is behind the last entry, and behind what is no entry: where it is `position`, nothing
    more is there. The log no longer kept the first `missed` positions.
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
    """At most `limit` entries at or after a position."""

    offset: int
    limit: int


class OffsetCommit(NamedTuple):
    """Where the owner of a part goes on, and the tenure under which it read up to there."""

    offset: int
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMessage:
    """A value to append to a topic; `key` is the camera."""

    topic: str
    key: str
    value: bytes


class GroupMembership(Protocol):
    """The parts of a topic that this one of several like readers handles; called from one thread.

    Each part has one owner at a time, as far as the log can tell: one that hangs may still think
    that it owns what another does, so what an owner writes has to bear being written twice.
    """

    def partitions(self) -> frozenset[str]:
        """Return the parts that are owned now: it changes as other readers come and go.

        Raises StorageBlocked where nothing was given for long, and StorageUnfit where a broker
        refuses this reader; both say why.
        """

    def generation(self, partition: str) -> int:
        """Return a number that changes when another may have owned the part in between.

        It is 0 for a part that is not owned now.
        """

    def committed(self, partition: str) -> int:
        """Return the position where the owner goes on; 0 when none ever committed."""

    def commit(self, partition: str, offset: int, generation: int) -> None:
        """Keep the position where the owner goes on; `tenure` is that under which it was read.

        Raises PositionMoved where the tenure is over, also if the part is owned again since, and
        StorageBlocked while it is settled anew who owns what. It may as well be a part that pairs
        off with one that is owned: the tenure is that of the owned one.
        """

    def append(self, messages: Sequence[LogMessage], commits: Mapping[str, OffsetCommit]) -> bool:
        """Append messages in order, durable on return, and keep positions where one file has both.

        Return whether the positions were kept with the messages; if not, commit them next.
        Raises PositionMoved, whose `topic` is the part that another owns now, StorageBlocked and
        TooLarge as `append_messages` does; nothing was written then where positions are kept.
        """

    def keepalive(self, seconds: float) -> None:
        """Say that this reader will be heard of within so many seconds; else it loses its parts."""

    def close(self) -> None:
        """Give the parts to the others."""


class TailReader(Protocol):
    """A reader that follows many parts at once, at their ends most of the time.

    It is used by one thread. It keeps no position: what was read and not used is read again.
    """

    def read(self, requests: Mapping[str, ReadRequest]) -> list[LogPage]:
        """Return a page for each of these parts in which anything is there by now; never waits.

        A part that is left out is fetched no further. Raises StorageBlocked, and BeyondEnd of
        one part, where the others lose nothing.
        """

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when something came in what was wanted last, `stop` is set, or time is over."""

    def close(self) -> None:
        """Let go of the connections."""


class Log(Protocol):
    """Append and read entries; every method may be called from any thread.

    Every method raises StorageBlocked when it cannot be done for now.
    """

    def partitions(self, topic: str) -> tuple[str, ...]:
        """Return the parts of a topic, in order; where there is one it is the topic itself.

        The parts of two topics pair off: a key that is in the third of one is in the third of
        the other. Behind them may come parts that others added to a topic, and write to.
        """

    def partition_for(self, topic: str, key: str) -> str:
        """Return the part of a topic that a key is in."""

    def identity(self, partition: str) -> str:
        """Return what tells the log that holds a part from any that takes its place, for ever."""

    def join_group(self, group: str, topic: str) -> GroupMembership:
        """Take a share of a topic among all that joined as the same reader."""

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Write all values, durable on return; return the position of the last in its part.

        Raises StorageBlocked, where a log on a broker may have kept some of them, and TooLarge,
        where none was kept.
        """

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Do the same for values of different keys: (key, value)."""

    def append_messages(self, messages: Sequence[LogMessage]) -> None:
        """Write messages of several topics, durable on return: all or none where it is one file.

        On a broker each is acknowledged before one of the next topic is sent. Raises
        StorageBlocked, where a broker may have kept the first ones, and TooLarge, where none
        was kept.
        """

    def follow(self) -> TailReader:
        """Return a reader for who reads on all the time."""

    def read(
        self, partition: str, offset: int, limit: int = 100, key: str | None = None
    ) -> LogPage:
        """Return at most `limit` entries at or after `position`, in order, perhaps of one key.

        Raises BeyondEnd where the part ends before `position`.
        """

    def start_offset(self, partition: str) -> int:
        """Return the first position still kept; `next` when none is."""

    def end_offset(self, partition: str) -> int:
        """Return the position that the next append will get."""

    def committed(self, group: str, partition: str) -> int:
        """Return the position where this reader goes on; 0 when it never committed."""

    def commit(self, group: str, partition: str, offset: int) -> None:
        """Keep the position where this reader goes on."""

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when something may have been appended, `stop` is set, or the time is over.

        A log that is not told of appends returns after a while. What was appended since this
        thread last waited ends the wait at once: a reader that found nothing misses nothing.
        """

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries beyond this many bytes or this age; return how many went.

        Where a broker does this by itself nothing goes here.
        """

    def close(self) -> None:
        """Let go of the files; what was appended stays."""


def read_range(
    log: Log, partition: str, first: int, end: int, at_once: int = 100
) -> Iterator[LogEntry]:
    """Yield the entries of a part from a position up to another, page by page."""
    while first < end:
        page = log.read(partition, first, limit=min(at_once, end - first))
        yield from (entry for entry in page if entry.offset < end)
        if page.next_offset == first:
            return
        first = page.next_offset


def offset_after_loss(log: Log, partition: str, error: OffsetOutOfRange) -> int:
    """Return where to go on in a part that lost some of what it had, or all.

    What was appended since may stand where something else was read before; what is read twice
    is known by its name.
    """
    return max(log.start_offset(partition), error.end_offset - REREAD_ENTRIES)


def append_timestamp(values: Sequence[object]) -> int:
    """Return the microseconds of an append; raise ValueError where there is nothing to append."""
    if not values:
        raise ValueError("append at least one value")
    return to_microseconds(datetime.now(UTC))


def to_microseconds(at: datetime) -> int:
    """Return how many microseconds after 1970 began an instant is."""
    return (at - EPOCH) // timedelta(microseconds=1)


def expired_sizes(rows: Iterable[tuple[bool, int]], surplus: int) -> list[int]:
    """Return the sizes of the entries that go, given (too old, size) from the oldest on."""
    sizes = []
    for too_old, size in rows:
        if not too_old and surplus <= 0:
            break
        surplus -= size
        sizes.append(size)
    return sizes
