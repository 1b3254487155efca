"""The pending requests of people in one partition."""

from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from analyzer.asking import reply
from analyzer.watcher import Watcher
from storage.errors import OffsetMoved, OffsetOutOfRange, StorageBlocked, Unreadable
from storage.log.log import Log, LogEntry, LogPage, ReadRequest
from storage.records.query_wire import decode_request, encode_reply
from storage.records.topics import REPLIES

REPLIES_AT_ONCE = 4
"""Requests that are answered between two batches of windows."""

logger = structlog.get_logger()


class RequestQueue:
    """The requests of one partition, a few at a time."""

    def __init__(self, partition: str, offset: int) -> None:
        self.partition = partition
        self.next_offset = offset
        self._pending: list[LogEntry] = []

    def next_fetch(self) -> ReadRequest | None:
        """Return the next read; None while requests are pending."""
        return None if self._pending else ReadRequest(self.next_offset, REPLIES_AT_ONCE)

    def take(self, page: LogPage) -> None:
        """Add the entries of a page to the pending ones."""
        self._pending += page
        self.next_offset = page.next_offset

    def reset_offset(self, log: Log, error: OffsetOutOfRange) -> None:
        """Skip to the end: people can ask again."""
        self.next_offset = error.end_offset

    def reply_all(self, log: Log, watcher: Watcher, commit: Callable[[str, int], None]) -> int:
        """Handle the pending requests; return their number.

        `commit(partition, offset)` commits each before it is handled, so that a request which
        kills the process or fills the disk is not repeated: people can ask again.
        """
        entries, self._pending = self._pending, []
        for entry in entries:
            try:
                commit(self.partition, entry.offset + 1)
                request = decode_request(entry.value)
                if datetime.now(UTC) < request.expires_at:
                    encoded = encode_reply(reply(watcher, request))
                    log.append(REPLIES, request.camera, encoded)
            except (OffsetMoved, StorageBlocked, Unreadable) as error:
                logger.warning("no reply", position=entry.offset, reason=str(error))
        return len(entries)
