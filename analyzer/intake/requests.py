"""The requests of people that wait in one part of the log."""

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
"""Requests that are replied to between windows."""

logger = structlog.get_logger()


class RequestQueue:
    """The requests of people in a part, a few at a time."""

    def __init__(self, partition: str, offset: int) -> None:
        self.partition = partition
        self.next_offset = offset
        self._pending: list[LogEntry] = []

    def next_fetch(self) -> ReadRequest | None:
        """Return what to read on; None until those that wait were replied to."""
        return None if self._pending else ReadRequest(self.next_offset, REPLIES_AT_ONCE)

    def take(self, page: LogPage) -> None:
        """Take what was read to what waits."""
        self._pending += page
        self.next_offset = page.next_offset

    def reset_offset(self, log: Log, error: OffsetOutOfRange) -> None:
        """Begin at the end: who asked will ask again."""
        self.next_offset = error.end_offset

    def reply_all(self, log: Log, watcher: Watcher, commit: Callable[[str, int], None]) -> int:
        """Reply to those that wait; return how many were looked at.

        Each is committed, by `commit(part, position)`, before it is looked at and none is looked
        at twice, whatever it does to the process or the disk: who asks can ask again.
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
