"""Where the judge and the keeper of the ledger go on in the log.

Their positions are in the database, each with the identity of the log that it is in, and move in
the transaction of what was read. They are kept in memory as well: the database remains the truth,
with which each move is compared.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from threading import Event
from typing import Generic, Protocol, TypeVar

import structlog

from alerts.added_parts import AddedParts
from alerts.contact import LogContact
from storage.commits import losses_text
from storage.dead import dead_of
from storage.errors import BeyondEnd, Unreadable
from storage.incidents import Cursor, IncidentStore
from storage.instants import ClockGuard, Stamp, refusal
from storage.ledger import Ledger
from storage.log import COVERAGE, FINDINGS, Entry, Follower, Log, Page, Want, after_loss
from storage.wire import Dead

READER = "alerts"

_TOPICS = (FINDINGS, COVERAGE)
_LOOK_SECONDS = 5.0
"""How often to look whether the log is still the same, and has the same parts."""
_REWOUND = (
    "the database lost commits that it had acknowledged, as a failover to a standby that was behind"
    " does: findings are read again from there, receivers may hear of some incidents twice"
)
_REPLACED = "the log was replaced by another: reading it from its oldest entry"

logger = structlog.get_logger("alerts.reading")


class Reading:
    """Follow findings and coverage in all parts of a log; for one thread.

    A part whose position is in another log than this one is read from its oldest entry, and one
    that ends before the position from a while before its end. `contact` hears whether the log
    answers.
    """

    def __init__(
        self,
        log: Log,
        store: IncidentStore,
        contact: LogContact,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._store = store
        self._contact = contact
        self._clock = clock
        self._added = AddedParts(log, lambda: store.cursors(READER))
        self._follower: Follower | None = None
        self._identities: Mapping[str, str] = {}
        self._positions: dict[str, int] | None = None
        self._looked_at = float("-inf")

    def read(self, limit: int) -> list[Page]:
        """Return a page of at most `limit` entries for each part in which anything waits.

        What is not used is read again. Raises StorageBlocked.
        """
        positions = self._located()
        while True:
            wanted = {part: Want(position, limit) for part, position in positions.items()}
            try:
                with self._contact.asking(is_reading=True):
                    pages = self._following().read(wanted)
                break
            except BeyondEnd as error:
                positions[error.part] = self._step_back(error, positions[error.part])
        for each in pages:
            if each.missed:
                told = "entries missed: the log no longer kept them"
                logger.error(told, part=each.part, missed=each.missed)
        return pages

    @contextmanager
    def moving(self, pages: Sequence[Page]) -> Iterator[Ledger]:
        """Keep what the block writes, with the positions behind pages, in one transaction.

        Raises PositionMoved where another has moved one.
        """
        try:
            with self._store.transaction() as ledger:
                for each in pages:
                    ledger.advance(READER, each.part, each.position, each.next)
                yield ledger
        except BaseException:
            self._positions = None  # a commit that failed may have been kept
            raise
        if self._positions is not None:
            self._positions |= {each.part: each.next for each in pages}

    def notice_losses(self) -> bool:
        """Return whether the database lost what was committed; it is logged, and read again."""
        losses = self._store.find_losses()
        if losses:
            logger.error(_REWOUND, database=self._store.place, went_back=losses_text(losses))
            self._positions = None
        return bool(losses)

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when something came, `stop` is set, or the time is over."""
        if self._follower is None:
            stop.wait(seconds)
        else:
            self._follower.wait(stop, seconds)

    def close(self) -> None:
        """Let go of the connections to the log."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.close()

    def _following(self) -> Follower:
        if self._follower is None:
            self._follower = self._log.follow()
        return self._follower

    def _located(self) -> dict[str, int]:
        """Return where to go on in each part, looked up again where that may have changed."""
        now = self._clock()
        if self._positions is None or now - self._looked_at >= _LOOK_SECONDS:
            self.notice_losses()
            with self._contact.asking():
                parts = [part for topic in _TOPICS for part in self._log.parts(topic)]
                parts = self._added.readable(parts)
                identities = {part: self._log.identity(part) for part in parts}
            if self._positions is None or identities != self._identities:
                self._positions = self._stored(identities)
                self._identities = identities
            self._looked_at = now
        return self._positions

    def _stored(self, identities: Mapping[str, str]) -> dict[str, int]:
        cursors = self._store.cursors(READER)
        found = {part: cursors.get(part, Cursor()) for part in identities}
        moved = {part: each for part, each in found.items() if each.log != identities[part]}
        entered = self._enter(moved, identities) if moved else {}
        return {part: each.next for part, each in found.items()} | entered

    def _enter(
        self, cursors: Mapping[str, Cursor], identities: Mapping[str, str]
    ) -> dict[str, int]:
        """Move positions that are in another log to the oldest entry of this one; return them.

        Nothing of this log was read, whatever its length; what is read twice is known by its
        name. A position without a log was stored by an older release, and is taken as one in
        this log.
        """
        replaced = [part for part, cursor in cursors.items() if cursor.log is not None]
        with self._contact.asking():
            oldest = {part: self._log.oldest(part) for part in replaced}
        entered = {part: oldest.get(part, cursor.next) for part, cursor in cursors.items()}
        with self._store.transaction() as ledger:
            for part, position in entered.items():
                before = cursors[part].next
                ledger.enter_log(READER, part, before, position, identities[part])
        if count := sum(cursors[part].next > 0 for part in replaced):
            logger.error(_REPLACED, parts=count)
        return entered

    def _step_back(self, error: BeyondEnd, before: int) -> int:
        """Take the position in a part that lost entries back, and return it."""
        with self._contact.asking():
            position = after_loss(self._log, error.part, error)
        logger.error(str(error), again_from=position)
        with self._store.transaction() as ledger:
            ledger.advance(READER, error.part, before, position)
        return position


def in_batches(pages: Sequence[Page], limit: int) -> Iterator[list[Page]]:
    """Yield pages for one transaction each: together they have at most `limit` entries."""
    together = list[Page]()
    for page in pages:
        if together and sum(map(len, together)) + len(page) > limit:
            yield together
            together = []
        together.append(page)
    if together:
        yield together


def count_of(pages: Sequence[Page]) -> int:
    """Return how many entries were read; a page that only leads on counts as one."""
    return sum(len(page) or 1 for page in pages)


def entries_of(pages: Sequence[Page], topic: str) -> list[Entry]:
    """Return the entries of one topic."""
    return [entry for page in pages if is_of(page, topic) for entry in page]


def is_of(page: Page, topic: str) -> bool:
    """Return whether a page is of a topic."""
    return page.part.partition("-")[0] == topic


class _OfCamera(Protocol):
    @property
    def camera(self) -> str: ...


T = TypeVar("T", bound=_OfCamera)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[T]):
    """What entries hold: the records to believe, and the dead letters for all others.

    `ahead` are the cameras whose instants are ahead of our clock.
    """

    records: tuple[T, ...]
    dead: tuple[Dead, ...]
    ahead: frozenset[str]


def decode_batch(
    entries: Sequence[Entry],
    decode: Callable[[bytes], T],
    instant: Callable[[T], datetime],
    guard: ClockGuard,
) -> Batch[T] | None:
    """Decode entries; return None where our clock is in doubt, and nothing is to be handled."""
    decoded = [_decoded(entry, decode) for entry in entries]
    ahead = guard.ahead(
        [
            None
            if isinstance(each, Dead)
            else Stamp(camera=each.camera, at=instant(each), appended_at=entry.at)
            for entry, each in zip(entries, decoded, strict=True)
        ]
    )
    if ahead is None:
        return None
    records, dead, cameras = list[T](), list[Dead](), set[str]()
    for nth, (entry, each) in enumerate(zip(entries, decoded, strict=True)):
        if isinstance(each, Dead):
            dead.append(each)
        elif nth in ahead:
            dead.append(dead_of(entry, Unreadable(refusal(instant(each), guard.present))))
            cameras.add(each.camera)
        else:
            records.append(each)
    return Batch(records=tuple(records), dead=tuple(dead), ahead=frozenset(cameras))


def _decoded(entry: Entry, decode: Callable[[bytes], T]) -> T | Dead:
    try:
        return decode(entry.value)
    except Unreadable as error:
        return dead_of(entry, error)
