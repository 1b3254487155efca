"""The loop of alerts: reads findings and coverage from the log, and judges them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event

import structlog

from alerts.dispatch.grouping import NotificationPolicy
from alerts.incidents.judge import Judge
from alerts.incidents.publisher import Publisher
from alerts.incidents.sweeper import Sweeper
from alerts.intake.coverage_writer import CoverageWriter
from alerts.intake.cursor import (
    READER,
    DecodedBatch,
    LogCursor,
    decode_batch,
    entry_count,
    in_batches,
    topic_entries,
)
from alerts.intake.log_availability import LogAvailability
from alerts.notify.failures import DeliveryFailure, log_delivery_failure
from alerts.rules.health import (
    ahead_sample,
    behind_sample,
    health_samples,
    is_health,
    undelivered_sample,
    unreported_samples,
)
from alerts.rules.rule import Rule, RuleSample, sample_from_finding
from storage.clock import TOLERANCE, ClockReading, CurrentTime, read_clock
from storage.db.alert_store import AlertStore
from storage.db.transaction import Transaction
from storage.db.unpublished import add_dead_letters
from storage.errors import OffsetMoved
from storage.log.clock_guard import ClockGuard
from storage.log.log import Log, LogPage
from storage.loop import repeat
from storage.records.records import CoverageInterval, Finding
from storage.records.topics import FINDINGS
from storage.records.wire import decode_finding

BATCH = 500
"""The most findings and claims that one transaction handles."""
TICK = timedelta(seconds=30)
DEFAULT_POLICY = NotificationPolicy()
_KEEPALIVE_SECONDS = 30.0

logger = structlog.get_logger()


class AlertsWorker:
    """Judge every finding and every change of coverage, exactly once in the database.

    With `sweep_after`, the clock closes incidents that no sample updates (see `Sweeper`), and
    health rules judge that nothing is reported about one of `cameras`. A finding that ends ahead
    of our clock by more than `tolerance` becomes a dead letter. While our own clock is in doubt,
    no finding is judged and no offset moves.

    `publisher` appends to the log in its own thread what the transactions queue for it. Without
    one, each step appends it, and raises the errors of the log.
    """

    def __init__(
        self,
        log: Log,
        store: AlertStore,
        rules: Sequence[Rule],
        keepalive: Callable[[float], None],
        *,
        publisher: Publisher | None = None,
        policy: NotificationPolicy = DEFAULT_POLICY,
        cameras: Collection[str] = (),
        sweep_after: timedelta | None = None,
        batch: int = BATCH,
        tolerance: timedelta = TOLERANCE,
        clock: Callable[[], ClockReading] = read_clock,
    ) -> None:
        self._store = store
        self._judge = Judge(rules, policy, cameras)
        self._own_publisher = None if publisher else Publisher(log, store)
        self.availability = LogAvailability(clock)
        self._cursor = LogCursor(log, store, self.availability)
        self._keepalive = keepalive
        self._sweeper = Sweeper(store, self._judge, sweep_after or timedelta())
        self._is_sweeping = sweep_after is not None
        self._batch = batch
        has_health_rules = any(is_health(rule.question) for rule in rules)
        self._has_health_rules = has_health_rules
        self._cameras = cameras if has_health_rules else ()
        self._guard = ClockGuard(log, tolerance, clock)
        self.coverage = CoverageWriter(
            log,
            store,
            self._judge_coverage if has_health_rules else None,
            guard=self._guard,
            on_clocks_ahead=self._judge_clocks_ahead if has_health_rules else None,
        )
        self._earliest_time: datetime | None = None
        self._orphans_retired = False
        self._ticked_at = datetime.min.replace(tzinfo=UTC)

    def run(self, stop: Event) -> None:
        """Judge until stopped; wait out blocked storage, and another process that leads."""
        try:
            repeat(self._guarded_step, stop, logger, wait=self._cursor.wait, eager=True)
        finally:
            self._cursor.close()

    def _guarded_step(self) -> int:
        self._keepalive(_KEEPALIVE_SECONDS)
        try:
            return self.step()
        except OffsetMoved as error:
            if not self._cursor.detect_losses():
                logger.error(str(error))
            return 0

    def step(self) -> int:
        """Judge what waits, or else tick; return how many entries or incidents were handled."""
        handled = self._judge_waiting()
        now = self._guard.current_time.now
        if self._guard.doubt is not None:
            handled = self._judge_clock_doubt(now)
        else:
            handled = handled or self._tick(now)
        self._publish()
        return handled

    def run_once(self) -> int:
        """Judge the findings that wait; return how many entries were handled."""
        handled = self._judge_waiting()
        self._publish()
        return handled

    def tick(self, now: datetime) -> int:
        """Judge what time alone changes; return how many incidents changed.

        Call it once all findings are read.
        """
        done = self._tick(now)
        self._publish()
        return done

    def _judge_waiting(self) -> int:
        with self.availability.track():
            is_believed = self._guard.refresh()
        if not is_believed:
            if self.availability.outage is not None:
                self._cursor.read(1)  # a read that succeeds ends the outage
            return 0
        if not self._orphans_retired:
            self._sweeper.retire_orphans()
            self._orphans_retired = True
        pages = self._cursor.read(self._batch)
        return sum(map(self._handle, in_batches(pages, self._batch)))

    def _publish(self) -> None:
        while self._own_publisher is not None and self._own_publisher.run_once():
            pass

    def _tick(self, now: datetime) -> int:
        if not (self._is_sweeping and self._take_tick(now)):
            return 0
        latest = self._guard.bounded_now(now)
        self._earliest_time = min(self._earliest_time or latest, latest)
        if self._cameras:
            present = replace(self._guard.current_time, now=latest)
            with self._store.transaction() as transaction:
                self.judge_unreported(transaction, self._earliest_time, present)
        self._judge_clock(now, is_behind=False)
        return self._sweeper.run_once(latest, self._guard.current_time)

    def _take_tick(self, now: datetime) -> bool:
        """Return whether a tick is due; the next is due a TICK from now."""
        if timedelta() <= now - self._ticked_at < TICK:
            return False
        self._ticked_at = now
        return True

    def _judge_clock_doubt(self, now: datetime) -> int:
        """Judge, every tick, that our clock is in doubt; return 0, as no entry was handled."""
        if self._take_tick(now):
            self._judge_clock(now, is_behind=True)
        return 0

    def _judge_clock(self, now: datetime, *, is_behind: bool) -> None:
        if self._has_health_rules:
            with self._store.transaction() as transaction:
                self.judge_samples(transaction, [behind_sample(READER, now, is_active=is_behind)])

    def _judge_clocks_ahead(self, transaction: Transaction, cameras: Collection[str]) -> None:
        now = self._guard.current_time.now
        self.judge_samples(transaction, [ahead_sample(camera, now) for camera in sorted(cameras)])

    def judge_delivery_failure(self, transaction: Transaction, failure: DeliveryFailure) -> None:
        """Judge that a receiver did not get a message, in the courier's transaction and thread."""
        log_delivery_failure(transaction, failure)
        id = str(failure.delivery_id or "")
        sample = undelivered_sample(failure.receiver, failure.at, id, failure.reason)
        self.judge_samples(transaction, [sample])

    def judge_samples(
        self,
        transaction: Transaction,
        samples: Sequence[RuleSample],
        present: CurrentTime | None = None,
    ) -> None:
        """Judge health samples, in a transaction and thread of any job.

        `present` replaces the time of our clock.
        """
        self._judge.publish(transaction, samples, present or self._guard.current_time)

    def judge_unreported(
        self, transaction: Transaction, since: datetime, present: CurrentTime
    ) -> None:
        """Judge which cameras have no coverage up to now; no gap begins before `since`."""
        samples = list[RuleSample]()
        for camera in self._cameras:
            latest = transaction.coverage.latest(camera, present)
            end = max(latest.end, since) if latest else since
            samples += unreported_samples(camera, end, present.now)
        self.judge_samples(transaction, samples, present)

    def _judge_coverage(
        self, transaction: Transaction, changed: Sequence[CoverageInterval]
    ) -> None:
        samples = [
            sample
            for each in changed
            for sample in health_samples(each.camera, each.state, each.start, each.end, each.reason)
        ]
        self.judge_samples(transaction, samples)

    def _handle(self, pages: Sequence[LogPage]) -> int:
        """Judge pages in one transaction; return how many entries, 0 if our clock is in doubt."""
        self._keepalive(_KEEPALIVE_SECONDS)
        entries = topic_entries(pages, FINDINGS)
        with self.availability.track():
            findings = decode_batch(
                entries, decode_finding, lambda finding: finding.end, self._guard
            )
            claims = self.coverage.decode(pages)
        if findings is None or claims is None:
            return 0
        with self._cursor.transaction(pages) as transaction:
            self._judge_findings(transaction, findings)
            self.coverage.write(transaction, pages, claims)
        return entry_count(pages)

    def _judge_findings(self, transaction: Transaction, batch: DecodedBatch[Finding]) -> None:
        new = transaction.insert_findings(batch.records)
        samples = [sample_from_finding(finding) for finding in new]
        self._judge.publish(transaction, samples, self._guard.current_time)
        for each in batch.dead_letters:
            logger.error("finding set aside", position=each.offset, reason=each.reason)
        add_dead_letters(transaction, batch.dead_letters)
        if batch.cameras_ahead and self._has_health_rules:
            self._judge_clocks_ahead(transaction, batch.cameras_ahead)
