"""The writer of the coverage ledger: folds claims of the topic `coverage` into the database."""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime

import structlog

from alerts.intake.cursor import READER, DecodedBatch, decode_batch, is_of_topic, topic_entries
from alerts.intake.window_search import entries_from, first_window_after
from storage.db.alert_store import AlertStore
from storage.db.rows.coverage import CoverageRows
from storage.db.transaction import Transaction
from storage.db.unpublished import add_dead_letters
from storage.errors import Unreadable
from storage.log.clock_guard import ClockGuard
from storage.log.log import Log, LogEntry, LogPage
from storage.records.claims import CAMERA_STATES, Claim, covered_span, decode_claim
from storage.records.records import CoverageInterval, CoverageState, TimeSpan
from storage.records.topics import COVERAGE, WINDOWS

logger = structlog.get_logger()

OnCoverage = Callable[[Transaction, Sequence[CoverageInterval]], None]
"""`on_coverage(transaction, changed)` gets, in order, a camera's latest interval for each claim
that extended it or changed its state."""
OnClocksAhead = Callable[[Transaction, Collection[str]], None]
"""`on_clocks_ahead(transaction, cameras)` gets the cameras whose clocks are ahead of ours."""


class CoverageWriter:
    """Fold claims in the transaction of the judge: exactly once in the database.

    Claims that end ahead of our clock become dead letters. While `guard` doubts our clock, none
    is folded.
    """

    def __init__(
        self,
        log: Log,
        store: AlertStore,
        on_coverage: OnCoverage | None = None,
        *,
        guard: ClockGuard | None = None,
        on_clocks_ahead: OnClocksAhead | None = None,
    ) -> None:
        self._log = log
        self._store = store
        self._on_coverage = on_coverage
        self._on_clocks_ahead = on_clocks_ahead
        self._guard = guard or ClockGuard(log)
        self._last_scans = dict[str, tuple[datetime, int]]()

    def decode(self, pages: Sequence[LogPage]) -> DecodedBatch[Claim] | None:
        """Return the claims of pages; None if our clock is in doubt."""
        entries = topic_entries(pages, COVERAGE)
        return decode_batch(entries, decode_claim, lambda claim: claim.end, self._guard)

    def write(
        self, transaction: Transaction, pages: Sequence[LogPage], batch: DecodedBatch[Claim]
    ) -> None:
        """Fold claims, and the gaps left by claims that the log dropped unread."""
        missed = [claim for each in pages for claim in self._claims_for_missed(transaction, each)]
        self._fold(transaction, [*missed, *batch.records])
        self._dead_letter(transaction, batch)

    def sweep(self, now: datetime) -> None:
        """Fold `shed` for waiting spans whose windows the log dropped.

        The analyzer claims this with the next window of the camera, which may never come. No span
        is folded while claims wait to be folded, or our clock is in doubt.
        """
        if self._guard.doubt is not None:
            return
        # Others may have added partitions to the claims, which have no windows.
        for windows_partition, claims_partition in zip(
            self._log.partitions(WINDOWS), self._log.partitions(COVERAGE), strict=False
        ):
            if self._store.committed_offset(READER, claims_partition) >= self._log.end_offset(
                claims_partition
            ):
                self._sweep_partition(windows_partition)

    def _sweep_partition(self, partition: str) -> None:
        with self._store.read_transaction() as connection:
            waiting = CoverageRows(connection).waiting_spans()
        for camera, span in waiting.items():
            if self._log.partition_for(WINDOWS, camera) != partition:
                continue
            until = self._dropped_until(partition, camera, span)
            if until > span.start:
                logger.warning("windows were dropped before they were read", camera=camera)
                claim = Claim(camera=camera, start=None, end=until, state=CoverageState.SHED)
                with self._store.transaction() as transaction:
                    self._fold(transaction, [claim])

    def _fold(self, transaction: Transaction, claims: Sequence[Claim]) -> None:
        changed = transaction.coverage.fold(claims, self._guard.current_time)
        if changed and self._on_coverage is not None:
            self._on_coverage(transaction, changed)

    def _dropped_until(self, partition: str, camera: str, waiting: TimeSpan) -> datetime:
        """Return until when the log has dropped a waiting span, by its camera's clock.

        The log is read only if the span was the same at the last sweep and the log has dropped
        entries since.
        """
        start, offset = self._last_scans.get(camera, (waiting.start, -1))
        if start != waiting.start:
            self._last_scans[camera] = (waiting.start, -1)
        elif self._log.start_offset(partition) > offset:
            until, offset = dropped_until(self._log, partition, camera, waiting)
            self._last_scans[camera] = (waiting.start, offset)
            return until
        return waiting.start

    def _claims_for_missed(self, transaction: Transaction, page: LogPage) -> list[Claim]:
        """Return claims of `shed` for the gap that dropped entries leave in a partition.

        Each ends at the camera's first remaining claim, else at the first of all, else now.
        """
        if not (page.missed and is_of_topic(page, COVERAGE)):
            return []
        first_claims = _first_claims(page)
        first = min(first_claims.values(), default=self._guard.current_time.now)
        latest = [
            transaction.coverage.latest(camera)
            for camera in transaction.coverage.cameras()
            if self._log.partition_for(COVERAGE, camera) == page.partition
        ]
        gaps = [(last, first_claims.get(last.camera, first)) for last in latest if last]
        return [
            Claim(camera=last.camera, start=last.end, end=end, state=CoverageState.SHED)
            for last, end in gaps
            if last.end < end
        ]

    def _dead_letter(self, transaction: Transaction, batch: DecodedBatch[Claim]) -> None:
        for dead_letter in batch.dead_letters:
            logger.error("claim set aside", position=dead_letter.offset, reason=dead_letter.reason)
        add_dead_letters(transaction, batch.dead_letters)
        if batch.cameras_ahead and self._on_clocks_ahead is not None:
            self._on_clocks_ahead(transaction, batch.cameras_ahead)


def dropped_until(log: Log, partition: str, camera: str, waiting: TimeSpan) -> tuple[datetime, int]:
    """Return until when the log dropped a waiting span, and the offset of the first entry kept.

    The log drops its oldest entries: a span between other windows of its camera is still there.
    """
    logged = first_window_after(log, partition, camera, waiting.start)
    start = covered_span(logged.window).start if logged else waiting.end
    if logged and start <= waiting.start:
        return waiting.start, logged.offset
    oldest = log.start_offset(partition)
    first = next(entries_from(log, partition, oldest, camera, page_size=1), None)
    if first is None:
        return waiting.end, -1
    is_first = logged is not None and logged.offset == first.offset
    return start if is_first else waiting.start, first.offset


def _first_claims(entries: Iterable[LogEntry]) -> dict[str, datetime]:
    """Return the start of the first claim of each camera's process."""
    first_claims = dict[str, datetime]()
    for entry in entries:
        with suppress(Unreadable):
            claim = decode_claim(entry.value)
            if claim.state in CAMERA_STATES:
                first_claims.setdefault(claim.camera, claim.start or claim.end)
    return first_claims
