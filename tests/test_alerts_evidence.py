"""Stills are taken when an incident begins, completed as windows come, and never twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from uuid import UUID, uuid5

import pytest
from sqlalchemy import Engine, insert

from alerts.evidence import keeper as evidence_keeper
from alerts.evidence.keeper import (
    DISMISSED,
    MAX_INCIDENTS_AT_ONCE,
    NEXT_WINDOW_TIMEOUT,
    NO_WINDOW,
    EvidenceKeeper,
    stills_digest,
)
from alerts.incidents.changes import IncidentChange, publish
from alerts.intake.window_search import find_window, first_window_after
from alerts.rules import lifecycle
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from kit.storage.fixtures import START, WINDOW_LENGTH, a_finding, a_window, an_incident
from kit.waiting import wait_for
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.rows.evidence import unsettled_query
from storage.log.log import Log
from storage.log.memory_log import MemoryLog
from storage.records import wire
from storage.records.records import EvidenceMoment, Incident, IncidentState
from storage.records.topics import FINDINGS, WINDOWS

RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5)
SLOW = replace(RULE, for_=timedelta(minutes=1))
"""Pending for a minute before it opens."""
NOW = START + 8 * WINDOW_LENGTH
BEFORE, AT, AFTER = EvidenceMoment


@dataclass
class AdjustableClock:
    """The clock of a log; a camera's may be `ahead` of it."""

    at: datetime = START
    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return self.at - self.ahead


@pytest.fixture
def clock() -> AdjustableClock:
    return AdjustableClock()


@pytest.fixture
def log(clock: AdjustableClock) -> MemoryLog:
    return MemoryLog(now=clock)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "evidence"


def filmed(log: MemoryLog, *numbers: int) -> None:
    """Put windows of two cameras on the log, when they end."""
    for number in numbers:
        assert isinstance(log._now, AdjustableClock)
        log._now.at = a_window(number).end
        for camera in ("yard", "dock"):
            log.append(WINDOWS, camera, wire.encode_window(a_window(number, camera)))


def judged(
    log: Log, store: AlertStore, number: int = 5, score: float = 0.9, rule: Rule = RULE
) -> Incident:
    """Judge a finding about a window; return the newest incident."""
    log.append(FINDINGS, "dock", wire.encode_finding(a_finding(number, score)))
    AlertsWorker(log, store, [rule], lambda _: None).run_once()
    return store.incidents()[0]


def settled(store: AlertStore, incident: Incident) -> dict[EvidenceMoment, str | None]:
    return {kept.moment: kept.missing for kept in store.evidence(incident.id)}


def notes(store: AlertStore, incident: Incident) -> list[str]:
    return [e["note"] for e in store.audit_entries(incident.id) if e["who"] == "evidence"]


def test_stills_before_at_and_after_the_beginning_are_kept(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, *range(10))
    incident = judged(log, store)
    keeper = EvidenceKeeper(log, store, folder)
    assert keeper.run_once(NOW) == 1
    for kept, number in zip(store.evidence(incident.id), (4, 5, 6), strict=True):
        taken = folder / str(incident.id) / kept.moment
        stills = [path.read_bytes() for path in sorted(taken.iterdir())]
        assert stills == [still.jpeg for still in a_window(number).stills]
        assert (kept.window_id, kept.digest) == (a_window(number).id, stills_digest(taken))
    assert keeper.run_once(NOW) == 0


def test_stills_of_a_pending_incident_are_taken(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, 4, 5, 6)
    incident = judged(log, store, rule=SLOW)
    assert incident.state is IncidentState.PENDING
    assert EvidenceKeeper(log, store, folder).run_once(NOW) == 1
    assert settled(store, incident) == {BEFORE: None, AT: None, AFTER: None}


def test_window_after_the_beginning_is_added_when_it_comes(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, 4, 5)
    incident = judged(log, store)
    keeper = EvidenceKeeper(log, store, folder)
    assert keeper.run_once(NOW) == 1
    assert settled(store, incident) == {BEFORE: None, AT: None}
    log.append(WINDOWS, "yard", wire.encode_window(a_window(6, "yard")))
    log.append(WINDOWS, "dock", b"unreadable")
    assert keeper.run_once(NOW) == 0
    filmed(log, 6, 7)
    assert keeper.run_once(NOW) == 1
    after = store.evidence(incident.id)[-1]
    assert (after.moment, after.window_id) == (AFTER, a_window(6).id)
    assert keeper.run_once(NOW) == 0
    assert [len(note.split(", ")) for note in notes(store, incident)] == [2, 1]


def test_digests_stand_on_the_trail(log: MemoryLog, store: AlertStore, folder: Path) -> None:
    filmed(log, *range(10))
    incident = judged(log, store)
    EvidenceKeeper(log, store, folder).run_once(NOW)
    (note,) = notes(store, incident)
    assert all(kept.digest in note for kept in store.evidence(incident.id) if kept.digest)
    assert store.verify_audit().problem is None


def test_window_after_the_beginning_is_waited_for_so_long(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, 4, 5)
    incident = judged(log, store)
    keeper = EvidenceKeeper(log, store, folder)
    assert keeper.run_once(NOW) == 1
    assert keeper.run_once(NOW + NEXT_WINDOW_TIMEOUT - WINDOW_LENGTH) == 0
    assert keeper.run_once(NOW + NEXT_WINDOW_TIMEOUT) == 1
    assert settled(store, incident) == {BEFORE: None, AT: None, AFTER: NO_WINDOW}
    assert keeper.run_once(NOW + NEXT_WINDOW_TIMEOUT) == 0


def test_clock_that_is_set_back_makes_no_longer_patience(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, 4, 5)
    judged(log, store)
    keeper, back = EvidenceKeeper(log, store, folder), NOW - timedelta(days=1)
    keeper.run_once(NOW)
    assert keeper.run_once(back) == 0
    assert keeper.run_once(back + NEXT_WINDOW_TIMEOUT) == 1


def test_stills_that_the_log_no_longer_keeps_are_said_to_be_missing(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, *range(6, 10))
    incident = judged(log, store)
    assert EvidenceKeeper(log, store, folder).run_once(NOW) == 1
    assert settled(store, incident) == dict.fromkeys(EvidenceMoment, NO_WINDOW)


@pytest.mark.parametrize("ahead", [timedelta(minutes=-8), timedelta(minutes=8)])
def test_camera_whose_clock_is_wrong_has_its_stills(
    log: MemoryLog, clock: AdjustableClock, store: AlertStore, folder: Path, ahead: timedelta
) -> None:
    clock.ahead = ahead
    filmed(log, *range(60))
    incident = judged(log, store)
    assert EvidenceKeeper(log, store, folder).run_once(NOW) == 1
    assert settled(store, incident) == dict.fromkeys(EvidenceMoment)


def test_first_window_of_a_camera_has_none_before_it(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, 5, 6)
    incident = judged(log, store)
    assert EvidenceKeeper(log, store, folder).run_once(NOW) == 1
    assert settled(store, incident) == {BEFORE: NO_WINDOW, AT: None, AFTER: None}


def test_incidents_that_wait_for_a_window_do_not_hold_up_others(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    many = [f"camera-{number}" for number in range(MAX_INCIDENTS_AT_ONCE + 1)]
    for camera in many:
        log.append(WINDOWS, camera, wire.encode_window(a_window(5, camera)))
        log.append(FINDINGS, camera, wire.encode_finding(a_finding(5, camera=camera)))
    AlertsWorker(log, store, [RULE], lambda _: None).run_once()
    keeper = EvidenceKeeper(log, store, folder)
    assert [keeper.run_once(NOW) for _ in range(3)] == [MAX_INCIDENTS_AT_ONCE, 1, 0]
    assert all(AT in settled(store, each) for each in store.incidents())


@pytest.mark.parametrize("is_complete", [True, False])
def test_stills_of_a_dismissed_incident_are_removed(
    log: MemoryLog, store: AlertStore, folder: Path, is_complete: bool
) -> None:
    filmed(log, 4, 5, *([6] if is_complete else []))
    keeper = EvidenceKeeper(log, store, folder)
    incident = judged(log, store, rule=SLOW)
    keeper.run_once(NOW)
    digests = {kept.moment: kept.digest for kept in store.evidence(incident.id)}
    assert (folder / str(incident.id) / AT).is_dir()
    assert judged(log, store, 6, 0.1, rule=SLOW).state is IncidentState.DISMISSED
    assert keeper.run_once(NOW) == 1
    assert list(folder.iterdir()) == []
    assert settled(store, incident) == dict.fromkeys(EvidenceMoment, DISMISSED)
    filmed(log, 6)
    assert keeper.run_once(NOW + 2 * NEXT_WINDOW_TIMEOUT) == 0
    assert list(folder.iterdir()) == []
    assert {k.moment: k.digest for k in store.evidence(incident.id) if k.digest} == digests


def test_incident_that_is_dismissed_while_its_stills_are_written_keeps_none(
    log: MemoryLog, store: AlertStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filmed(log, 4, 5)
    keeper, write = EvidenceKeeper(log, store, folder), evidence_keeper.write_stills
    incident = judged(log, store, rule=SLOW)

    def slowly(where: Path, window: object) -> None:
        write(where, window)  # type: ignore[arg-type]
        if where.name == AT:
            judged(log, store, 6, 0.1, rule=SLOW)

    with monkeypatch.context() as slow:
        slow.setattr(evidence_keeper, "write_stills", slowly)
        keeper.run_once(NOW)
    assert (folder / str(incident.id) / AT).is_dir()
    assert notes(store, incident) == []
    keeper.run_once(NOW)
    assert list(folder.iterdir()) == []
    assert settled(store, incident) == dict.fromkeys(EvidenceMoment, DISMISSED)
    assert keeper.run_once(NOW) == 0


def test_incident_that_begins_and_ends_in_one_batch_asks_for_no_stills(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    for number, score in ((5, 0.9), (6, 0.1)):
        log.append(FINDINGS, "dock", wire.encode_finding(a_finding(number, score)))
    AlertsWorker(log, store, [SLOW], lambda _: None).run_once()
    assert store.incidents()[0].state is IncidentState.DISMISSED
    assert EvidenceKeeper(log, store, folder).run_once(NOW) == 0


def test_keeper_goes_on_with_what_the_one_before_waited_for(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, 4, 5)
    incident = judged(log, store)
    EvidenceKeeper(log, store, folder).run_once(NOW)
    restarted = EvidenceKeeper(log, store, folder)
    assert restarted.run_once(NOW) == 0
    filmed(log, 6)
    assert restarted.run_once(NOW) == 1
    assert settled(store, incident) == dict.fromkeys(EvidenceMoment)


def test_restarted_keeper_gives_up_what_the_log_has_lost_meanwhile(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, 4, 5)
    incident = judged(log, store)
    EvidenceKeeper(log, store, folder).run_once(NOW)
    log.trim(WINDOWS, keep_bytes=0, keep_for=timedelta())
    restarted = EvidenceKeeper(log, store, folder)
    restarted.run_once(NOW)
    assert settled(store, incident) == {BEFORE: None, AT: None, AFTER: NO_WINDOW}
    assert restarted.run_once(NOW + NEXT_WINDOW_TIMEOUT) == 0


def test_keeper_that_died_between_files_and_database_does_it_again(
    log: MemoryLog, store: AlertStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filmed(log, *range(10))
    incident = judged(log, store)
    keeper = EvidenceKeeper(log, store, folder)
    with monkeypatch.context() as broken:
        broken.setattr(store, "transaction", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            keeper.run_once(NOW)
    assert keeper.run_once(NOW) == 1
    assert settled(store, incident) == dict.fromkeys(EvidenceMoment)


def test_keeper_that_died_while_it_wrote_files_writes_them_again(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, *range(10))
    incident = judged(log, store)
    draft = folder / str(incident.id) / ".at"
    draft.mkdir(parents=True)
    (draft / "half.jpg").write_bytes(b"\xff")
    EvidenceKeeper(log, store, folder).run_once(NOW)
    taken = [path.name for path in sorted((folder / str(incident.id)).iterdir())]
    assert taken == ["after", "at", "before"]
    at = sorted((folder / str(incident.id) / AT).iterdir())
    assert [path.read_bytes() for path in at] == [still.jpeg for still in a_window(5).stills]


def test_full_disk_is_said_and_the_others_go_on(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, *range(10))
    incident = judged(log, store)
    folder.write_text("in the way")
    EvidenceKeeper(log, store, folder).run_once(NOW)
    assert set(settled(store, incident).values()) == {"Not a directory"}


def test_resolved_incident_is_completed_and_nobody_is_notified_again(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    rule = replace(RULE, notify=("soc",))
    filmed(log, 4, 5)
    keeper = EvidenceKeeper(log, store, folder)
    judged(log, store, rule=rule)
    keeper.run_once(NOW)
    incident = judged(log, store, 6, 0.1, rule=rule)
    filmed(log, 6)
    assert keeper.run_once(NOW) == 1
    assert [notification.kind for notification in store.notifications(incident.id)] == [
        "opened",
        "resolved",
    ]
    assert settled(store, incident) == dict.fromkeys(EvidenceMoment)


@contextmanager
def running(keeper: EvidenceKeeper) -> Iterator[None]:
    stop = Event()
    thread = Thread(target=keeper.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_thread_takes_stills_soon_after_an_incident_begins(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, 4, 5)
    with running(EvidenceKeeper(log, store, folder)):
        incident = judged(log, store)
        wait_for(lambda: AT in settled(store, incident), 5)
        filmed(log, 6)
        wait_for(lambda: AFTER in settled(store, incident), 5)


def test_search_begins_shortly_before_the_finding(log: MemoryLog) -> None:
    filmed(log, *range(50))
    for number in (0, 1, 20, 48, 49):
        found = first_window_after(log, WINDOWS, "dock", a_window(number).start)
        assert found is not None
        assert (found.window, found.offset) == (a_window(number), 2 * number + 1)
    first = first_window_after(log, WINDOWS, "dock", START - WINDOW_LENGTH)
    assert first is not None
    assert first.offset == 1
    assert first_window_after(log, WINDOWS, "dock", START + 100 * WINDOW_LENGTH) is None
    assert find_window(log, a_finding(70)) is None


@pytest.mark.parametrize("count", [2000])
def test_work_is_found_through_an_index_of_its_own(engine: Engine, count: int) -> None:
    store = AlertStore(engine)
    closed = an_incident(state=IncidentState.RESOLVED)
    many = [replace(closed, id=uuid5(UUID(int=1), str(n))) for n in range(count)]
    many.append(an_incident())
    with store.transaction() as transaction:
        for first in range(0, len(many), 500):
            publish(
                transaction,
                [
                    IncidentChange(before=None, after=replace(each, rule=str(each.id)), who="rule")
                    for each in many[first : first + 500]
                ],
            )
        transaction.evidence.schedule([an_incident().id])
        rows = [
            {"incident_id": str(each.id), "moment": moment, "settled_at": NOW}
            for each in many[:count]
            for moment in EvidenceMoment
        ]
        transaction.connection.execute(insert(tables.evidence), rows)
    assert [each.id for each in store.unsettled_evidence(AT)] == [an_incident().id]
    plan = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    query = unsettled_query(AT, 20).compile(engine, compile_kwargs={"literal_binds": True})
    with engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        told = str(connection.exec_driver_sql(f"{plan} {query}").all())
    assert "evidence_unsettled" in told
    assert "SCAN incidents" not in told
    assert "Seq Scan" not in told


def test_person_who_ends_a_pending_incident_removes_its_stills(
    log: MemoryLog, store: AlertStore, folder: Path
) -> None:
    filmed(log, 4, 5)
    keeper = EvidenceKeeper(log, store, folder)
    incident = judged(log, store, rule=SLOW)
    keeper.run_once(NOW)
    with store.transaction() as transaction:
        before = transaction.incident(incident.id)
        after = lifecycle.resolve(before, "ada", NOW)
        publish(transaction, [IncidentChange(before=before, after=after, who="ada")])
    assert keeper.run_once(NOW) == 1
    assert list(folder.iterdir()) == []
