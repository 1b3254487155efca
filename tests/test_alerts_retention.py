"""What is forgotten after a while, and what never is."""

from datetime import timedelta
from pathlib import Path

import pytest
from storage_fixtures import START, a_finding

from alerts import retention
from alerts.evidence import EvidenceKeeper
from alerts.retention import Retention
from alerts.rules import Rule
from alerts.worker import AlertsWorker
from storage.incidents import IncidentStore
from storage.log import FINDINGS
from storage.memory_log import MemoryLog
from storage.records import Finding, IncidentState, Kept, Moment
from storage.wire import encode_finding

RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5)
DAY = timedelta(days=1)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


def judged(log: MemoryLog, store: IncidentStore, *findings: Finding) -> None:
    for finding in findings:
        log.append(FINDINGS, finding.camera, encode_finding(finding))
    AlertsWorker(log, store, [RULE], lambda _: None).run_once()


def keeping(store: IncidentStore, folder: Path) -> Retention:
    return Retention(MemoryLog(), store, folder, stills=30 * DAY, findings=30 * DAY)


def test_findings_are_forgotten_but_not_those_behind_an_incident(
    log: MemoryLog, store: IncidentStore, tmp_path: Path
) -> None:
    quiet, alarm, end = a_finding(0, 0.1), a_finding(1, 0.9), a_finding(2, 0.1)
    judged(log, store, quiet, alarm, end)
    keeper = keeping(store, tmp_path)
    assert keeper.run_once(quiet.end + 30 * DAY) == 0
    assert keeper.run_once(end.end + 31 * DAY) == 2
    assert store.findings([each.id for each in (quiet, alarm, end)]) == [alarm]
    (incident,) = store.incidents()
    assert incident.evidence == (alarm.id,)


def test_findings_go_a_few_at_a_time_the_oldest_first(
    log: MemoryLog, store: IncidentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FINDINGS_AT_ONCE", 2)
    findings = [a_finding(number, 0.1) for number in (2, 0, 3, 1)]
    judged(log, store, *findings)
    assert keeping(store, tmp_path).run_once(START + 99 * DAY) == 2
    left = {each.id for each in store.findings([each.id for each in findings])}
    assert left == {a_finding(2).id, a_finding(3).id}


def test_stills_of_closed_incidents_are_forgotten_and_the_trail_says_so(
    log: MemoryLog, store: IncidentStore, tmp_path: Path
) -> None:
    judged(log, store, a_finding(0, 0.9))
    (incident,) = store.incidents()
    stills = tmp_path / str(incident.id) / Moment.AT
    stills.mkdir(parents=True)
    (stills / "1.jpg").write_bytes(b"jpeg")
    with store.transaction() as ledger:
        kept = Kept(moment=Moment.AT, window_id="w", digest="d" * 64)
        assert ledger.evidence.settle(incident.id, [kept], incident.last_seen_at)
    keeper, late = keeping(store, tmp_path), incident.last_seen_at + 365 * DAY
    assert keeper.run_once(late) == 0, "it is open still"
    judged(log, store, a_finding(1, 0.1))
    assert keeper.run_once(late) == 2  # with the finding that ended it
    assert not stills.exists()
    (kept,) = (each for each in store.evidence(incident.id) if each.moment is Moment.AT)
    assert (kept.digest, kept.missing) == ("d" * 64, "forgotten after 30 days")
    (after,) = store.incidents()
    assert after.state is IncidentState.RESOLVED
    assert store.trail(incident.id)[-1]["who"] == "retention"
    assert keeper.run_once(late) == 0
    assert EvidenceKeeper(log, store, tmp_path).run_once(late) == 0
