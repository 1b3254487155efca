"""The judge's loop: reads findings from the log, and keeps what comes of them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event

import structlog

from alerts.contact import LogContact
from alerts.coverage import CoverageKeeper
from alerts.health import (
    PREFIX,
    ahead_sample,
    behind_sample,
    health_samples,
    undelivered_sample,
    unheard_samples,
)
from alerts.incidents import retire, sweep
from alerts.judge import Judge, keep
from alerts.loop import repeat
from alerts.publish import Change
from alerts.publisher import Publisher
from alerts.reading import (
    READER,
    Batch,
    Reading,
    count_of,
    decode_batch,
    entries_of,
    in_batches,
)
from alerts.route import Trouble, log_trouble
from alerts.routing import Routing
from alerts.rules import Rule, Sample, expired, sample_of
from alerts.steps import believed
from storage.errors import PositionMoved
from storage.incidents import IncidentStore
from storage.instants import TOLERANCE, ClockGuard, ClockReading, Present, read_clock
from storage.ledger import Ledger
from storage.log import FINDINGS, Log, Page
from storage.records import LIVE, Coverage, Finding, Incident
from storage.unpublished import set_aside
from storage.wire import decode_finding

BATCH = 500
"""Findings and claims that are handled in one transaction."""
TICK = timedelta(seconds=30)
DEFAULT = Routing()
_ORPHANED_AFTER = timedelta(minutes=1)
"""How long an incident that no rule of ours judges was not seen when it is ended."""
_PROMISE_SECONDS = 30.0
_POLL_SECONDS = 1.0
"""How often to look where the log does not tell of what is appended."""

_say = structlog.get_logger("alerts.worker")


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
        store: IncidentStore,
        rules: Sequence[Rule],
        promise: Callable[[float], None],
        *,
        publisher: Publisher | None = None,
        routing: Routing = DEFAULT,
        cameras: Collection[str] = (),
        sweep_after: timedelta | None = None,
        batch: int = BATCH,
        tolerance: timedelta = TOLERANCE,
        clock: Callable[[], ClockReading] = read_clock,
    ) -> None:
        self._store = store
        self._judge = Judge(rules, routing, cameras)
        self._own_publisher = None if publisher else Publisher(log, store)
        self.contact = LogContact(clock)
        """Whether the log answers."""
        self._reading = Reading(log, store, self.contact)
        self._promise = promise
        self._sweep_after = sweep_after
        self._batch = batch
        hears = any(rule.question.startswith(PREFIX) for rule in rules)
        self._hears = hears
        self._cameras = cameras if hears else ()
        self._guard = ClockGuard(log, tolerance, clock)
        self.coverage = CoverageKeeper(
            log,
            store,
            self._hear if hears else None,
            guard=self._guard,
            hear_ahead=self._hear_ahead if hears else None,
        )
        self._since: datetime | None = None
        self._orphans_retired = False
        self._ticked_at = datetime.min.replace(tzinfo=UTC)

    def run(self, stop: Event) -> None:
        """Judge until stopped; waits out blocked storage, and another process that is ahead."""
        try:
            repeat(
                self._step_on,
                stop,
                _say,
                seconds=_POLL_SECONDS,
                wait=self._reading.wait,
                eager=True,
            )
        finally:
            self._reading.close()

    def _step_on(self) -> int:
        self._promise(_PROMISE_SECONDS)
        try:
            return self.step()
        except PositionMoved as error:
            if not self._reading.notice_losses():
                _say.error(str(error))
            return 0

    def step(self) -> int:
        """Judge what waits, or do what time alone calls for; return how much was done."""
        handled = self._judge_waiting()
        now = self._guard.present.now
        if self._guard.doubt is not None:
            handled = self._doubt(now)
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
        with self.contact.asking():
            is_believed = self._guard.look()
        if not is_believed:
            if self.contact.outage is not None:
                self._reading.read(1)  # it may answer again, though nothing is judged
            return 0
        if not self._orphans_retired:
            self._retire_orphans()
        pages = self._reading.read(self._batch)
        return sum(map(self._handle, in_batches(pages, self._batch)))

    def _publish(self) -> None:
        while self._own_publisher is not None and self._own_publisher.run_once():
            pass

    def _tick(self, now: datetime) -> int:
        if self._sweep_after is None or not self._is_time(now):
            return 0
        latest = self._guard.latest_time(now)
        self._since = min(self._since or latest, latest)
        if self._cameras:
            present = replace(self._guard.present, now=latest)
            with self._store.transaction() as ledger:
                self.hear_silence(ledger, self._since, present)
        self._hear_clock(now, behind=False)
        return self._revise(lambda incident: self._passed(incident, latest))

    def _is_time(self, now: datetime) -> bool:
        """Return whether a tick has passed since the last, which counts from now on."""
        if timedelta() <= now - self._ticked_at < TICK:
            return False
        self._ticked_at = now
        return True

    def _doubt(self, now: datetime) -> int:
        """Let health rules know, every tick, that our clock is in doubt; nothing was handled."""
        if self._is_time(now):
            self._hear_clock(now, behind=True)
        return 0

    def _hear_clock(self, now: datetime, *, behind: bool) -> None:
        if self._hears:
            with self._store.transaction() as ledger:
                self._judge_health(ledger, [behind_sample(READER, now, holds=behind)])

    def _hear_ahead(self, ledger: Ledger, cameras: Collection[str]) -> None:
        now = self._guard.present.now
        self._judge_health(ledger, [ahead_sample(camera, now) for camera in sorted(cameras)])

    def hear_trouble(self, ledger: Ledger, trouble: Trouble) -> None:
        """Judge that somebody was not told, in the courier's transaction and from any thread."""
        log_trouble(ledger, trouble)
        id = str(trouble.delivery or "")
        sample = undelivered_sample(trouble.receiver, trouble.at, id, trouble.told)
        self.hear(ledger, [sample])

    def hear(
        self, ledger: Ledger, samples: Sequence[Sample], present: Present | None = None
    ) -> None:
        """Judge samples of health, in a transaction of another job and from any thread.

        With `present` that is the time, whatever our clock says.
        """
        self._judge_health(ledger, samples, present)

    def hear_silence(self, ledger: Ledger, since: datetime, present: Present) -> None:
        """Judge of which cameras nothing was written for long, counted from `since` at least."""
        samples = list[Sample]()
        for camera in self._cameras:
            latest = ledger.coverage.latest(camera, present)
            end = max(latest.end, since) if latest else since
            samples += unheard_samples(camera, end, present.now)
        self._judge_health(ledger, samples, present)

    def _hear(self, ledger: Ledger, changed: Sequence[Coverage]) -> None:
        samples = [
            sample
            for each in changed
            for sample in health_samples(each.camera, each.state, each.start, each.end, each.reason)
        ]
        self._judge_health(ledger, samples)

    def _judge_health(
        self, ledger: Ledger, samples: Sequence[Sample], present: Present | None = None
    ) -> None:
        present = present or self._guard.present
        cameras = {each.camera for each in samples}
        latest = ledger.latest_incidents(cameras, present)
        keep(ledger, list(self._judge.judge(samples, latest, present)))

    def _passed(self, incident: Incident, now: datetime) -> Iterator[Change]:
        """Yield what has become of an incident without a sample."""
        rule = self._judge.rule_of(incident)
        if self._sweep_after is None or not incident.is_live:
            return
        if rule is None or not self._judge.is_judged(incident):
            # An older release beside this one, which heeds no lease, may judge it still.
            if not now - _ORPHANED_AFTER < incident.last_seen_at <= now:
                yield from self._orphaned(incident)
            return
        stored, incident = incident, believed(incident, now, self._guard.present) or incident
        if incident is not stored:
            yield self._judge.change(stored, incident, rule, who="clock")
        heard_by = now - self._sweep_after
        for after in expired(rule, incident, heard_by):
            yield self._judge.change(incident, after, rule)
            incident = after
        if incident.is_live and incident.last_seen_at < heard_by - rule.patience:
            yield self._judge.change(incident, sweep(incident, now), rule, who="clock")

    def _retire_orphans(self) -> None:
        """End the incidents of rules and cameras that were changed or removed before this start."""
        self._revise(self._orphaned)
        self._orphans_retired = True

    def _orphaned(self, incident: Incident) -> Iterator[Change]:
        if incident.is_live and not self._judge.is_judged(incident):
            yield Change(before=incident, after=retire(incident), who="retired")

    def _revise(self, step: Callable[[Incident], Iterable[Change]]) -> int:
        """Take live incidents further, each as it stands when it is its turn; return how many."""
        due = [each.id for each in self._store.incidents(LIVE) if any(step(each))]
        for id in due:
            with self._store.transaction() as ledger:
                incident = ledger.find_incident(id)
                keep(ledger, list(step(incident)) if incident else [])
        return len(due)

    def _handle(self, pages: Sequence[Page]) -> int:
        """Judge and fold in one transaction; return how many entries: none while in doubt."""
        self._promise(_PROMISE_SECONDS)
        entries = entries_of(pages, FINDINGS)
        with self.contact.asking():
            findings = decode_batch(
                entries, decode_finding, lambda finding: finding.end, self._guard
            )
            claims = self.coverage.decode(pages)
        if findings is None or claims is None:
            return 0
        with self._reading.moving(pages) as ledger:
            self._judge_findings(ledger, findings)
            self.coverage.write(ledger, pages, claims)
        return count_of(pages)

    def _judge_findings(self, ledger: Ledger, batch: Batch[Finding]) -> None:
        fresh = ledger.insert_findings(batch.records)
        cameras = {finding.camera for finding in fresh}
        present = self._guard.present
        latest = ledger.latest_incidents(cameras, present)
        keep(ledger, list(self._judge.judge(map(sample_of, fresh), latest, present)))
        for each in batch.dead:
            _say.error("finding set aside", position=each.position, reason=each.reason)
        set_aside(ledger, batch.dead)
        if batch.ahead and self._hears:
            self._hear_ahead(ledger, batch.ahead)
