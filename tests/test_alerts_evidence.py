from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from storage_fixtures import EVERY, a_finding, a_window

from alerts import evidence
from alerts.evidence import PATIENCE, EvidenceKeeper, around, digest_of
from alerts.rules import Rule
from alerts.worker import AlertsWorker
from storage import wire
from storage.incidents import IncidentStore
from storage.log import FINDINGS, WINDOWS, Log
from storage.memory_log import MemoryLog
from storage.records import Incident, Moment

RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    # The windows of these tests are of another day than today.
    monkeypatch.setattr(evidence, "LATE", timedelta(days=100_000))
    return MemoryLog()


def opened(log: Log, store: IncidentStore, *windows: int) -> Incident:
    """Let an incident open at window 5, with these windows on the log."""
    for number in windows:
        log.append(WINDOWS, "yard", wire.encode_window(a_window(number, "yard")))
        log.append(WINDOWS, "dock", wire.encode_window(a_window(number)))
    log.append(FINDINGS, "dock", wire.encode_finding(a_finding(5)))
    AlertsWorker(log, store, [RULE], lambda _: None).run_once()
    (incident,) = store.incidents()
    return incident


def settled(store: IncidentStore, incident: Incident) -> dict[Moment, str | None]:
    return {kept.moment: kept.missing for kept in store.evidence(incident.id)}


def test_stills_before_at_and_after_the_opening_are_kept(
    log: Log, store: IncidentStore, tmp_path: Path
) -> None:
    incident = opened(log, store, *range(10))
    keeper = EvidenceKeeper(log, store, tmp_path / "evidence")
    assert keeper.run_once(incident.last_seen_at) == 1
    for kept, number in zip(store.evidence(incident.id), (4, 5, 6), strict=True):
        folder = tmp_path / "evidence" / str(incident.id) / kept.moment
        stills = [path.read_bytes() for path in sorted(folder.iterdir())]
        assert stills == [still.jpeg for still in a_window(number).stills]
        assert (kept.window_id, kept.digest) == (a_window(number).id, digest_of(folder))
    assert keeper.run_once(incident.last_seen_at) == 0


def test_digests_stand_on_the_trail(log: Log, store: IncidentStore, tmp_path: Path) -> None:
    incident = opened(log, store, *range(10))
    EvidenceKeeper(log, store, tmp_path).run_once(incident.last_seen_at)
    entry = store.trail(incident.id)[-1]
    assert entry["who"] == "evidence"
    assert all(kept.digest in entry["note"] for kept in store.evidence(incident.id) if kept.digest)
    assert store.verify().problem is None


def test_window_after_the_opening_is_waited_for_so_long(
    log: Log, store: IncidentStore, tmp_path: Path
) -> None:
    incident = opened(log, store, 4, 5)
    keeper = EvidenceKeeper(log, store, tmp_path)
    assert keeper.run_once(incident.last_seen_at) == 0
    assert store.evidence(incident.id) == []
    assert keeper.run_once(incident.last_seen_at + PATIENCE) == 1
    missing = settled(store, incident)
    assert missing == {
        Moment.BEFORE: None,
        Moment.AT: None,
        Moment.AFTER: "the log has no such window",
    }


def test_stills_that_the_log_no_longer_keeps_are_said_to_be_missing(
    log: Log, store: IncidentStore, tmp_path: Path
) -> None:
    incident = opened(log, store)
    EvidenceKeeper(log, store, tmp_path).run_once(incident.last_seen_at + PATIENCE)
    assert set(settled(store, incident).values()) == {"the log has no such window"}


def test_keeper_that_died_between_files_and_database_does_it_again(
    log: Log, store: IncidentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    incident = opened(log, store, *range(10))
    keeper = EvidenceKeeper(log, store, tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(store, "transaction", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            keeper.run_once(incident.last_seen_at)
    assert keeper.run_once(incident.last_seen_at) == 1
    assert set(settled(store, incident).values()) == {None}


def test_full_disk_is_said_and_the_others_go_on(
    log: Log, store: IncidentStore, tmp_path: Path
) -> None:
    incident = opened(log, store, *range(10))
    (tmp_path / "evidence").write_text("in the way")
    EvidenceKeeper(log, store, tmp_path / "evidence").run_once(incident.last_seen_at)
    assert set(settled(store, incident).values()) == {"Not a directory"}


def test_search_begins_shortly_before_the_finding() -> None:
    log = MemoryLog()
    for number in range(100):
        log.append(WINDOWS, "dock", wire.encode_window(a_window(number)))
    at = log.read(WINDOWS, 40, limit=1)[0].at
    assert log.read(WINDOWS, evidence.appended_from(log, WINDOWS, at), limit=1)[0].at == at
    assert evidence.appended_from(log, WINDOWS, datetime.now(UTC) + EVERY) == 100
    assert evidence.appended_from(log, WINDOWS, at - timedelta(days=1)) == 0
    late = a_finding(5)
    assert around(log, late) == {}
