"""What waits in one part of the log, and how far it has been read."""

from collections.abc import Collection

import structlog

from analyzer.coverage import Seen
from analyzer.shedding import Waiting
from storage.errors import BeyondEnd, Unreadable
from storage.log import Entry, Log, Page, Want, after_loss
from storage.records import IncidentState
from storage.wire import decode_incident

TAIL = 2000
"""Revisions of incidents that are looked back upon."""
_AT_ONCE = 500
_OPEN = (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)

logger = structlog.get_logger()


class Queue:
    """The windows of a part that were read from the log and wait, in order.

    At most `limit` wait. It is committed only under the tenure in which it was read.
    """

    def __init__(self, part: str, position: int, tenure: int) -> None:
        self.part = part
        self.tenure = tenure
        self.limit = 0
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

    def want(self) -> Want | None:
        """Return what to read on; None where as many wait as may."""
        room = self.limit - len(self._waiting)
        return Want(self.next, room) if room > 0 else None

    def take(self, page: Page) -> None:
        """Take what was read to what waits."""
        if page.missed:
            logger.warning("windows were dropped before they were read", missed=page.missed)
            self.seen.missed()
        self._waiting.update((entry.position, entry) for entry in page)
        self.next = page.next

    def go_back(self, log: Log, error: BeyondEnd) -> None:
        """Read again what a log still has: windows that are remembered are passed over."""
        position = after_loss(log, self.part, error)
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
        self.part = part
        self._next: int | None = None
        self._open: dict[str, str] = {}

    @property
    def cameras(self) -> set[str]:
        """Return them, as far as was read."""
        return set(self._open.values())

    def begin(self, log: Log) -> None:
        """Begin some revisions before the end, where nothing was read yet."""
        if self._next is None:
            self._next = max(log.oldest(self.part), log.next(self.part) - TAIL)

    def want(self) -> Want | None:
        """Return what to read on; None before `begin`."""
        return None if self._next is None else Want(self._next, _AT_ONCE)

    def take(self, page: Page) -> None:
        """Take up what the revisions that were read say."""
        self._next = page.next
        for entry in page:
            try:
                incident = decode_incident(entry.value)
            except Unreadable:
                continue
            self._open.pop(str(incident.id), None)
            if incident.state in _OPEN:
                self._open[str(incident.id)] = incident.camera

    def go_back(self, log: Log, error: BeyondEnd) -> None:
        """Begin again, near the end of the log."""
        self._next = None
        self.begin(log)
