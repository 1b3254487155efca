"""The judge's loop: reads findings from the log, and keeps what comes of them."""

from collections.abc import Callable, Iterable, Sequence
from threading import Event

import structlog

from alerts import events
from alerts.rules import Rule, changes, retire
from storage.errors import PositionMoved, StorageFull, Unreadable
from storage.incidents import IncidentStore
from storage.ledger import Ledger
from storage.log import DEAD, FINDINGS, INCIDENTS, Entry, Log
from storage.records import Finding, Incident, IncidentState
from storage.wire import Dead, decode_finding, encode_dead, encode_incident

READER = "alerts"
_PROMISE_SECONDS = 30.0
_POLL_SECONDS = 0.2
_DISK_FULL_SECONDS = 5.0

_say = structlog.get_logger("alerts.worker")


class AlertsWorker:
    """Judge every finding once: exactly once in the database, at least once on the log."""

    def __init__(
        self,
        log: Log,
        store: IncidentStore,
        rules: Sequence[Rule],
        promise: Callable[[float], None],
    ) -> None:
        self._log = log
        self._store = store
        self._rules = rules
        self._promise = promise
        self._orphans_retired = False

    def run(self, stop: Event) -> None:
        """Judge until stopped; survives a full disk, and another process that is ahead."""
        disk_full = False
        while not stop.is_set():
            self._promise(_PROMISE_SECONDS)
            handled = 0
            try:
                handled = self.run_once()
                disk_full = False
            except PositionMoved as error:
                _say.error(str(error))
            except StorageFull as error:
                if not disk_full:
                    _say.error(str(error))
                disk_full = True
            if not handled:
                stop.wait(_DISK_FULL_SECONDS if disk_full else _POLL_SECONDS)

    def run_once(self) -> int:
        """Judge the findings that wait; return how many entries were handled."""
        if not self._orphans_retired:
            self._retire_orphans()
        position = self._skip_what_is_gone(self._store.position(READER, FINDINGS))
        entries = self._log.read(FINDINGS, position)
        for entry in entries:
            self._promise(_PROMISE_SECONDS)
            self._handle(entry)
        return len(entries)

    def _retire_orphans(self) -> None:
        """End the incidents whose rule was changed or taken away while nobody judged."""
        rules = {(rule.name, rule.version) for rule in self._rules}
        for incident in self._store.incidents((IncidentState.PENDING, IncidentState.OPEN)):
            if (incident.rule, incident.rule_version) not in rules:
                told = {delivery.receiver for delivery in self._store.deliveries(incident.id)}
                with self._store.transaction() as ledger:
                    self._keep(ledger, incident, retire(incident), sorted(told))
        self._orphans_retired = True

    def _skip_what_is_gone(self, position: int) -> int:
        oldest = self._log.oldest(FINDINGS)
        if oldest <= position:
            return position
        _say.error("findings missed: the log no longer kept them", missed=oldest - position)
        with self._store.transaction() as ledger:
            ledger.advance(READER, FINDINGS, position, oldest)
        return oldest

    def _handle(self, entry: Entry) -> None:
        try:
            finding = decode_finding(entry.value)
        except Unreadable as error:
            self._bury(entry, error.reason)
            return
        with self._store.transaction() as ledger:
            ledger.advance(READER, FINDINGS, entry.position, entry.position + 1)
            if ledger.insert_finding(finding):
                self._judge(ledger, finding)

    def _bury(self, entry: Entry, reason: str) -> None:
        _say.error("unreadable finding", position=entry.position, reason=reason)
        dead = Dead(
            topic=entry.topic,
            position=entry.position,
            key=entry.key,
            reason=reason,
            value=entry.value,
        )
        self._log.append(DEAD, entry.key, encode_dead(dead))
        with self._store.transaction() as ledger:
            ledger.advance(READER, FINDINGS, entry.position, entry.position + 1)

    def _judge(self, ledger: Ledger, finding: Finding) -> None:
        for rule in self._rules:
            if rule.question != finding.question or not rule.watches(finding.camera):
                continue
            before = ledger.live_incident(finding.camera, rule.name, rule.version)
            for after in changes(rule, before, finding):
                self._keep(ledger, before, after, rule.notify)
                before = None

    def _keep(
        self, ledger: Ledger, before: Incident | None, after: Incident, receivers: Iterable[str]
    ) -> None:
        """Save one revision, its deliveries, and tell the log.

        The log comes before the commit: a crash between them tells it the same revision twice,
        the other order could leave one out.
        """
        ledger.save_incident(after)
        kind = events.event_type(before, after)
        if kind is not None:
            body = events.body(kind, after)
            for receiver in receivers:
                ledger.add_delivery(events.delivery(after, receiver), body)
            _say.info(kind, camera=after.camera, rule=after.rule, incident=str(after.id))
        self._log.append(INCIDENTS, after.camera, encode_incident(after))
