"""The requests of people that wait in one part of the log."""

from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from analyzer.asking import reply
from analyzer.watcher import Watcher
from storage.asks import decode_request, encode_reply
from storage.errors import BeyondEnd, PositionMoved, StorageBlocked, Unreadable
from storage.log import REPLIES, Entry, Log, Page, Want

ASKED = 4
"""Requests that are replied to between windows."""

logger = structlog.get_logger()


class Requests:
    """The requests of people in a part, a few at a time."""

    def __init__(self, part: str, position: int) -> None:
        self.part = part
        self.next = position
        self._waiting: list[Entry] = []

    def want(self) -> Want | None:
        """Return what to read on; None until those that wait were replied to."""
        return None if self._waiting else Want(self.next, ASKED)

    def take(self, page: Page) -> None:
        """Take what was read to what waits."""
        self._waiting += page
        self.next = page.next

    def go_back(self, log: Log, error: BeyondEnd) -> None:
        """Begin at the end: who asked will ask again."""
        self.next = error.end

    def reply_all(self, log: Log, watcher: Watcher, commit: Callable[[str, int], None]) -> int:
        """Reply to those that wait; return how many were looked at.

        Each is committed, by `commit(part, position)`, before it is looked at and none is looked
        at twice, whatever it does to the process or the disk: who asks can ask again.
        """
        entries, self._waiting = self._waiting, []
        for entry in entries:
            try:
                commit(self.part, entry.position + 1)
                request = decode_request(entry.value)
                if datetime.now(UTC) < request.expires_at:
                    told = encode_reply(reply(watcher, request))
                    log.append(REPLIES, request.camera, told)
            except (PositionMoved, StorageBlocked, Unreadable) as error:
                logger.warning("no reply", position=entry.position, reason=str(error))
        return len(entries)
