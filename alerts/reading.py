"""Where the judge and the keeper of the ledger go on in the log.

Their positions are in the database, each with the identity of the log that it is in, and move in
the transaction of what was read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import structlog

from storage.dead import dead_of
from storage.errors import BeyondEnd, Unreadable
from storage.incidents import Cursor, IncidentStore
from storage.instants import ClockGuard, Stamp, refusal
from storage.ledger import Ledger
from storage.log import COVERAGE, FINDINGS, Entry, Log, after_loss
from storage.wire import Dead

READER = "alerts"

_REPLACED = "the log was replaced by another: reading it from its oldest entry"

logger = structlog.get_logger("alerts.reading")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """Entries of a part that wait from `position` on.

    The first is further on where the log no longer kept what was at the position.
    """

    topic: str
    part: str
    position: int
    entries: tuple[Entry, ...]


def unread(
    log: Log, store: IncidentStore, topics: Sequence[str], limit: int
) -> Iterator[list[Unread]]:
    """Yield what waits in the parts of topics: at most so many entries for one transaction.

    A part whose position is in another log than this one is read from its oldest entry.
    """
    positions = _positions(log, store)
    together = list[Unread]()
    for topic in topics:
        for part in log.parts(topic):
            position, entries = _read(log, store, part, positions.get(part, 0), limit)
            if together and count_of(together) + len(entries) > limit:
                yield together
                together = []
            if entries:
                together.append(
                    Unread(topic=topic, part=part, position=position, entries=tuple(entries))
                )
    if together:
        yield together


def count_of(together: Sequence[Unread]) -> int:
    """Return how many entries wait."""
    return sum(len(each.entries) for each in together)


def entries_of(together: Sequence[Unread], topic: str) -> list[Entry]:
    """Return the entries of one topic."""
    return [entry for each in together if each.topic == topic for entry in each.entries]


def advance(ledger: Ledger, together: Sequence[Unread]) -> None:
    """Move the positions behind what was read; PositionMoved where another has moved one."""
    for each in together:
        ledger.advance(READER, each.part, each.position, each.entries[-1].position + 1)


def _read(
    log: Log, store: IncidentStore, part: str, position: int, limit: int
) -> tuple[int, list[Entry]]:
    """Read on in a part; where that ends before the position, the position is first taken back."""
    try:
        entries = log.read(part, position, limit)
    except BeyondEnd as error:
        position, before = after_loss(log, part, error), position
        logger.error(str(error), again_from=position)
        with store.transaction() as ledger:
            ledger.advance(READER, part, before, position)
        entries = log.read(part, position, limit)
    if entries and entries[0].position > position:
        missed = entries[0].position - position
        logger.error("entries missed: the log no longer kept them", part=part, missed=missed)
    return position, entries


def _positions(log: Log, store: IncidentStore) -> dict[str, int]:
    """Return where to go on in each part of this log that was read before."""
    cursors = store.cursors(READER)
    parts = [part for topic in (FINDINGS, COVERAGE) for part in log.parts(topic)]
    moved = {part: cursors.get(part, Cursor()) for part in parts}
    moved = {part: each for part, each in moved.items() if each.log != log.identity(part)}
    if moved:
        _enter(log, store, moved)
        cursors = store.cursors(READER)
    return {part: cursor.next for part, cursor in cursors.items()}


def _enter(log: Log, store: IncidentStore, cursors: Mapping[str, Cursor]) -> None:
    """Move positions that are in another log to the oldest entry of this one.

    Nothing of this log was read, whatever its length; what is read twice is known by its name. A
    position without a log was stored by an older release, and is taken as one in this log.
    """
    oldest = {part: log.oldest(part) for part, cursor in cursors.items() if cursor.log is not None}
    with store.transaction() as ledger:
        for part, cursor in cursors.items():
            position = oldest.get(part, cursor.next)
            ledger.enter_log(READER, part, cursor.next, position, log.identity(part))
    replaced = sum(cursors[part].next > 0 for part in oldest)
    if replaced:
        logger.error(_REPLACED, parts=replaced)


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
