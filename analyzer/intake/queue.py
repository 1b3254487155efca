"""The windows and open incidents of one partition, read from the log."""

from collections.abc import Collection

import structlog

from analyzer.intake.coverage import GapTracker
from analyzer.intake.shedding import PendingWindow
from storage.errors import OffsetOutOfRange, Unreadable
from storage.log.log import Log, LogEntry, LogPage, ReadRequest, offset_after_loss
from storage.records.records import IncidentState
from storage.records.wire import decode_incident

RECENT_REVISIONS = 2000
"""Revisions of incidents before the end that are read first."""
_PAGE_SIZE = 500
_OPEN = (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)

logger = structlog.get_logger()


class WindowQueue:
    """The pending windows of a partition, in order, at most `limit` of them.

    They are committed only under the generation in which they were read.
    """

    def __init__(self, partition: str, offset: int, generation: int) -> None:
        self.partition = partition
        self.generation = generation
        self.limit = 0
        self.gaps = GapTracker()
        self.next_offset = self.committed_offset = self._checked_offset = offset
        self._pending: dict[int, LogEntry] = {}
        self._ahead_of_clock = set[int]()

    @property
    def commit_offset(self) -> int:
        """Return the offset before which everything is done."""
        return min(self._pending, default=self.next_offset)

    def commit_offset_without(self, done: Collection[int]) -> int:
        """Return the `commit_offset` once these offsets are done, too."""
        return min((each for each in self._pending if each not in done), default=self.next_offset)

    def next_fetch(self) -> ReadRequest | None:
        """Return the next read; None if `limit` windows are pending."""
        room = self.limit - len(self._pending)
        return ReadRequest(self.next_offset, room) if room > 0 else None

    def take(self, page: LogPage) -> None:
        """Add the entries of a page to the pending ones."""
        if page.missed:
            logger.warning("windows were dropped before they were read", missed=page.missed)
            self.gaps.record_missed()
        self._pending.update((entry.offset, entry) for entry in page)
        self.next_offset = page.next_offset

    def reset_offset(self, log: Log, error: OffsetOutOfRange) -> None:
        """Read the log again from its new start; the memories skip windows that they contain."""
        position = offset_after_loss(log, self.partition, error)
        logger.error(str(error), again_from=position)
        self._pending.clear()
        self._ahead_of_clock.clear()
        self.next_offset = self.committed_offset = self._checked_offset = position

    def pending(self) -> list[PendingWindow]:
        """Return the pending windows in order, with arrival times that never decrease."""
        found, at = list[PendingWindow](), float("-inf")
        for position, entry in self._pending.items():
            at = max(at, entry.at.timestamp())
            found.append(
                PendingWindow(
                    camera=entry.key, partition=self.partition, offset=position, arrived_at=at
                )
            )
        return found

    def unchecked(self) -> list[LogEntry]:
        """Return the pending entries whose times are not checked yet, in order."""
        return [
            entry for position, entry in self._pending.items() if position >= self._checked_offset
        ]

    def mark_checked(self, ahead: Collection[int]) -> None:
        """Mark all pending entries as checked; the clock of those at `ahead` is ahead of ours."""
        self._checked_offset = self.next_offset
        self._ahead_of_clock.update(ahead)

    def is_ahead(self, offset: int) -> bool:
        """Return whether the clock of an entry is ahead of ours."""
        return offset in self._ahead_of_clock

    def entry(self, offset: int) -> LogEntry:
        """Return a pending entry."""
        return self._pending[offset]

    def release(self, offset: int) -> None:
        """Remove an entry that is done."""
        del self._pending[offset]
        self._ahead_of_clock.discard(offset)


class OpenIncidents:
    """The cameras with an open incident, by the revisions in one partition."""

    def __init__(self, partition: str) -> None:
        self.partition = partition
        self._next_offset: int | None = None
        self._camera_by_incident: dict[str, str] = {}

    @property
    def cameras(self) -> set[str]:
        """Return the cameras with an open incident, as far as it was read."""
        return set(self._camera_by_incident.values())

    def seek_to_recent(self, log: Log) -> None:
        """Start RECENT_REVISIONS before the end if nothing was read yet."""
        if self._next_offset is None:
            self._next_offset = max(
                log.start_offset(self.partition), log.end_offset(self.partition) - RECENT_REVISIONS
            )

    def next_fetch(self) -> ReadRequest | None:
        """Return the next read; None before `seek_to_recent`."""
        return None if self._next_offset is None else ReadRequest(self._next_offset, _PAGE_SIZE)

    def take(self, page: LogPage) -> None:
        """Update the open incidents by the revisions of a page."""
        self._next_offset = page.next_offset
        for entry in page:
            try:
                incident = decode_incident(entry.value)
            except Unreadable:
                continue
            self._camera_by_incident.pop(str(incident.id), None)
            if incident.state in _OPEN:
                self._camera_by_incident[str(incident.id)] = incident.camera

    def reset_offset(self, log: Log, error: OffsetOutOfRange) -> None:
        """Start again near the end of the log."""
        self._next_offset = None
        self.seek_to_recent(log)
