"""What waits in one part of the log, and how far it has been read."""

from collections.abc import Collection

import structlog

from analyzer.intake.coverage import GapTracker
from analyzer.intake.shedding import PendingWindow
from storage.errors import OffsetOutOfRange, Unreadable
from storage.log.log import Log, LogEntry, LogPage, ReadRequest, offset_after_loss
from storage.records.records import IncidentState
from storage.records.wire import decode_incident

RECENT_REVISIONS = 2000
"""Revisions of incidents that are looked back upon."""
_PAGE_SIZE = 500
_OPEN = (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)

logger = structlog.get_logger()


class WindowQueue:
    """The windows of a part that were read from the log and wait, in order.

    At most `limit` wait. It is committed only under the tenure in which it was read.
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
        """Return the position before which everything is done."""
        return min(self._pending, default=self.next_offset)

    def commit_offset_without(self, done: Collection[int]) -> int:
        """Return what `position` is once these are done, too."""
        return min((each for each in self._pending if each not in done), default=self.next_offset)

    def next_fetch(self) -> ReadRequest | None:
        """Return what to read on; None where as many wait as may."""
        room = self.limit - len(self._pending)
        return ReadRequest(self.next_offset, room) if room > 0 else None

    def take(self, page: LogPage) -> None:
        """Take what was read to what waits."""
        if page.missed:
            logger.warning("windows were dropped before they were read", missed=page.missed)
            self.gaps.record_missed()
        self._pending.update((entry.offset, entry) for entry in page)
        self.next_offset = page.next_offset

    def reset_offset(self, log: Log, error: OffsetOutOfRange) -> None:
        """Read again what a log still has: windows that are remembered are passed over."""
        position = offset_after_loss(log, self.partition, error)
        logger.error(str(error), again_from=position)
        self._pending.clear()
        self._ahead_of_clock.clear()
        self.next_offset = self.committed_offset = self._checked_offset = position

    def pending(self) -> list[PendingWindow]:
        """Return what waits, in order, also where the clock of the log stepped back."""
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
        """Return what waits and of which nobody has judged the instants, in order."""
        return [
            entry for position, entry in self._pending.items() if position >= self._checked_offset
        ]

    def mark_checked(self, ahead: Collection[int]) -> None:
        """Keep that all which waits was judged; the clock of those at `ahead` is ahead of ours."""
        self._checked_offset = self.next_offset
        self._ahead_of_clock.update(ahead)

    def is_ahead(self, offset: int) -> bool:
        """Return whether the clock of an entry is ahead of ours."""
        return offset in self._ahead_of_clock

    def entry(self, offset: int) -> LogEntry:
        """Return an entry that waits."""
        return self._pending[offset]

    def release(self, offset: int) -> None:
        """Let go of an entry."""
        del self._pending[offset]
        self._ahead_of_clock.discard(offset)


class OpenIncidents:
    """The cameras with an open incident, as the topic tells it, read in one part."""

    def __init__(self, partition: str) -> None:
        self.partition = partition
        self._next_offset: int | None = None
        self._camera_by_incident: dict[str, str] = {}

    @property
    def cameras(self) -> set[str]:
        """Return them, as far as was read."""
        return set(self._camera_by_incident.values())

    def seek_to_recent(self, log: Log) -> None:
        """Begin some revisions before the end, where nothing was read yet."""
        if self._next_offset is None:
            self._next_offset = max(
                log.start_offset(self.partition), log.end_offset(self.partition) - RECENT_REVISIONS
            )

    def next_fetch(self) -> ReadRequest | None:
        """Return what to read on; None before `begin`."""
        return None if self._next_offset is None else ReadRequest(self._next_offset, _PAGE_SIZE)

    def take(self, page: LogPage) -> None:
        """Take up what the revisions that were read say."""
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
        """Begin again, near the end of the log."""
        self._next_offset = None
        self.seek_to_recent(log)
