"""The judge's loop: reads findings from the log, and keeps what comes of them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from threading import Event

import structlog

from alerts.coverage import CoverageKeeper
from alerts.health import PREFIX, health_samples, undelivered_sample, unheard_samples
from alerts.incidents import retire, sweep
from alerts.reading import READER, read_on
from alerts.route import Trouble, log_trouble
from alerts.routing import Routing, news_of
from alerts.rules import Rule, Sample, changes, expired, looks_at, sample_of
from storage.dead import dead_of
from storage.errors import PositionMoved, StorageBlocked, Unreadable
from storage.incidents import IncidentStore
from storage.ledger import Ledger
from storage.log import DEAD, FINDINGS, INCIDENTS, Entry, Log
from storage.records import Coverage, Finding, Incident, IncidentState, Revision
from storage.wire import Dead, decode_finding, encode_dead, encode_incident

BATCH = 500
"""Findings that are judged in one transaction."""
TICK = timedelta(seconds=30)
LIVE = (IncidentState.PENDING, IncidentState.OPEN, IncidentState.ACKNOWLEDGED)
DEFAULT = Routing()
_PROMISE_SECONDS = 30.0
_POLL_SECONDS = 0.2
_BLOCKED_SECONDS = 1.0

_say = structlog.get_logger("alerts.worker")


class AlertsWorker:
    """Judge every finding once: exactly once in the database, at least once on the log.

    An incident of which nothing was heard for `sweep_after`, beyond what its rule waits by
    itself, is closed by the clock: a dark camera ends none. At most `batch` findings are judged
    in one transaction. Health rules hear the ledger of coverage, and its silence about `cameras`.
    """

    def __init__(
        self,
        log: Log,
        store: IncidentStore,
        rules: Sequence[Rule],
        promise: Callable[[float], None],
        *,
        routing: Routing = DEFAULT,
        cameras: Collection[str] = (),
        sweep_after: timedelta | None = None,
        batch: int = BATCH,
    ) -> None:
        self._log = log
        self._store = store
        self._rules = rules
        self._promise = promise
        self._routing = routing
        self._by_version = {(rule.name, rule.version): rule for rule in rules}
        self._sweep_after = sweep_after
        self._batch = batch
        hears = any(rule.question.startswith(PREFIX) for rule in rules)
        self._known_cameras = frozenset(cameras)
        self._cameras = cameras if hears else ()
        self._coverage = CoverageKeeper(log, store, self._hear if hears else None)
        self._since: datetime | None = None
        self._orphans_retired = False
        self._ticked_at = datetime.min.replace(tzinfo=UTC)

    def run(self, stop: Event) -> None:
        """Judge until stopped; waits out blocked storage, and another process that is ahead."""
        blocked = False
        while not stop.is_set():
            self._promise(_PROMISE_SECONDS)
            handled = 0
            try:
                handled = self.run_once() or self.tick(datetime.now(UTC))
                blocked = False
            except PositionMoved as error:
                _say.error(str(error))
            except StorageBlocked as error:
                if not blocked:
                    _say.error(str(error))
                blocked = True
            if not handled:
                stop.wait(_BLOCKED_SECONDS if blocked else _POLL_SECONDS)

    def run_once(self) -> int:
        """Judge the findings that wait; return how many entries were handled."""
        if not self._orphans_retired:
            self._retire_orphans()
        handled = sum(self._judge_part(part) for part in self._log.parts(FINDINGS))
        return handled + self._coverage.run_once()

    def _judge_part(self, part: str) -> int:
        position, entries = read_on(self._log, self._store, part, self._batch)
        if entries:
            self._promise(_PROMISE_SECONDS)
            self._handle(part, position, entries)
        return len(entries)

    def tick(self, now: datetime) -> int:
        """Do what time alone calls for, once all findings are read; return how much it was."""
        if self._sweep_after is None or now - self._ticked_at < TICK:
            return 0
        self._ticked_at = now
        self._hear_silence(now)
        return self._revise(lambda incident: self._passed(incident, now))

    def hear_trouble(self, ledger: Ledger, trouble: Trouble) -> None:
        """Judge that somebody was not told, in the courier's transaction and from any thread."""
        log_trouble(ledger, trouble)
        id = str(trouble.delivery or "")
        self._judge_health(ledger, [undelivered_sample(trouble.receiver, trouble.at, id)])

    def _hear(self, ledger: Ledger, latest: Coverage) -> None:
        samples = health_samples(latest.camera, latest.state, latest.start, latest.end)
        self._judge_health(ledger, list(samples))

    def _hear_silence(self, now: datetime) -> None:
        """Judge that of some cameras nothing is written any more: since the start, at least."""
        self._since = self._since or now
        for camera in self._cameras:
            with self._store.transaction() as ledger:
                latest = ledger.coverage.latest(camera)
                end = max(latest.end, self._since) if latest else self._since
                self._judge_health(ledger, list(unheard_samples(camera, end, now)))

    def _judge_health(self, ledger: Ledger, samples: Sequence[Sample]) -> None:
        latest = ledger.latest_incidents({each.camera for each in samples})
        self._keep(ledger, list(self._judge(samples, latest)))

    def _passed(self, incident: Incident, now: datetime) -> Iterator["_Change"]:
        """Yield what has become of an incident without a sample."""
        rule = self._by_version.get((incident.rule, incident.rule_version))
        if rule is None or self._sweep_after is None or not incident.is_live:
            return
        heard_by = now - self._sweep_after
        for after in expired(rule, incident, heard_by):
            yield _Change(incident, after, "rule", rule.notify)
            incident = after
        if incident.is_live and incident.last_seen_at < heard_by - rule.patience:
            yield _Change(incident, sweep(incident, now), "clock", rule.notify)

    def _retire_orphans(self) -> None:
        """End the incidents whose rule or camera was changed or removed while nobody judged."""
        self._revise(self._orphaned)
        self._orphans_retired = True

    def _orphaned(self, incident: Incident) -> Iterator["_Change"]:
        if incident.is_live and not self._is_judged(incident):
            yield _Change(incident, retire(incident), "retired", None)

    def _is_judged(self, incident: Incident) -> bool:
        """Return whether a rule still looks at the camera of an incident."""
        rule = self._by_version.get((incident.rule, incident.rule_version))
        return rule is not None and rule.watches(incident.camera) and self._has(incident.camera)

    def _has(self, camera: str) -> bool:
        """Return whether a camera is in the settings, or, with a `/`, stands for something else."""
        known = self._known_cameras
        return not known or camera in known or "/" in camera

    def _revise(self, step: Callable[[Incident], Iterable["_Change"]]) -> int:
        """Take live incidents further, each as it stands when it is its turn; return how many."""
        due = [each.id for each in self._store.incidents(LIVE) if any(step(each))]
        for id in due:
            with self._store.transaction() as ledger:
                self._keep(ledger, list(step(ledger.incident(id))))
        return len(due)

    def _handle(self, part: str, position: int, entries: Sequence[Entry]) -> None:
        """Judge entries in one transaction.

        The log comes before the commit: a crash between them tells it the same revisions twice,
        the other order could leave some out.
        """
        findings, dead = _read(entries)
        with self._store.transaction() as ledger:
            ledger.advance(READER, part, position, entries[-1].position + 1)
            fresh = ledger.insert_findings(findings)
            latest = ledger.latest_incidents({finding.camera for finding in fresh})
            self._keep(ledger, list(self._judge(map(sample_of, fresh), latest)))
            for each in dead:
                _say.error("unreadable finding", position=each.position, reason=each.reason)
                self._log.append(DEAD, each.key, encode_dead(each))

    def _judge(
        self, samples: Iterable[Sample], latest: dict[tuple[str, str, str], Incident]
    ) -> Iterator["_Change"]:
        for sample in samples:
            for rule in self._rules:
                if not (looks_at(rule, sample) and self._has(sample.camera)):
                    continue
                place = (sample.camera, rule.name, rule.version)
                before = latest.get(place)
                for after in changes(rule, before, sample):
                    is_next = before is not None and before.id == after.id
                    yield _Change(before if is_next else None, after, "rule", rule.notify)
                    before = latest[place] = after

    def _keep(self, ledger: Ledger, made: Sequence["_Change"]) -> None:
        """Save revisions, what is to be told of them, and put them on the log."""
        ledger.save([Revision(incident=each.after, who=each.who) for each in made])
        for each in made:
            news, after = news_of(each.before, each.after), each.after
            if news is None:
                continue
            if each.receivers is None:
                ledger.routing.notify_again(after, news)
            else:
                groups = self._routing.groups_of(after, each.receivers)
                ledger.routing.notify(after, news, groups)
            _say.info(f"incident {news}", camera=after.camera, rule=after.rule, id=str(after.id))
        for camera, group in groupby(sorted(made, key=_camera), key=_camera):
            values = [encode_incident(each.after) for each in group]
            self._log.append(INCIDENTS, camera, *values)


@dataclass(frozen=True, slots=True)
class _Change:
    """One revision of an incident and the one before it, if any; who made it, whom it is told.

    Without receivers it is told to those who had a notice of it before.
    """

    before: Incident | None
    after: Incident
    who: str
    receivers: tuple[str, ...] | None


def _camera(change: _Change) -> str:
    return change.after.camera


def _read(entries: Sequence[Entry]) -> tuple[list[Finding], list[Dead]]:
    """Return the findings in entries, and what could not be read."""
    findings, dead = list[Finding](), list[Dead]()
    for entry in entries:
        try:
            findings.append(decode_finding(entry.value))
        except Unreadable as error:
            dead.append(dead_of(entry, error))
    return findings, dead
