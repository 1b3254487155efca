"""The judge's loop: reads findings from the log, and keeps what comes of them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event

import structlog

from alerts.dispatch.grouping import NotificationPolicy
from alerts.incidents.changes import IncidentChange
from alerts.incidents.judge import Judge, publish_and_log
from alerts.incidents.publisher import Publisher
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
from alerts.loop import repeat
from alerts.notify.failures import DeliveryFailure, log_delivery_failure
from alerts.rules.health import (
    HEALTH_PREFIX,
    ahead_sample,
    behind_sample,
    health_samples,
    undelivered_sample,
    unreported_samples,
)
from alerts.rules.lifecycle import retire, sweep, without_future_instants
from alerts.rules.replay import overdue_revisions
from alerts.rules.rule import Rule, RuleSample, sample_from_finding
from storage.db.alert_store import AlertStore
from storage.db.transaction import Transaction
from storage.db.unpublished import add_dead_letters
from storage.errors import OffsetMoved
from storage.log.clock_guard import TOLERANCE, ClockGuard, ClockReading, CurrentTime, read_clock
from storage.log.log import FINDINGS, Log, LogPage
from storage.records.records import LIVE_STATES, CoverageInterval, Finding, Incident
from storage.records.wire import decode_finding

BATCH = 500
"""Findings and claims that are handled in one transaction."""
TICK = timedelta(seconds=30)
DEFAULT_POLICY = NotificationPolicy()
_ORPHANED_AFTER = timedelta(minutes=1)
"""How long an incident that no rule of ours judges was not seen when it is ended."""
_KEEPALIVE_SECONDS = 30.0
_POLL_SECONDS = 1.0
"""How often to look where the log does not tell of what is appended."""

logger = structlog.get_logger()


class AlertsWorker:
    """Judge every finding once: exactly once in the database.

    An incident of which nothing was heard for `sweep_after`, beyond what its rule waits by
    itself, is closed by the clock: a dark camera ends none. At most `batch` findings and claims
    are handled in one transaction. Health rules hear the ledger of coverage, and its silence
    about `cameras`. A finding that ends ahead of our clock by more than `tolerance` becomes a
    dead letter. While our own clock is in doubt, nothing is judged and no position moves.

    What its transactions leave for the log is appended by `publisher`, in a thread of its own;
    without one, here after each step, which then raises what the log says.
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
        """Whether the log answers."""
        self._cursor = LogCursor(log, store, self.availability)
        self._keepalive = keepalive
        self._sweep_after = sweep_after
        self._batch = batch
        has_health_rules = any(rule.question.startswith(HEALTH_PREFIX) for rule in rules)
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
        """Judge until stopped; waits out blocked storage, and another process that is ahead."""
        try:
            repeat(
                self._guarded_step,
                stop,
                logger,
                seconds=_POLL_SECONDS,
                wait=self._cursor.wait,
                eager=True,
            )
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
        """Judge what waits, or do what time alone calls for; return how much was done."""
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
        """Do what time alone calls for, once all findings are read; return how much it was."""
        done = self._tick(now)
        self._publish()
        return done

    def _judge_waiting(self) -> int:
        with self.availability.track():
            is_believed = self._guard.refresh()
        if not is_believed:
            if self.availability.outage is not None:
                self._cursor.read(1)  # it may answer again, though nothing is judged
            return 0
        if not self._orphans_retired:
            self._retire_orphans()
        pages = self._cursor.read(self._batch)
        return sum(map(self._handle, in_batches(pages, self._batch)))

    def _publish(self) -> None:
        while self._own_publisher is not None and self._own_publisher.run_once():
            pass

    def _tick(self, now: datetime) -> int:
        if self._sweep_after is None or not self._take_tick(now):
            return 0
        latest = self._guard.bounded_now(now)
        self._earliest_time = min(self._earliest_time or latest, latest)
        if self._cameras:
            present = replace(self._guard.current_time, now=latest)
            with self._store.transaction() as transaction:
                self.judge_unreported(transaction, self._earliest_time, present)
        self._judge_clock(now, is_behind=False)
        return self._revise_live(lambda incident: self._changes_by_time(incident, latest))

    def _take_tick(self, now: datetime) -> bool:
        """Return whether a tick has passed since the last, which counts from now on."""
        if timedelta() <= now - self._ticked_at < TICK:
            return False
        self._ticked_at = now
        return True

    def _judge_clock_doubt(self, now: datetime) -> int:
        """Let health rules know, every tick, that our clock is in doubt; nothing was handled."""
        if self._take_tick(now):
            self._judge_clock(now, is_behind=True)
        return 0

    def _judge_clock(self, now: datetime, *, is_behind: bool) -> None:
        if self._has_health_rules:
            with self._store.transaction() as transaction:
                self._judge_health(transaction, [behind_sample(READER, now, is_active=is_behind)])

    def _judge_clocks_ahead(self, transaction: Transaction, cameras: Collection[str]) -> None:
        now = self._guard.current_time.now
        self._judge_health(transaction, [ahead_sample(camera, now) for camera in sorted(cameras)])

    def judge_delivery_failure(self, transaction: Transaction, failure: DeliveryFailure) -> None:
        """Judge that somebody was not told, in the courier's transaction and from any thread."""
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
        """Judge samples of health, in a transaction of another job and from any thread.

        With `present` that is the time, whatever our clock says.
        """
        self._judge_health(transaction, samples, present)

    def judge_unreported(
        self, transaction: Transaction, since: datetime, present: CurrentTime
    ) -> None:
        """Judge of which cameras nothing was written for long, counted from `since` at least."""
        samples = list[RuleSample]()
        for camera in self._cameras:
            latest = transaction.coverage.latest(camera, present)
            end = max(latest.end, since) if latest else since
            samples += unreported_samples(camera, end, present.now)
        self._judge_health(transaction, samples, present)

    def _judge_coverage(
        self, transaction: Transaction, changed: Sequence[CoverageInterval]
    ) -> None:
        samples = [
            sample
            for each in changed
            for sample in health_samples(each.camera, each.state, each.start, each.end, each.reason)
        ]
        self._judge_health(transaction, samples)

    def _judge_health(
        self,
        transaction: Transaction,
        samples: Sequence[RuleSample],
        present: CurrentTime | None = None,
    ) -> None:
        present = present or self._guard.current_time
        cameras = {each.camera for each in samples}
        latest = transaction.latest_incidents(cameras, present)
        publish_and_log(transaction, list(self._judge.judge(samples, latest, present)))

    def _changes_by_time(self, incident: Incident, now: datetime) -> Iterator[IncidentChange]:
        """Yield what has become of an incident without a sample."""
        rule = self._judge.find_rule(incident)
        if self._sweep_after is None or not incident.is_live:
            return
        if rule is None or not self._judge.is_judged(incident):
            # An older release beside this one, which heeds no lease, may judge it still.
            if not now - _ORPHANED_AFTER < incident.last_seen_at <= now:
                yield from self._orphan_changes(incident)
            return
        stored, incident = (
            incident,
            without_future_instants(incident, now, self._guard.current_time) or incident,
        )
        if incident is not stored:
            yield self._judge.build_change(stored, incident, rule, who="clock")
        reported_until = now - self._sweep_after
        for after in overdue_revisions(rule, incident, reported_until):
            yield self._judge.build_change(incident, after, rule)
            incident = after
        if incident.is_live and incident.last_seen_at < reported_until - rule.incident_timeout:
            yield self._judge.build_change(incident, sweep(incident, now), rule, who="clock")

    def _retire_orphans(self) -> None:
        """End the incidents of rules and cameras that were changed or removed before this start."""
        self._revise_live(self._orphan_changes)
        self._orphans_retired = True

    def _orphan_changes(self, incident: Incident) -> Iterator[IncidentChange]:
        if incident.is_live and not self._judge.is_judged(incident):
            yield IncidentChange(before=incident, after=retire(incident), who="retired")

    def _revise_live(self, step: Callable[[Incident], Iterable[IncidentChange]]) -> int:
        """Take live incidents further, each as it stands when it is its turn; return how many."""
        due = [each.id for each in self._store.incidents(LIVE_STATES) if any(step(each))]
        for id in due:
            with self._store.transaction() as transaction:
                incident = transaction.find_incident(id)
                publish_and_log(transaction, list(step(incident)) if incident else [])
        return len(due)

    def _handle(self, pages: Sequence[LogPage]) -> int:
        """Judge and fold in one transaction; return how many entries: none while in doubt."""
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
        cameras = {finding.camera for finding in new}
        present = self._guard.current_time
        latest = transaction.latest_incidents(cameras, present)
        publish_and_log(
            transaction, list(self._judge.judge(map(sample_from_finding, new), latest, present))
        )
        for each in batch.dead_letters:
            logger.error("finding set aside", position=each.offset, reason=each.reason)
        add_dead_letters(transaction, batch.dead_letters)
        if batch.cameras_ahead and self._has_health_rules:
            self._judge_clocks_ahead(transaction, batch.cameras_ahead)
