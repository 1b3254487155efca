"""Rules that watch the watching: what the ledger of coverage and the courier tell them."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from alerts.evidence.keeper import EvidenceKeeper
from alerts.notify.courier import Courier
from alerts.notify.failures import DeliveryFailure
from alerts.notify.queue import RETRIES
from alerts.notify.webhook import Webhook
from alerts.rules.rule import Rule
from alerts.worker import TICK, AlertsWorker
from kit.alerts.routing import dispatch_all
from kit.alerts.webhook_receiver import ManualClock
from kit.storage.fixtures import START, a_finding
from storage.clock import ClockReading, read_clock
from storage.db.alert_store import AlertStore
from storage.log.memory_log import MemoryLog
from storage.records.claims import Claim, encode_claim
from storage.records.deliveries import DeliveryState
from storage.records.records import CoverageState, IncidentState
from storage.records.topics import COVERAGE, FINDINGS, INCIDENTS
from storage.records.wire import decode_incident, encode_finding

DOWN, SEEN = CoverageState.CAMERA_DOWN, CoverageState.ANALYSED
MINUTE = timedelta(minutes=1)
UNWATCHED = Rule(
    name="nobody-watches",
    question="health/unwatched",
    above=0.5,
    below=0.5,
    stale_after=timedelta(days=1000),
    notify=("soc",),
)
LOST = replace(UNWATCHED, name="not-told", question="health/undelivered", stale_after=MINUTE)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


def worker(
    log: MemoryLog,
    store: AlertStore,
    *rules: Rule,
    clock: Callable[[], ClockReading] = read_clock,
) -> AlertsWorker:
    return AlertsWorker(
        log,
        store,
        rules,
        lambda seconds: None,
        cameras=("dock",),
        sweep_after=10 * MINUTE,
        clock=clock,
    )


def claim(log: MemoryLog, state: CoverageState, start: datetime, end: datetime) -> None:
    claim_made = Claim(camera="dock", start=start, end=end, state=state)
    log.append(COVERAGE, "dock", encode_claim(claim_made))


def states(store: AlertStore) -> dict[str, IncidentState]:
    return {incident.camera: incident.state for incident in store.incidents()}


def test_camera_that_is_down_opens_an_incident_that_ends_when_it_is_seen_again(
    log: MemoryLog, store: AlertStore
) -> None:
    judge = worker(log, store, UNWATCHED)
    claim(log, SEEN, START, START + MINUTE)
    judge.run_once()
    assert states(store) == {}
    claim(log, DOWN, START + MINUTE, START + 2 * MINUTE)
    judge.run_once()
    (incident,) = store.incidents()
    assert (incident.state, incident.first_seen_at) == (IncidentState.OPEN, START + MINUTE)
    (notification,) = store.notifications(incident.id)
    assert notification.receiver == "soc"
    claim(log, SEEN, START + 2 * MINUTE, START + 3 * MINUTE)
    judge.run_once()
    assert states(store) == {"dock": IncidentState.RESOLVED}
    on_the_log = [decode_incident(entry.value).state for entry in log.read(INCIDENTS, 0)]
    assert (on_the_log[0], on_the_log[-1]) == (IncidentState.OPEN, IncidentState.RESOLVED)


def test_claims_that_are_told_twice_change_nothing(log: MemoryLog, store: AlertStore) -> None:
    for _ in range(2):
        claim(log, DOWN, START, START + MINUTE)
    worker(log, store, UNWATCHED).run_once()
    (incident,) = store.incidents()
    worker(log, store, UNWATCHED).run_once()
    assert store.incidents() == [incident]


@pytest.mark.parametrize("heard_before", [True, False])
def test_silence_of_the_ledger_opens_an_incident(
    heard_before: bool, log: MemoryLog, store: AlertStore
) -> None:
    clock = ManualClock(START)
    judge = worker(log, store, UNWATCHED, clock=clock)
    if heard_before:
        claim(log, SEEN, START - MINUTE, START)
        judge.run_once()
    judge.tick(START)
    clock.now = START + MINUTE
    judge.tick(clock.now)
    assert states(store) == {}
    clock.now += TICK
    judge.tick(clock.now)
    assert states(store) == {"dock": IncidentState.OPEN}
    claim(log, SEEN, START + 2 * MINUTE, START + 3 * MINUTE)
    judge.run_once()
    assert states(store) == {"dock": IncidentState.RESOLVED}


def test_cameras_that_are_not_configured_any_more_are_not_missed(
    log: MemoryLog, store: AlertStore
) -> None:
    claim(log, SEEN, START - MINUTE, START)
    judge = AlertsWorker(
        log, store, (UNWATCHED,), lambda seconds: None, cameras=(), sweep_after=10 * MINUTE
    )
    judge.run_once()
    for minute in range(9):
        judge.tick(START + minute * MINUTE)
    assert states(store) == {}


def test_health_incident_has_no_stills(log: MemoryLog, store: AlertStore, tmp_path: Path) -> None:
    claim(log, DOWN, START, START + MINUTE)
    worker(log, store, UNWATCHED).run_once()
    assert EvidenceKeeper(log, store, tmp_path / "evidence").run_once(START + MINUTE) == 0
    (incident,) = store.incidents()
    assert store.evidence(incident.id) == []
    assert {entry["who"] for entry in store.audit_entries(incident.id)} == {"rule"}


def test_receiver_that_was_not_told_opens_an_incident_that_the_clock_closes(
    log: MemoryLog, store: AlertStore
) -> None:
    judge = worker(log, store, LOST)
    trouble = DeliveryFailure(receiver="soc", reason="given up", at=START, delivery_id=uuid4())
    with store.transaction() as transaction:
        judge.judge_delivery_failure(transaction, trouble)
    assert states(store) == {"receiver/soc": IncidentState.OPEN}
    assert [each.reason for each in store.incidents()] == ["given up"]
    judge.tick(START + 5 * MINUTE)
    assert states(store) == {"receiver/soc": IncidentState.OPEN}
    judge.tick(START + 12 * MINUTE)
    assert states(store) == {"receiver/soc": IncidentState.RESOLVED}


def test_giving_up_a_delivery_is_itself_told(log: MemoryLog, store: AlertStore) -> None:
    left = Rule(name="bag-left", question="bag", above=0.8, below=0.5, notify=("soc",))
    judge = worker(log, store, left, replace(LOST, notify=("guard",)))
    log.append(FINDINGS, "dock", encode_finding(a_finding(0, 0.9)))
    judge.run_once()
    assert dispatch_all(store, START) == 1
    dead = Webhook(name="soc", url="https://127.0.0.1:9/", secrets=("whsec_" + "a" * 32,))
    courier, now = Courier(store, [dead], judge.judge_delivery_failure), START
    for _ in range(len(RETRIES) + 1):
        now += timedelta(days=2)
        assert courier.run_once(now) == 1
    (told,) = [each for each in store.incidents() if each.rule == "not-told"]
    (lost,) = [each for each in store.incidents() if each.rule == "bag-left"]
    assert told.state is IncidentState.OPEN
    assert told.reason.startswith("exhausted after 10 tries: ")
    assert [each.state for each in store.deliveries(lost.id)] == [DeliveryState.EXHAUSTED]
    assert [each.receiver for each in store.notifications(told.id)] == ["guard"]


@pytest.mark.parametrize("gone", ["from the settings", "from the rule"])
def test_incident_of_a_camera_that_was_removed_closes(
    log: MemoryLog, store: AlertStore, gone: str
) -> None:
    claim(log, DOWN, START, START + MINUTE)
    worker(log, store, UNWATCHED).run_once()
    assert states(store) == {"dock": IncidentState.OPEN}
    claim(log, DOWN, START + MINUTE, START + 2 * MINUTE)  # still in the log
    rule = replace(UNWATCHED, cameras=("yard",)) if gone == "from the rule" else UNWATCHED
    cameras = ("dock",) if gone == "from the rule" else ("yard",)
    again = AlertsWorker(log, store, [rule], lambda seconds: None, cameras=cameras)
    again.run_once()
    again.run_once()
    (incident,) = store.incidents()
    assert (incident.state, incident.closed_because) == (IncidentState.RESOLVED, "retired")
    assert [each.kind for each in store.notifications(incident.id)] == ["opened", "resolved"]


def test_incident_about_a_receiver_is_kept_when_cameras_are_removed(
    log: MemoryLog, store: AlertStore
) -> None:
    first = worker(log, store, LOST)
    with store.transaction() as transaction:
        first.judge_delivery_failure(
            transaction, DeliveryFailure(receiver="soc", reason="refused", at=START)
        )
    assert states(store) == {"receiver/soc": IncidentState.OPEN}
    worker(log, store, LOST).run_once()
    assert states(store) == {"receiver/soc": IncidentState.OPEN}
