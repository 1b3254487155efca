"""Where the judge and the keeper of the ledger go on in the log.

Their positions are in the database, each with the identity of the log that it is in, and move in
the transaction of what was read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import structlog

from storage.dead import dead_of
from storage.errors import BeyondEnd, Unreadable
from storage.incidents import IncidentStore
from storage.instants import ClockGuard, Stamp, refusal
from storage.log import COVERAGE, FINDINGS, Entry, Log, after_loss
from storage.wire import Dead

READER = "alerts"

_REPLACED = "the log was replaced by another: reading it from its oldest entry"

logger = structlog.get_logger("alerts.reading")


def read_on(log: Log, store: IncidentStore, part: str, limit: int) -> tuple[int, list[Entry]]:
    """Return the position in a part of the log, and the entries from there on.

    The first entry is further on where the log no longer kept what was at the position. Where
    it ends before the position, or is another log than the one the position is in, the position
    is first taken back.
    """
    position = _position(log, store, part)
    try:
        entries = log.read(part, position, limit)
    except BeyondEnd as error:
        back = after_loss(log, part, error)
        logger.error(str(error), again_from=back)
        with store.transaction() as ledger:
            ledger.advance(READER, part, position, back)
        return back, log.read(part, back, limit)
    if entries and entries[0].position > position:
        missed = entries[0].position - position
        logger.error("entries missed: the log no longer kept them", part=part, missed=missed)
    return position, entries


def _position(log: Log, store: IncidentStore, part: str) -> int:
    """Return where to go on in a part of this log."""
    cursor = store.cursor(READER, part)
    if cursor.log == log.identity(part):
        return cursor.next
    _enter(log, store)
    return store.position(READER, part)


def _enter(log: Log, store: IncidentStore) -> None:
    """Move every position that is in another log to the oldest entry of this one.

    Nothing of this log was read, whatever its length; what is read twice is known by its name. A
    position without a log was stored by an older release, and is taken as one in this log.
    """
    parts = [part for topic in (FINDINGS, COVERAGE) for part in log.parts(topic)]
    cursors = {part: store.cursor(READER, part) for part in parts}
    identities = {part: log.identity(part) for part in parts}
    oldest = {
        part: log.oldest(part)
        for part, cursor in cursors.items()
        if cursor.log not in (None, identities[part])
    }
    with store.transaction() as ledger:
        for part, cursor in cursors.items():
            if cursor.log != identities[part]:
                position = oldest.get(part, cursor.next)
                ledger.enter_log(READER, part, cursor.next, position, identities[part])
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
