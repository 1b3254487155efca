import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from storage_fixtures import EVERY, a_finding, an_incident
from structlog.testing import capture_logs

from alerts.events import body
from alerts.rules import Rule
from alerts.webhook import MAX_BODY_BYTES
from alerts.worker import READER, AlertsWorker
from storage import wire
from storage.database import open_database
from storage.errors import PositionMoved
from storage.incidents import IncidentStore
from storage.log import DEAD, FINDINGS, INCIDENTS, Log, MemoryLog, SqliteLog
from storage.records import DeliveryState, Finding, IncidentState

RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5, notify=("soc", "guard"))
PENDING, OPEN = IncidentState.PENDING, IncidentState.OPEN
RESOLVED, DISMISSED = IncidentState.RESOLVED, IncidentState.DISMISSED


@pytest.fixture
def store(tmp_path: Path) -> Iterator[IncidentStore]:
    engine = open_database(f"sqlite:///{tmp_path / 'longwatch.db'}")
    yield IncidentStore(engine)
    engine.dispose()


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    opened: Log = MemoryLog() if request.param == "memory" else SqliteLog(tmp_path / "log.db")
    yield opened
    opened.close()


def worker(log: Log, store: IncidentStore, *rules: Rule) -> AlertsWorker:
    return AlertsWorker(log, store, rules or (RULE,), promise=lambda seconds: None)


def found(log: Log, *findings: Finding) -> None:
    for finding in findings:
        log.append(FINDINGS, finding.camera, wire.encode_finding(finding))


def told(log: Log) -> list[tuple[IncidentState, int]]:
    incidents = [wire.decode_incident(entry.value) for entry in log.read(INCIDENTS, 0)]
    return [(incident.state, incident.revision) for incident in incidents]


def test_finding_above_the_threshold_opens_an_incident(log: Log, store: IncidentStore) -> None:
    found(log, a_finding(0, 0.2), a_finding(1, 0.9))
    assert worker(log, store).run_once() == 2
    (incident,) = store.incidents()
    assert (incident.state, incident.evidence) == (OPEN, (a_finding(1).id,))
    assert store.findings(incident.evidence) == [a_finding(1, 0.9)]
    deliveries = store.deliveries(incident.id)
    assert sorted(delivery.receiver for delivery in deliveries) == ["guard", "soc"]
    assert {delivery.state for delivery in deliveries} == {DeliveryState.WAITING}
    assert told(log) == [(OPEN, 1)]
    assert store.position(READER, FINDINGS) == 2


def test_quiet_camera_closes_incident(log: Log, store: IncidentStore) -> None:
    found(log, a_finding(0, 0.9), a_finding(1, 0.9), a_finding(2, 0.1))
    worker(log, store).run_once()
    assert [incident.state for incident in store.incidents()] == [RESOLVED]
    assert told(log) == [(OPEN, 1), (OPEN, 2), (RESOLVED, 3)]
    assert sorted(delivery.revision for delivery in store.deliveries()) == [1, 1, 3, 3]


def test_pending_and_dismissed_are_told_to_nobody(log: Log, store: IncidentStore) -> None:
    found(log, a_finding(0, 0.9), a_finding(1, 0.1))
    worker(log, store, replace(RULE, for_=10 * EVERY)).run_once()
    assert told(log) == [(PENDING, 1), (DISMISSED, 2)]
    assert store.deliveries() == []


def test_pending_that_opens_is_told_once(log: Log, store: IncidentStore) -> None:
    found(log, *(a_finding(n, 0.9) for n in range(4)))
    worker(log, store, replace(RULE, for_=2 * EVERY, notify=("soc",))).run_once()
    (delivery,) = store.deliveries()
    assert delivery.revision == 3
    event = json.loads(store.body(delivery))
    assert event["type"] == "incident.opened"


def test_event_tells_the_whole_incident(log: Log, store: IncidentStore) -> None:
    found(log, a_finding(0, 0.9), a_finding(1, 0.1))
    worker(log, store, replace(RULE, notify=("soc",), severity="high")).run_once()
    events = [json.loads(store.body(delivery)) for delivery in store.deliveries()]
    assert [(event["version"], event["type"]) for event in events] == [
        (1, "incident.opened"),
        (1, "incident.resolved"),
    ]
    (incident,) = store.incidents()
    assert events[1] == {
        "version": 1,
        "type": "incident.resolved",
        "timestamp": a_finding(1).end.isoformat(),
        "data": {
            "id": str(incident.id),
            "camera": "dock",
            "rule": "bag-left",
            "rule_version": RULE.version,
            "severity": "high",
            "state": "resolved",
            "first_seen_at": a_finding(0).end.isoformat(),
            "opened_at": a_finding(0).end.isoformat(),
            "last_seen_at": a_finding(0).end.isoformat(),
            "closed_at": a_finding(1).end.isoformat(),
            "evidence": [a_finding(0).id],
            "revision": 2,
        },
    }


def test_largest_event_stays_under_20_kb() -> None:
    widest = "\U0001f400" * wire.MAX_NAME
    evidence = "/".join([f"{widest}@2026-11-22T08:00:00.250+00:00", widest, widest])
    incident = replace(
        an_incident(revision=2**53, state=RESOLVED),
        camera=widest,
        rule=widest,
        rule_version=widest,
        severity=widest,
        evidence=(evidence,) * wire.MAX_EVIDENCE,
    )
    wire.encode_incident(incident)
    assert len(body("incident.resolved", incident)) < MAX_BODY_BYTES


def test_finding_seen_twice_counts_once(log: Log, store: IncidentStore) -> None:
    found(log, *[a_finding(0, 0.9), a_finding(1, 0.9), a_finding(2, 0.1)] * 2)
    assert worker(log, store).run_once() == 6
    assert told(log) == [(OPEN, 1), (OPEN, 2), (RESOLVED, 3)]
    assert store.counts().findings == 3


def test_worker_goes_on_where_the_database_says(log: Log, store: IncidentStore) -> None:
    found(log, a_finding(0))
    assert worker(log, store).run_once() == 1
    assert worker(log, store).run_once() == 0
    found(log, a_finding(1))
    assert worker(log, store).run_once() == 1
    assert told(log) == [(OPEN, 1), (OPEN, 2)]


def test_finding_without_a_rule_is_stored_all_the_same(log: Log, store: IncidentStore) -> None:
    found(log, a_finding(0, question="other"), a_finding(0, camera="yard"))
    worker(log, store, replace(RULE, cameras=("dock",))).run_once()
    assert store.counts().findings == 2
    assert store.incidents() == []


def test_cameras_and_rules_are_judged_apart(log: Log, store: IncidentStore) -> None:
    found(log, a_finding(0), a_finding(0, camera="yard"), a_finding(1, 0.1))
    worker(log, store, RULE, replace(RULE, name="second")).run_once()
    ended = [(incident.camera, incident.rule, incident.state) for incident in store.incidents()]
    assert sorted(ended) == [
        ("dock", "bag-left", RESOLVED),
        ("dock", "second", RESOLVED),
        ("yard", "bag-left", OPEN),
        ("yard", "second", OPEN),
    ]


def test_unreadable_finding_is_kept_apart_and_the_next_is_judged(
    log: Log, store: IncidentStore
) -> None:
    log.append(FINDINGS, "dock", b"\x00garbage")
    found(log, a_finding(0))
    with capture_logs() as said:
        assert worker(log, store).run_once() == 2
    (entry,) = log.read(DEAD, 0)
    dead = wire.decode_dead(entry.value)
    assert (dead.topic, dead.position, dead.key) == (FINDINGS, 0, "dock")
    assert dead.value == b"\x00garbage"
    assert dead.reason
    assert said[0]["event"] == "unreadable finding"
    assert told(log) == [(OPEN, 1)]
    assert store.position(READER, FINDINGS) == 2


def test_worker_that_fell_behind_says_how_many_it_missed(log: Log, store: IncidentStore) -> None:
    found(log, a_finding(0))
    worker(log, store).run_once()
    found(log, *(a_finding(n) for n in range(1, 6)))
    size = len(wire.encode_finding(a_finding(5)))
    log.trim(FINDINGS, keep_bytes=2 * size, keep_for=timedelta(days=1))
    with capture_logs() as said:
        assert worker(log, store).run_once() == 2
    assert said[0]["missed"] == 3
    assert store.position(READER, FINDINGS) == 6


def test_worker_that_another_has_overtaken_writes_nothing(log: Log, store: IncidentStore) -> None:
    found(log, a_finding(0))
    late = worker(log, store)
    (entry,) = log.read(FINDINGS, 0)
    with store.transaction() as ledger:
        ledger.advance(READER, FINDINGS, 0, 1)
    with pytest.raises(PositionMoved):
        late._handle(entry)
    assert store.counts().findings == 0
    assert told(log) == []


@pytest.mark.parametrize("for_", [timedelta(), 10 * EVERY])
def test_incident_of_a_rule_that_changed_is_ended_and_told(
    log: Log, store: IncidentStore, for_: timedelta
) -> None:
    found(log, a_finding(0))
    worker(log, store, replace(RULE, for_=for_)).run_once()
    changed = worker(log, store, replace(RULE, above=0.95))
    changed.run_once()
    changed.run_once()
    (incident,) = store.incidents()
    assert incident.state is (DISMISSED if for_ else RESOLVED)
    assert incident.closed_at == a_finding(0).end
    assert len(store.deliveries()) == (0 if for_ else 4)
    assert told(log)[-1] == (incident.state, 2)


def test_run_judges_what_comes_until_it_is_stopped(tmp_path: Path, store: IncidentStore) -> None:
    log = SqliteLog(tmp_path / "log.db")
    stop = threading.Event()
    promises: list[float] = []
    judging = AlertsWorker(log, store, (RULE,), promise=promises.append)
    thread = threading.Thread(target=judging.run, args=(stop,))
    thread.start()
    for n in range(3):
        found(log, a_finding(n))
        for _ in range(200):
            if store.position(READER, FINDINGS) == n + 1:
                break
            stop.wait(0.02)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert store.position(READER, FINDINGS) == 3
    assert promises
    log.close()
