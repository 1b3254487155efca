"""Whoever changes an incident, the topic has every revision of it, and the trail the same."""

import ast
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from uuid import UUID, uuid4

import pytest

from alerts.evidence.keeper import NEXT_WINDOW_TIMEOUT, EvidenceKeeper
from alerts.evidence.retention import RetentionJob, RetentionPeriods
from alerts.incidents.changes import IncidentChange, publish
from alerts.notify.failures import DeliveryFailure
from alerts.rules.lifecycle import acknowledge, note, resolve
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from deploy.cli.incident_actions import apply_action
from kit.alerts.webhook_receiver import publish_all
from kit.deploy.command import ROOT
from kit.storage.fixtures import START, WINDOW_LENGTH, a_finding, a_window
from storage.clock import ClockReading, read_clock
from storage.db.alert_store import AlertStore
from storage.log.log import Log
from storage.log.memory_log import MemoryLog
from storage.records.claims import Claim, encode_claim
from storage.records.records import CoverageState, Incident, IncidentState
from storage.records.topics import COVERAGE, FINDINGS, INCIDENTS, WINDOWS
from storage.records.wire import decode_incident, encode_finding, encode_window

BAG = Rule(name="bag-left", question="bag", above=0.8, below=0.5, notify=("soc",))
BRIEF = replace(BAG, name="bag-seen", for_=timedelta(minutes=1))
DOWN = Rule(name="down", question="health/camera_down", above=0.5, below=0.5, notify=("soc",))
LOST = Rule(name="lost", question="health/undelivered", above=0.5, below=0.5)
RULES = (BAG, BRIEF, DOWN, LOST)
NOW = START + 8 * WINDOW_LENGTH
DAY = timedelta(days=1)


def on_the_topic(log: Log) -> dict[UUID, list[int]]:
    found = defaultdict[UUID, list[int]](list)
    for partition in log.partitions(INCIDENTS):
        for entry in log.read(partition, 0, limit=1000):
            incident = decode_incident(entry.value)
            found[incident.id].append(incident.revision)
    return found


def judge(
    log: Log, store: AlertStore, *rules: Rule, clock: Callable[[], ClockReading] = read_clock
) -> AlertsWorker:
    return AlertsWorker(
        log, store, rules or RULES, lambda _: None, sweep_after=10 * WINDOW_LENGTH, clock=clock
    )


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def read(self) -> ClockReading:
        return ClockReading(wall=self.now, monotonic=(self.now - NOW).total_seconds())


def found(log: Log, number: int, score: float = 0.9, camera: str = "dock") -> None:
    log.append(WINDOWS, camera, encode_window(a_window(number, camera)))
    log.append(FINDINGS, camera, encode_finding(a_finding(number, score, camera)))


def everybody_changes_incidents(log: Log, store: AlertStore, folder: Path) -> None:
    hand = Hand()
    worker, keeper = judge(log, store, clock=hand.read), EvidenceKeeper(log, store, folder)
    for number in (1, 2):
        found(log, number)
        worker.run_once()
        keeper.run_once(NOW)
    claim = Claim(camera="yard", start=START, end=NOW, state=CoverageState.CAMERA_DOWN)
    log.append(COVERAGE, "yard", encode_claim(claim))
    worker.run_once()
    with store.transaction() as transaction:
        lost = DeliveryFailure(receiver="soc", reason="given up", at=NOW, delivery_id=uuid4())
        worker.judge_delivery_failure(transaction, lost)
    (opened,) = [each for each in store.incidents() if each.rule == BAG.name]
    for step, text in ((acknowledge, "on my way"), (note, "two bags"), (resolve, "")):
        apply_action(store, str(opened.id), step, by="ada", note=text)
    apply_action(store, str(opened.id), note, by="ada", note="taken to the office")
    found(log, 3, camera="gate")
    worker.run_once()
    hand.now += 100 * DAY
    worker.step()  # sweeps what is live
    keeper.run_once(NOW + NEXT_WINDOW_TIMEOUT)
    found(log, 4, camera="hall")
    worker.run_once()
    judge(log, store, DOWN).run_once()  # retires the others
    keeper.run_once(NOW + NEXT_WINDOW_TIMEOUT)
    keeper.run_once(NOW + 2 * NEXT_WINDOW_TIMEOUT)
    never = 999 * DAY
    keep = RetentionPeriods(
        incidents=never, deliveries=never, dismissed=never, findings=DAY, stills=DAY
    )
    RetentionJob(store, folder, keep, Event()).run_once(NOW + 200 * DAY)


def test_topic_has_every_revision_of_every_incident(
    store: AlertStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MemoryLog(partitions=3, now=lambda: NOW)
    everybody_changes_incidents(log, store, tmp_path)
    topic = on_the_topic(publish_all(log, store))
    stored = {each.id: each for each in store.incidents()}
    assert topic.keys() == stored.keys()
    who = set[str]()
    for id, incident in stored.items():
        assert topic[id] == list(range(1, incident.revision + 1))
        trail = store.audit_entries(id)
        assert [entry["incident"]["revision"] for entry in trail] == topic[id]
        who |= {entry["who"] for entry in trail}
    assert who == {"rule", "clock", "retired", "evidence", "retention", "ada"}
    assert {each.rule for each in stored.values()} == {rule.name for rule in RULES}
    assert store.verify_audit().problem is None


def test_revisions_are_saved_in_one_place() -> None:
    """`publish` alone calls `Transaction.save_revisions`."""
    calls = {
        path.relative_to(ROOT).as_posix()
        for folder in ("alerts", "deploy", "storage")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".save_revisions")
    }
    assert calls == {"alerts/incidents/changes.py"}


def opened_at(log: Log, store: AlertStore, at: datetime) -> Incident:
    found(log, 1)
    judge(log, store, BAG).run_once()
    (incident,) = store.incidents()
    return incident


def test_change_that_is_not_committed_is_nowhere(store: AlertStore) -> None:
    log = MemoryLog()
    incident = opened_at(log, store, NOW)
    with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        after = note(incident, "ada", NOW)
        publish(transaction, [IncidentChange(before=incident, after=after, who="ada")])
        raise ZeroDivisionError
    assert on_the_topic(publish_all(log, store))[incident.id] == [1]
    assert store.incidents() == [incident]
    apply_action(store, str(incident.id), note, by="ada", note="again")
    assert on_the_topic(publish_all(log, store))[incident.id] == [1, 2]


def test_change_that_does_not_follow_is_nowhere(store: AlertStore) -> None:
    log = MemoryLog()
    incident = opened_at(log, store, NOW)
    after = replace(note(incident, "ada", NOW), revision=7)
    with pytest.raises(ValueError, match="not at revision 6"), store.transaction() as transaction:
        publish(transaction, [IncidentChange(before=incident, after=after, who="ada")])
    assert on_the_topic(log)[incident.id] == [1]


def test_note_on_a_resolved_incident_notifies_nobody_again(store: AlertStore) -> None:
    log = MemoryLog()
    incident = opened_at(log, store, NOW)
    for step in (resolve, note):
        apply_action(store, str(incident.id), step, by="ada", note="text")
    kinds = [notification.kind.value for notification in store.notifications(incident.id)]
    assert kinds == ["opened", "resolved"]
    (after,) = store.incidents()
    assert (after.state, after.revision) == (IncidentState.RESOLVED, 3)
