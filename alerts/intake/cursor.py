"""The offsets of alerts in the log.

They are stored in the database, each with the identity of its log, and advance in the transaction
of what was read. A copy in memory saves reads; each advance is checked against the database.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from threading import Event
from typing import Generic, Protocol, TypeVar

import structlog

from alerts.intake.log_availability import LogAvailability
from alerts.intake.new_partitions import NewPartitions
from storage.db.alert_store import AlertStore, StoredOffset
from storage.db.lost_commits import format_losses
from storage.db.transaction import Transaction
from storage.errors import OffsetOutOfRange, Unreadable
from storage.log.clock_guard import ClockGuard, EntryTimestamp, clock_ahead_reason
from storage.log.dead_letters import build_dead_letter
from storage.log.log import Log, LogEntry, LogPage, ReadRequest, TailReader, offset_after_loss
from storage.log.partitions import topic_of
from storage.records.records import DeadLetter
from storage.records.topics import COVERAGE, FINDINGS

READER = "alerts"

_TOPICS = (FINDINGS, COVERAGE)
_CHECK_SECONDS = 5.0
"""How often to check the identity and the partitions of the log."""
_REWOUND = (
    "the database lost acknowledged commits, for example by a failover to a lagging standby:"
    " findings are read again from there, and receivers may get some notifications twice"
)
_REPLACED = "the log was replaced by another: reading it from its oldest entry"

logger = structlog.get_logger()


class LogCursor:
    """Follow findings and coverage in all partitions of a log; for one thread.

    A partition whose offset is of another log is read from its oldest entry, and one that ends
    before the offset from a while before its end. `availability` records whether the log answers.
    """

    def __init__(
        self,
        log: Log,
        store: AlertStore,
        availability: LogAvailability,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._store = store
        self._availability = availability
        self._clock = clock
        self._new_partitions = NewPartitions(log, lambda: store.stored_offsets(READER))
        self._follower: TailReader | None = None
        self._identities: Mapping[str, str] = {}
        self._offsets: dict[str, int] | None = None
        self._checked_at = float("-inf")

    def read(self, limit: int) -> list[LogPage]:
        """Return a page of at most `limit` entries for each partition with new entries.

        Pages without a transaction are read again. Raises StorageBlocked.
        """
        offsets = self._current_offsets()
        while True:
            wanted = {name: ReadRequest(offset, limit) for name, offset in offsets.items()}
            try:
                with self._availability.track(is_reading=True):
                    pages = self._open_follower().read(wanted)
                break
            except OffsetOutOfRange as error:
                offsets[error.partition] = self._rewind(error, offsets[error.partition])
        for each in pages:
            if each.missed:
                text = "entries missed: the log no longer kept them"
                logger.error(text, part=each.partition, missed=each.missed)
        return pages

    @contextmanager
    def transaction(self, pages: Sequence[LogPage]) -> Iterator[Transaction]:
        """Commit what the block writes together with the offsets after the pages.

        Raises OffsetMoved if another process moved one.
        """
        try:
            with self._store.transaction() as transaction:
                for page in pages:
                    transaction.advance_offset(
                        READER, page.partition, page.offset, page.next_offset
                    )
                yield transaction
        except BaseException:
            self._offsets = None  # a commit that failed may have succeeded
            raise
        if self._offsets is not None:
            self._offsets |= {each.partition: each.next_offset for each in pages}

    def detect_losses(self) -> bool:
        """Return whether the database lost commits; log it, and reload the offsets."""
        losses = self._store.handle_lost_commits()
        if losses:
            logger.error(_REWOUND, database=self._store.location, went_back=format_losses(losses))
            self._offsets = None
        return bool(losses)

    def wait(self, stop: Event, seconds: float) -> None:
        """Wait until there are entries, `stop` is set, or time is up."""
        if self._follower is None:
            stop.wait(seconds)
        else:
            self._follower.wait(stop, seconds)

    def close(self) -> None:
        """Close the connections to the log."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.close()

    def _open_follower(self) -> TailReader:
        if self._follower is None:
            self._follower = self._log.follow()
        return self._follower

    def _current_offsets(self) -> dict[str, int]:
        """Return the next offset of each partition, reloaded if it may have changed."""
        now = self._clock()
        if self._offsets is None or now - self._checked_at >= _CHECK_SECONDS:
            self.detect_losses()
            with self._availability.track():
                names = [name for topic in _TOPICS for name in self._log.partitions(topic)]
                names = self._new_partitions.readable(names)
                identities = {name: self._log.identity(name) for name in names}
            if self._offsets is None or identities != self._identities:
                self._offsets = self._load_offsets(identities)
                self._identities = identities
            self._checked_at = now
        return self._offsets

    def _load_offsets(self, identities: Mapping[str, str]) -> dict[str, int]:
        cursors = self._store.stored_offsets(READER)
        stored = {name: cursors.get(name, StoredOffset()) for name in identities}
        replaced = {
            name: each for name, each in stored.items() if each.log_identity != identities[name]
        }
        entered = self._enter_log(replaced, identities) if replaced else {}
        return {name: each.offset for name, each in stored.items()} | entered

    def _enter_log(
        self, cursors: Mapping[str, StoredOffset], identities: Mapping[str, str]
    ) -> dict[str, int]:
        """Move offsets of another log to the oldest entry of this one; return them.

        An entry that is read twice is recognized by its id. An offset without a log identity was
        stored by an older release, and counts as one of this log.
        """
        replaced = [name for name, each in cursors.items() if each.log_identity is not None]
        with self._availability.track():
            oldest = {name: self._log.start_offset(name) for name in replaced}
        entered = {name: oldest.get(name, each.offset) for name, each in cursors.items()}
        with self._store.transaction() as transaction:
            for name, offset in entered.items():
                before = cursors[name].offset
                transaction.switch_log(READER, name, before, offset, identities[name])
        if count := sum(cursors[name].offset > 0 for name in replaced):
            logger.error(_REPLACED, parts=count)
        return entered

    def _rewind(self, error: OffsetOutOfRange, before: int) -> int:
        """Move the offset in a partition that lost entries back; return it."""
        with self._availability.track():
            offset = offset_after_loss(self._log, error.partition, error)
        logger.error(str(error), again_from=offset)
        with self._store.transaction() as transaction:
            transaction.advance_offset(READER, error.partition, before, offset)
        return offset


def in_batches(pages: Sequence[LogPage], limit: int) -> Iterator[list[LogPage]]:
    """Yield the pages of each transaction: at most `limit` entries, one page at least."""
    together = list[LogPage]()
    for page in pages:
        if together and sum(map(len, together)) + len(page) > limit:
            yield together
            together = []
        together.append(page)
    if together:
        yield together


def entry_count(pages: Sequence[LogPage]) -> int:
    """Return how many entries were read; a page without entries counts as one."""
    return sum(len(page) or 1 for page in pages)


def topic_entries(pages: Sequence[LogPage], topic: str) -> list[LogEntry]:
    """Return the entries of one topic."""
    return [entry for page in pages if is_of_topic(page, topic) for entry in page]


def is_of_topic(page: LogPage, topic: str) -> bool:
    """Return whether a page is of a topic."""
    return topic_of(page.partition) == topic


class _CameraRecord(Protocol):
    @property
    def camera(self) -> str: ...


T = TypeVar("T", bound=_CameraRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedBatch(Generic[T]):
    """The valid records of entries, and the dead letters of all others.

    `cameras_ahead` have instants that are ahead of our clock.
    """

    records: tuple[T, ...]
    dead_letters: tuple[DeadLetter, ...]
    cameras_ahead: frozenset[str]


def decode_batch(
    entries: Sequence[LogEntry],
    decode: Callable[[bytes], T],
    instant: Callable[[T], datetime],
    guard: ClockGuard,
) -> DecodedBatch[T] | None:
    """Decode entries; return None if our clock is in doubt."""
    decoded = [_decode_entry(entry, decode) for entry in entries]
    timestamps = [
        None
        if isinstance(each, DeadLetter)
        else EntryTimestamp(camera=each.camera, at=instant(each), appended_at=entry.at)
        for entry, each in zip(entries, decoded, strict=True)
    ]
    indices_ahead = guard.find_implausible(timestamps)
    if indices_ahead is None:
        return None
    records, dead_letters, cameras = list[T](), list[DeadLetter](), set[str]()
    for index, (entry, each) in enumerate(zip(entries, decoded, strict=True)):
        if isinstance(each, DeadLetter):
            dead_letters.append(each)
        elif index in indices_ahead:
            reason = clock_ahead_reason(instant(each), guard.current_time)
            dead_letters.append(build_dead_letter(entry, Unreadable(reason)))
            cameras.add(each.camera)
        else:
            records.append(each)
    return DecodedBatch(
        records=tuple(records), dead_letters=tuple(dead_letters), cameras_ahead=frozenset(cameras)
    )


def _decode_entry(entry: LogEntry, decode: Callable[[bytes], T]) -> T | DeadLetter:
    try:
        return decode(entry.value)
    except Unreadable as error:
        return build_dead_letter(entry, error)
