"""Read all assigned partitions, of several topics, with one tail reader."""

from collections.abc import Iterable, Mapping
from threading import Event
from typing import Protocol

from storage.errors import OffsetOutOfRange
from storage.log.log import Log, LogPage, ReadRequest


class PartitionFeed(Protocol):
    """A partition that is read continuously."""

    partition: str

    def next_fetch(self) -> ReadRequest | None:
        """Return the next read; None for nothing at present."""

    def take(self, page: LogPage) -> None:
        """Take over a page that was read."""

    def reset_offset(self, log: Log, error: OffsetOutOfRange) -> None:
        """Set the offset to read on from in a log that lost entries."""


class FeedReader:
    """One tail reader for all partitions, so that a new entry in any of them ends a wait."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._follower = log.follow()

    def read(self, feeds: Iterable[PartitionFeed]) -> list[LogPage]:
        """Read what the feeds ask for, as far as it is in the log; return the pages."""
        by_partition = {feed.partition: feed for feed in feeds}
        pages = self._fetch(by_partition)
        for page in pages:
            by_partition[page.partition].take(page)
        return pages

    def wait(self, stop: Event, seconds: float) -> None:
        """Wait for new entries in the partitions read last, for `stop` or for `seconds`."""
        self._follower.wait(stop, seconds)

    def close(self) -> None:
        """Close the connections."""
        self._follower.close()

    def _fetch(self, by_partition: Mapping[str, PartitionFeed]) -> list[LogPage]:
        for _ in by_partition:  # each may have to go back once
            try:
                return self._follower.read(_fetches(by_partition.values()))
            except OffsetOutOfRange as error:
                if error.partition not in by_partition:
                    raise
                by_partition[error.partition].reset_offset(self._log, error)
        return self._follower.read(_fetches(by_partition.values()))


def _fetches(feeds: Iterable[PartitionFeed]) -> dict[str, ReadRequest]:
    wants = ((feed.partition, feed.next_fetch()) for feed in feeds)
    return {partition: want for partition, want in wants if want is not None}
