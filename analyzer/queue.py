"""What waits in one part of the log, and how far it has been read."""

from collections.abc import Collection

import structlog

from analyzer.coverage import Seen
from analyzer.shedding import Waiting
from storage.errors import BeyondEnd, Unreadable
from storage.log import Entry, Log, after_loss, between
from storage.records import IncidentState
from storage.wire import decode_incident

TAIL = 2000
"""Revisions of incidents that are looked back upon."""
_OPEN = (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)

logger = structlog.get_logger()


class Queue:
    """The windows of a part that were read from the log and wait, in order."""

    def __init__(self, part: str, position: int, tenure: int) -> None:
        self.part = part
        self.tenure = tenure
        self.seen = Seen()
        self.next = self.committed = self._judged = position
        self._waiting: dict[int, Entry] = {}
        self._ahead = set[int]()

    @property
    def position(self) -> int:
        """Return the position before which everything is done."""
        return min(self._waiting, default=self.next)

    def position_without(self, done: Collection[int]) -> int:
        """Return what `position` is once these are done, too."""
        return min((each for each in self._waiting if each not in done), default=self.next)

    def fill(self, log: Log, limit: int) -> list[Entry]:
        """Read on until so many wait; return what came."""
        try:
            fresh = self._read(log, limit)
        except BeyondEnd as error:
            self._go_back(after_loss(log, self.part, error), error)
            fresh = self._read(log, limit)
        if fresh and fresh[0].position > self.next:
            missed = fresh[0].position - self.next
            logger.warning("windows were dropped before they were read", missed=missed)
            self.seen.missed()
        for entry in fresh:
            self._waiting[entry.position] = entry
            self.next = entry.position + 1
        return fresh

    def _read(self, log: Log, limit: int) -> list[Entry]:
        return log.read(self.part, self.next, limit=max(0, limit - len(self._waiting)))

    def _go_back(self, position: int, error: BeyondEnd) -> None:
        """Read again: windows that are remembered are passed over."""
        logger.error(str(error), again_from=position)
        self._waiting.clear()
        self._ahead.clear()
        self.next = self.committed = self._judged = position

    def waiting(self) -> list[Waiting]:
        """Return what waits, in order, also where the clock of the log stepped back."""
        found, at = list[Waiting](), float("-inf")
        for position, entry in self._waiting.items():
            at = max(at, entry.at.timestamp())
            found.append(Waiting(camera=entry.key, part=self.part, position=position, at=at))
        return found

    def unjudged(self) -> list[Entry]:
        """Return what waits and of which nobody has judged the instants, in order."""
        return [entry for position, entry in self._waiting.items() if position >= self._judged]

    def judge(self, ahead: Collection[int]) -> None:
        """Keep that all which waits was judged; the clock of those at `ahead` is ahead of ours."""
        self._judged = self.next
        self._ahead.update(ahead)

    def is_ahead(self, position: int) -> bool:
        """Return whether the clock of an entry is ahead of ours."""
        return position in self._ahead

    def entry(self, position: int) -> Entry:
        """Return an entry that waits."""
        return self._waiting[position]

    def done(self, position: int) -> None:
        """Let go of an entry."""
        del self._waiting[position]
        self._ahead.discard(position)


class OpenIncidents:
    """The cameras with an open incident, as the topic tells it, read in one part."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._next: int | None = None
        self._open: dict[str, str] = {}

    def cameras(self, log: Log) -> set[str]:
        """Read on, and return them."""
        end = log.next(self._part)
        if self._next is None or self._next > end:
            self._next = max(log.oldest(self._part), end - TAIL)
        for entry in between(log, self._part, self._next, end):
            self._next = entry.position + 1
            try:
                incident = decode_incident(entry.value)
            except Unreadable:
                continue
            self._open.pop(str(incident.id), None)
            if incident.state in _OPEN:
                self._open[str(incident.id)] = incident.camera
        return set(self._open.values())
