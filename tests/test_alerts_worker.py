import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from alerts.intake.cursor import READER
from alerts.rules.lifecycle import acknowledge
from alerts.rules.rule import Rule
from alerts.worker import TICK, AlertsWorker
from kit.alerts.webhook_receiver import ManualClock
from kit.storage.fixtures import WINDOW_LENGTH, a_finding
from storage.db.alert_store import AlertStore, StoredOffset
from storage.errors import OffsetMoved
from storage.log.log import Log
from storage.log.memory_log import MemoryLog
from storage.log.sqlite.log import SqliteLog
from storage.records import wire
from storage.records.claims import Claim, encode_claim
from storage.records.notifications import NotificationState
from storage.records.records import CoverageState, Finding, IncidentRevision, IncidentState
from storage.records.topics import COVERAGE, DEAD_LETTERS, FINDINGS, INCIDENTS

RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5, notify=("soc", "guard"))
PENDING, OPEN = IncidentState.PENDING, IncidentState.OPEN
RESOLVED, DISMISSED = IncidentState.RESOLVED, IncidentState.DISMISSED


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    opened: Log = MemoryLog() if request.param == "memory" else SqliteLog(tmp_path / "log.db")
    yield opened
    opened.close()


def worker(log: Log, store: AlertStore, *rules: Rule) -> AlertsWorker:
    return AlertsWorker(log, store, rules or (RULE,), keepalive=lambda seconds: None)


def found(log: Log, *findings: Finding) -> None:
    for finding in findings:
        log.append(FINDINGS, finding.camera, wire.encode_finding(finding))


def published_states(log: Log) -> list[tuple[IncidentState, int]]:
    incidents = [wire.decode_incident(entry.value) for entry in log.read(INCIDENTS, 0)]
    return [(incident.state, incident.revision) for incident in incidents]


def errors(log_lines: list[EventDict]) -> list[EventDict]:
    return [each for each in log_lines if each["log_level"] == "error"]


def noticed(store: AlertStore) -> list[tuple[int, str]]:
    notifications = [
        notification for each in store.incidents() for notification in store.notifications(each.id)
    ]
    return sorted(
        (notification.revision, notification.kind.value) for notification in notifications
    )


def test_one_ends_and_the_next_begins_in_one_batch(log: Log, store: AlertStore) -> None:
    judge = worker(log, store)
    found(log, a_finding(0, 0.9))
    judge.run_once()
    found(log, a_finding(1, 0.1), a_finding(2, 0.9))
    assert judge.run_once() == 2
    assert [incident.state for incident in store.incidents()] == [OPEN, RESOLVED]


def test_finding_above_the_threshold_opens_an_incident(log: Log, store: AlertStore) -> None:
    found(log, a_finding(0, 0.2), a_finding(1, 0.9))
    assert worker(log, store).run_once() == 2
    (incident,) = store.incidents()
    assert (incident.state, incident.evidence) == (OPEN, (a_finding(1).id,))
    assert store.findings(incident.evidence) == [a_finding(1, 0.9)]
    notifications = store.notifications(incident.id)
    assert [notification.receiver for notification in notifications] == ["guard", "soc"]
    assert {notification.state for notification in notifications} == {NotificationState.WAITING}
    assert published_states(log) == [(OPEN, 1)]
    assert store.committed_offset(READER, FINDINGS) == 2


def test_findings_behind_an_incident_are_sealed_on_its_trail(log: Log, store: AlertStore) -> None:
    found(log, *(a_finding(n, 0.9) for n in range(3)), a_finding(3, 0.1))
    judge = worker(log, store)
    judge.run_once()
    found(log, a_finding(4, 0.9))
    judge.run_once()
    behind = [id for incident in store.incidents() for id in incident.evidence]
    sealed = [
        id
        for incident in store.incidents()
        for entry in store.audit_entries(incident.id)
        for id in entry.get("findings", {})
    ]
    assert sorted(sealed) == sorted(behind) == sorted(a_finding(n).id for n in (0, 1, 2, 4))


def test_quiet_camera_closes_incident(log: Log, store: AlertStore) -> None:
    found(log, a_finding(0, 0.9), a_finding(1, 0.9), a_finding(2, 0.1))
    worker(log, store).run_once()
    assert [incident.state for incident in store.incidents()] == [RESOLVED]
    assert published_states(log) == [(OPEN, 1), (OPEN, 2), (RESOLVED, 3)]
    assert noticed(store) == [(1, "opened"), (1, "opened"), (3, "resolved"), (3, "resolved")]


def test_pending_and_dismissed_are_told_to_nobody(log: Log, store: AlertStore) -> None:
    found(log, a_finding(0, 0.9), a_finding(1, 0.1))
    worker(log, store, replace(RULE, for_=10 * WINDOW_LENGTH)).run_once()
    assert published_states(log) == [(PENDING, 1), (DISMISSED, 2)]
    assert noticed(store) == []


def test_pending_that_opens_is_told_once(log: Log, store: AlertStore) -> None:
    found(log, *(a_finding(n, 0.9) for n in range(4)))
    worker(log, store, replace(RULE, for_=2 * WINDOW_LENGTH, notify=("soc",))).run_once()
    assert noticed(store) == [(3, "opened")]


def test_finding_seen_twice_counts_once(log: Log, store: AlertStore) -> None:
    found(log, *[a_finding(0, 0.9), a_finding(1, 0.9), a_finding(2, 0.1)] * 2)
    assert worker(log, store).run_once() == 6
    assert published_states(log) == [(OPEN, 1), (OPEN, 2), (RESOLVED, 3)]
    assert store.counts().findings == 3


def test_worker_goes_on_where_the_database_says(log: Log, store: AlertStore) -> None:
    found(log, a_finding(0))
    assert worker(log, store).run_once() == 1
    assert worker(log, store).run_once() == 0
    found(log, a_finding(1))
    assert worker(log, store).run_once() == 1
    assert published_states(log) == [(OPEN, 1), (OPEN, 2)]


def test_finding_without_a_rule_is_stored_all_the_same(log: Log, store: AlertStore) -> None:
    found(log, a_finding(0, question="other"), a_finding(0, camera="yard"))
    worker(log, store, replace(RULE, cameras=("dock",))).run_once()
    assert store.counts().findings == 2
    assert store.incidents() == []


def test_cameras_and_rules_are_judged_apart(log: Log, store: AlertStore) -> None:
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
    log: Log, store: AlertStore
) -> None:
    log.append(FINDINGS, "dock", b"\x00garbage")
    found(log, a_finding(0))
    with capture_logs() as log_lines:
        assert worker(log, store).run_once() == 2
    (entry,) = log.read(DEAD_LETTERS, 0)
    dead = wire.decode_dead_letter(entry.value)
    assert (dead.topic, dead.offset, dead.key) == (FINDINGS, 0, "dock")
    assert dead.value == b"\x00garbage"
    assert dead.reason
    assert "finding set aside" in [each["event"] for each in log_lines]
    assert published_states(log) == [(OPEN, 1)]
    assert store.committed_offset(READER, FINDINGS) == 2


def test_worker_that_fell_behind_says_how_many_it_missed(log: Log, store: AlertStore) -> None:
    found(log, a_finding(0))
    worker(log, store).run_once()
    found(log, *(a_finding(n) for n in range(1, 6)))
    size = len(wire.encode_finding(a_finding(5)))
    log.trim(FINDINGS, keep_bytes=2 * size, keep_for=timedelta(days=1))
    with capture_logs() as log_lines:
        assert worker(log, store).run_once() == 2
    assert log_lines[0]["missed"] == 3
    assert store.committed_offset(READER, FINDINGS) == 6


def test_log_that_lost_what_it_had_is_read_again(log: Log, store: AlertStore) -> None:
    found(log, *(a_finding(n, 0.9) for n in range(3)))
    worker(log, store).run_once()
    with store.transaction() as transaction:  # as if it had held five, and lost two
        transaction.advance_offset(READER, FINDINGS, 3, 5)
    found(log, a_finding(3, 0.1))
    with capture_logs() as log_lines:
        assert worker(log, store).run_once() == 4
    assert "ends at 4, before 5" in log_lines[0]["event"]
    assert (log_lines[0]["again_from"], store.committed_offset(READER, FINDINGS)) == (0, 4)
    assert store.counts().findings == 4
    (incident,) = store.incidents()
    assert incident.state is RESOLVED


@pytest.mark.parametrize("length", [2, 6])
def test_log_replaced_by_another_is_read_from_its_start(
    log: Log, store: AlertStore, tmp_path: Path, length: int
) -> None:
    found(log, *(a_finding(n, 0.9) for n in range(3)))
    worker(log, store).run_once()
    replaced = SqliteLog(tmp_path / "new.db") if isinstance(log, SqliteLog) else MemoryLog()
    found(replaced, *(a_finding(n, 0.1) for n in range(3, 3 + length)))
    with capture_logs() as log_lines:
        assert worker(replaced, store).run_once() == length
        assert worker(replaced, store).run_once() == 0
    replaced.close()
    (error,) = errors(log_lines)
    assert (error["event"][:20], error["parts"]) == ("the log was replaced", 1)
    assert (store.counts().findings, store.committed_offset(READER, FINDINGS)) == (
        3 + length,
        length,
    )
    (incident,) = store.incidents()
    assert incident.state is RESOLVED


def test_replaced_log_is_read_from_the_oldest_that_it_keeps(store: AlertStore) -> None:
    log, replaced = MemoryLog(), MemoryLog()
    found(log, *(a_finding(n) for n in range(3)))
    worker(log, store).run_once()
    found(replaced, *(a_finding(n) for n in range(9)))
    size = len(wire.encode_finding(a_finding(8)))
    replaced.trim(FINDINGS, keep_bytes=5 * size, keep_for=timedelta(days=1))
    with capture_logs() as log_lines:
        assert worker(replaced, store).run_once() == 5
    assert len(errors(log_lines)) == 1  # nothing else was missed
    assert store.committed_offset(READER, FINDINGS) == 9


def test_log_of_many_parts_that_was_replaced_is_told_once(store: AlertStore) -> None:
    for log in (MemoryLog(partitions=4), MemoryLog(partitions=4)):
        for n, camera in enumerate(f"c{n}" for n in range(12)):
            found(log, a_finding(n, camera=camera))
            state, end = CoverageState.ANALYSED, a_finding(n).end
            claim = Claim(camera=camera, start=None, end=end, state=state)
            log.append(COVERAGE, camera, encode_claim(claim))
        with capture_logs() as log_lines:
            assert worker(log, store).run_once() == 24
    (error,) = errors(log_lines)
    assert error["parts"] == 8


def test_position_of_an_older_longwatch_takes_the_log_that_is_there(
    log: Log, store: AlertStore
) -> None:
    found(log, a_finding(0), a_finding(1))
    with store.transaction() as transaction:
        transaction.advance_offset(READER, FINDINGS, 0, 1)
    with capture_logs() as log_lines:
        assert worker(log, store).run_once() == 1
    assert errors(log_lines) == []
    assert store.stored_offsets(READER)[FINDINGS] == StoredOffset(
        offset=2, log_identity=log.identity(FINDINGS)
    )


def test_worker_that_another_has_overtaken_writes_nothing(log: Log, store: AlertStore) -> None:
    found(log, a_finding(0))
    late = worker(log, store)
    page = log.read(FINDINGS, 0)
    with store.transaction() as transaction:
        transaction.advance_offset(READER, FINDINGS, 0, 1)
    with pytest.raises(OffsetMoved):
        late._handle([page])
    assert store.counts().findings == 0
    assert published_states(log) == []


@pytest.mark.parametrize("for_", [timedelta(), 10 * WINDOW_LENGTH])
def test_incident_of_a_rule_that_changed_is_ended_and_told(
    log: Log, store: AlertStore, for_: timedelta
) -> None:
    found(log, a_finding(0))
    worker(log, store, replace(RULE, for_=for_)).run_once()
    changed = worker(log, store, replace(RULE, above=0.95))
    changed.run_once()
    changed.run_once()
    (incident,) = store.incidents()
    assert incident.state is (DISMISSED if for_ else RESOLVED)
    assert incident.closed_at == a_finding(0).end
    assert len(noticed(store)) == (0 if for_ else 4)
    assert published_states(log)[-1] == (incident.state, 2)


def test_run_judges_what_comes_until_it_is_stopped(tmp_path: Path, store: AlertStore) -> None:
    log = SqliteLog(tmp_path / "log.db")
    stop = threading.Event()
    promises: list[float] = []
    judging = AlertsWorker(log, store, (RULE,), keepalive=promises.append)
    thread = threading.Thread(target=judging.run, args=(stop,))
    thread.start()
    for n in range(3):
        found(log, a_finding(n))
        for _ in range(200):
            if store.committed_offset(READER, FINDINGS) == n + 1:
                break
            stop.wait(0.02)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert store.committed_offset(READER, FINDINGS) == 3
    assert promises
    log.close()


class JudgeClock:
    """A judge that has read all findings at the end of the first, and sweeps after ten minutes."""

    def __init__(self, log: Log, store: AlertStore, rule: Rule) -> None:
        self._clock = ManualClock(a_finding(0).end)
        after = timedelta(minutes=10)
        self._judge = AlertsWorker(
            log, store, [rule], lambda _: None, sweep_after=after, clock=self._clock
        )
        self._judge.run_once()

    def at(self, now: datetime) -> int:
        """Tick at an instant."""
        self._clock.now = now
        return self._judge.tick(now)


def test_incident_of_a_dark_camera_is_closed_by_the_clock_and_says_so(
    log: Log, store: AlertStore
) -> None:
    found(log, a_finding(0))
    judge = JudgeClock(log, store, RULE)
    seen = a_finding(0).end
    late = seen + timedelta(minutes=10) + RULE.incident_timeout
    assert judge.at(late) == 0
    assert judge.at(late + TICK) == 1
    (incident,) = store.incidents()
    assert (incident.state, incident.closed_because) == (RESOLVED, "swept")
    assert (incident.last_seen_at, incident.closed_at) == (seen, late + TICK)
    assert [entry["who"] for entry in store.audit_entries(incident.id)] == ["rule", "clock"]
    assert published_states(log) == [(OPEN, 1), (RESOLVED, 2)]
    assert noticed(store) == [(1, "opened"), (1, "opened"), (2, "resolved"), (2, "resolved")]


def test_absence_is_noticed_though_the_camera_is_silent(log: Log, store: AlertStore) -> None:
    gap = timedelta(minutes=40)
    rule = replace(RULE, without="pickup", within=gap)
    found(log, a_finding(0))
    judge = JudgeClock(log, store, rule)
    first = a_finding(0).end
    assert judge.at(first + gap + timedelta(minutes=9)) == 0
    assert judge.at(first + gap + timedelta(minutes=11)) == 1
    (incident,) = store.incidents()
    assert (incident.state, incident.opened_at) == (OPEN, first + gap)


def test_incident_that_somebody_changes_meanwhile_is_swept_as_it_stands(
    log: Log, store: AlertStore
) -> None:
    found(log, a_finding(0))
    judge = JudgeClock(log, store, RULE)
    (incident,) = store.incidents()
    with store.transaction() as transaction:
        taken = acknowledge(incident, "ada", incident.last_seen_at)
        transaction.save_revisions([IncidentRevision(incident=taken, who="ada")])
    assert judge.at(incident.last_seen_at + timedelta(days=1)) == 1
    (incident,) = store.incidents()
    assert (incident.state, incident.acknowledged_by) == (RESOLVED, "ada")
    assert store.verify_audit().problem is None
