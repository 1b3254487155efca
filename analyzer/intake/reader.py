"""Reading on in all parts of the log that an analyzer owns, of several topics, at once."""

from collections.abc import Iterable, Mapping
from threading import Event
from typing import Protocol

from storage.errors import OffsetOutOfRange
from storage.log.log import Log, LogPage, ReadRequest


class PartitionFeed(Protocol):
    """One part that is read on."""

    partition: str

    def next_fetch(self) -> ReadRequest | None:
        """Return what to read on; None for nothing, by now."""

    def take(self, page: LogPage) -> None:
        """Take what was read."""

    def reset_offset(self, log: Log, error: OffsetOutOfRange) -> None:
        """Choose where to read on in a log that lost what it had; `want` returns it."""


class FeedReader:
    """One follower of the log for all parts, so that whatever comes ends a wait."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._follower = log.follow()

    def read(self, feeds: Iterable[PartitionFeed]) -> list[LogPage]:
        """Read on in parts that want something, as far as it is there; return what came."""
        by_part = {feed.partition: feed for feed in feeds}
        pages = self._fetch(by_part)
        for page in pages:
            by_part[page.partition].take(page)
        return pages

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when something came in what was read last, `stop` is set, or time is over."""
        self._follower.wait(stop, seconds)

    def close(self) -> None:
        """Let go of the connections."""
        self._follower.close()

    def _fetch(self, by_part: Mapping[str, PartitionFeed]) -> list[LogPage]:
        for _ in by_part:  # each may have to go back once
            try:
                return self._follower.read(_fetches(by_part.values()))
            except OffsetOutOfRange as error:
                if error.partition not in by_part:
                    raise
                by_part[error.partition].reset_offset(self._log, error)
        return self._follower.read(_fetches(by_part.values()))


def _fetches(feeds: Iterable[PartitionFeed]) -> dict[str, ReadRequest]:
    wants = ((feed.partition, feed.next_fetch()) for feed in feeds)
    return {part: want for part, want in wants if want is not None}
