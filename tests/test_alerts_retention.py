"""What is deleted after a while, and what never is."""

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from uuid import UUID

import pytest
from sqlalchemy import Engine, event, func, insert, literal, select

from alerts.dispatch.muting import Matcher
from alerts.evidence import retention
from alerts.evidence.keeper import NEXT_WINDOW_TIMEOUT, EvidenceKeeper
from alerts.evidence.retention import RetentionJob, RetentionPeriods
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from kit.alerts.routing import AT_ONCE, dispatch_all
from kit.alerts.webhook_receiver import publish_all
from kit.storage.fixtures import START, WINDOW_LENGTH, a_finding, a_window
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.audit.actions import ActionOrigin
from storage.db.copying import copy_database
from storage.db.database import open_database
from storage.db.outbox import Outbox
from storage.db.silences import SilenceRow, SilenceStore
from storage.log.memory_log import MemoryLog
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.notifications import DIGEST
from storage.records.records import EvidenceMoment, EvidenceStill, Finding, Incident, IncidentState
from storage.records.topics import FINDINGS, INCIDENTS, WINDOWS
from storage.records.wire import encode_finding, encode_window

RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5, notify=("soc",))
BRIEF = replace(RULE, name="bag-seen", question="brief", for_=timedelta(hours=1), notify=())
RULES = (RULE, BRIEF)
DAY = timedelta(days=1)
KEEP = RetentionPeriods(
    incidents=400 * DAY, deliveries=90 * DAY, dismissed=7 * DAY, findings=90 * DAY, stills=90 * DAY
)
MONTH = KEEP.model_copy(update={"stills": 30 * DAY, "findings": 30 * DAY})


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(now=lambda: START + WINDOW_LENGTH)


def judged(log: MemoryLog, store: AlertStore, *findings: Finding) -> None:
    for finding in findings:
        log.append(FINDINGS, finding.camera, encode_finding(finding))
    AlertsWorker(log, store, RULES, lambda _: None, policy=AT_ONCE).run_once()


def keeping(
    store: AlertStore,
    folder: Path,
    keep: RetentionPeriods = KEEP,
    clock: Callable[[], float] = lambda: 0.0,
) -> RetentionJob:
    return RetentionJob(store, folder, keep, Event(), clock=clock)


def delivered(store: AlertStore, now: datetime, receiver: str = "soc") -> list[Delivery]:
    """Let the router look, and write that all that waits arrived."""
    dispatch_all(store, now)
    found = list[Delivery]()
    while (each := store.next_delivery(receiver, now)) is not None:
        done = replace(each, state=DeliveryState.DELIVERED, attempts=1, tried_at=now)
        store.record_outcome(done)
        found.append(done)
    return found


def over(
    log: MemoryLog, store: AlertStore, folder: Path, number: int = 0, camera: str = "dock"
) -> Incident:
    """Let an incident open, be notified, get its stills, and be resolved and notified again."""
    for each in range(number, number + 3):
        log.append(WINDOWS, camera, encode_window(a_window(each, camera)))
    judged(log, store, a_finding(number, 0.9, camera))
    keeper, now = EvidenceKeeper(log, store, folder), START + (number + 1) * WINDOW_LENGTH
    keeper.run_once(now)
    delivered(store, now)
    judged(log, store, a_finding(number + 1, 0.1, camera))
    delivered(store, now + WINDOW_LENGTH)
    keeper.run_once(now + NEXT_WINDOW_TIMEOUT)
    (incident,) = (each for each in store.incidents() if each.first_seen_at == now)
    assert incident.state is IncidentState.RESOLVED
    return incident


def flicker(log: MemoryLog, store: AlertStore, number: int) -> None:
    """Let an incident begin and be dismissed."""
    judged(log, store, a_finding(number, 0.9, question="brief"))
    judged(log, store, a_finding(number + 1, 0.1, question="brief"))


class StopRecorder(Event):
    """An event that says how long it was waited for, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        return self.is_set()


def counted(engine: Engine) -> dict[str, int]:
    """Count the rows of all tables that retention looks after."""
    with engine.connect() as connection:
        return {
            each.name: connection.execute(select(func.count()).select_from(each)).scalar_one()
            for each in (
                tables.incidents,
                tables.audit,
                tables.evidence,
                tables.notices,
                tables.delivery_incidents,
                tables.deliveries,
                tables.groups,
                tables.findings,
                tables.silences,
            )
        }


def test_findings_are_deleted_but_not_those_behind_an_incident(
    log: MemoryLog, store: AlertStore, tmp_path: Path
) -> None:
    quiet, alarm, end = a_finding(0, 0.1), a_finding(1, 0.9), a_finding(2, 0.1)
    judged(log, store, quiet, alarm, end)
    keeper = keeping(store, tmp_path, MONTH)
    assert keeper.run_once(quiet.end + 30 * DAY) == 0
    assert keeper.run_once(end.end + 31 * DAY) == 2
    assert store.findings([each.id for each in (quiet, alarm, end)]) == [alarm]
    (incident,) = store.incidents()
    assert incident.evidence == (alarm.id,)


def test_finding_behind_several_incidents_stays_until_the_last_is_deleted(
    log: MemoryLog, store: AlertStore, tmp_path: Path
) -> None:
    alarm, end = a_finding(0, 0.9), a_finding(1, 0.1)
    for each in (alarm, end):
        log.append(FINDINGS, each.camera, encode_finding(each))
    rules = [replace(RULE, notify=()), replace(BRIEF, question=RULE.question)]
    AlertsWorker(log, store, rules, lambda _: None, policy=AT_ONCE).run_once()
    EvidenceKeeper(log, store, tmp_path).run_once(START)
    assert {each.state for each in store.incidents()} == {"resolved", "dismissed"}
    assert all(each.evidence == (alarm.id,) for each in store.incidents())
    keeper = keeping(store, tmp_path)
    keeper.run_once(end.end + 399 * DAY)
    assert [each.rule for each in store.incidents()] == [RULE.name]
    assert store.findings([alarm.id]) == [alarm]
    keeper.run_once(end.end + 401 * DAY)
    assert store.incidents() == []
    assert store.findings([alarm.id]) == []


def test_finding_behind_an_incident_that_stays_open_stays(
    log: MemoryLog, store: AlertStore, tmp_path: Path
) -> None:
    alarm = a_finding(0, 0.9)
    judged(log, store, alarm)
    keeping(store, tmp_path, MONTH).run_once(START + 999 * DAY)
    assert store.findings([alarm.id]) == [alarm]
    (incident,) = store.incidents()
    assert incident.is_live


def test_findings_go_a_few_at_a_time_the_oldest_first(
    log: MemoryLog, store: AlertStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FINDINGS_AT_ONCE", 2)
    findings = [a_finding(number, 0.1) for number in (2, 0, 3, 1, 4)]
    judged(log, store, *findings)
    pauses = StopRecorder()
    keeper = RetentionJob(store, tmp_path, KEEP, pauses, clock=lambda: 30.0 * len(pauses.waits))
    assert keeper.run_once(START + 99 * DAY) == 4, "then the time for it is over"
    left = {each.id for each in store.findings([each.id for each in findings])}
    assert left == {a_finding(4).id}
    assert keeping(store, tmp_path).run_once(START + 99 * DAY) == 1


def test_stills_of_closed_incidents_are_deleted_and_the_trail_says_so(
    log: MemoryLog, store: AlertStore, tmp_path: Path
) -> None:
    judged(log, store, a_finding(0, 0.9))
    (incident,) = store.incidents()
    stills = tmp_path / str(incident.id) / EvidenceMoment.AT
    stills.mkdir(parents=True)
    (stills / "1.jpg").write_bytes(b"jpeg")
    with store.transaction() as transaction:
        kept = EvidenceStill(moment=EvidenceMoment.AT, window_id="w", digest="d" * 64)
        assert transaction.evidence.record_stills(incident.id, [kept], incident.last_seen_at)
    keeper, late = keeping(store, tmp_path, MONTH), incident.last_seen_at + 365 * DAY
    assert keeper.run_once(late) == 0, "it is open still"
    judged(log, store, a_finding(1, 0.1))
    assert keeper.run_once(late) == 2  # with the finding that ended it
    assert not stills.exists()
    (kept,) = (each for each in store.evidence(incident.id) if each.moment is EvidenceMoment.AT)
    assert (kept.digest, kept.missing) == ("d" * 64, "forgotten after 30 days")
    (after,) = store.incidents()
    assert after.state is IncidentState.RESOLVED
    assert store.audit_entries(incident.id)[-1]["who"] == "retention"
    assert keeper.run_once(late) == 0
    assert EvidenceKeeper(log, store, tmp_path).run_once(late) == 0


def test_resolved_incident_is_deleted_with_all_that_is_about_it(
    log: MemoryLog, store: AlertStore, engine: Engine, tmp_path: Path
) -> None:
    first = over(log, store, tmp_path)
    later = over(log, store, tmp_path, 2, "yard")
    assert (tmp_path / str(first.id) / EvidenceMoment.AT).is_dir()
    before, end = counted(engine), publish_all(log, store).end_offset(INCIDENTS)
    assert first.closed_at is not None
    keep = KEEP.model_copy(update={"stills": 400 * DAY, "deliveries": 400 * DAY})
    keeper = keeping(store, tmp_path, keep)
    keeper.run_once(first.closed_at + 400 * DAY)
    assert counted(engine)["incidents"] == 2
    keeper.run_once(first.closed_at + 400 * DAY + WINDOW_LENGTH / 2)
    assert [each.id for each in store.incidents()] == [later.id]
    assert not (tmp_path / str(first.id)).exists()
    assert (tmp_path / str(later.id)).is_dir()
    halved = {name: rows // 2 for name, rows in before.items()}
    assert counted(engine) | {"findings": 0} == halved | {"findings": 0}
    assert store.verify_audit().problem is None
    assert store.audit_entries(first.id) == []
    assert len(store.audit_entries(later.id)) == later.revision
    assert publish_all(log, store).end_offset(INCIDENTS) == end
    keeper.run_once(first.closed_at + 500 * DAY)
    left = {name for name, rows in counted(engine).items() if rows}
    assert left <= {"audit"}
    assert not any(path.is_dir() for path in tmp_path.iterdir())
    assert store.verify_audit().problem is None


def test_dismissed_incident_is_deleted_after_days(
    log: MemoryLog, store: AlertStore, tmp_path: Path
) -> None:
    flicker(log, store, 0)
    (incident,) = store.incidents()
    assert incident.state is IncidentState.DISMISSED
    late = START + 8 * DAY
    keeper = keeping(store, tmp_path)
    assert keeper.run_once(late) == 0, "its stills are still to be removed"
    EvidenceKeeper(log, store, tmp_path).run_once(START)
    assert keeper.run_once(START + 7 * DAY) == 0
    assert keeper.run_once(late) == 1
    assert store.incidents() == []
    assert store.verify_audit().problem is None


def test_live_incident_is_never_deleted(log: MemoryLog, store: AlertStore, tmp_path: Path) -> None:
    judged(log, store, a_finding(0, 0.9))
    judged(log, store, a_finding(0, 0.9, "yard", "brief"))
    delivered(store, START)
    keeping(store, tmp_path).run_once(START + 9999 * DAY)
    assert {each.state for each in store.incidents()} == {"open", "pending"}


def test_incident_stays_while_a_receiver_is_still_to_be_notified(
    log: MemoryLog, store: AlertStore, tmp_path: Path
) -> None:
    judged(log, store, a_finding(0, 0.9), a_finding(1, 0.1))
    EvidenceKeeper(log, store, tmp_path).run_once(START)
    late, keeper = START + 999 * DAY, keeping(store, tmp_path)
    keeper.run_once(late)
    assert len(store.incidents()) == 1, "a notice waits"
    dispatch_all(store, START)
    keeper.run_once(late)
    assert len(store.incidents()) == 1, "a delivery waits"
    delivered(store, START)
    keeper.run_once(late)
    assert store.incidents() == []


def test_incident_stays_while_its_files_cannot_be_removed(
    log: MemoryLog, store: AlertStore, tmp_path: Path
) -> None:
    incident = over(log, store, tmp_path)
    shutil.rmtree(tmp_path / str(incident.id))
    (tmp_path / str(incident.id)).write_bytes(b"no folder")
    keeping(store, tmp_path).run_once(START + 999 * DAY)
    assert [each.id for each in store.incidents()] == [incident.id]


def test_ended_delivery_is_deleted_with_its_body_and_its_notice_stays(
    log: MemoryLog, store: AlertStore, engine: Engine, tmp_path: Path
) -> None:
    incident = over(log, store, tmp_path)
    sent = store.deliveries(incident.id)
    assert len(sent) == 2
    judged(log, store, a_finding(4, 0.9))
    dispatch_all(store, START)
    keeper = keeping(store, tmp_path)
    keeper.run_once(START + 90 * DAY)
    assert len(store.deliveries()) == 3
    keeper.run_once(START + 91 * DAY)
    (waiting,) = store.deliveries()
    assert waiting.state is DeliveryState.WAITING
    assert store.deliveries(incident.id) == []
    assert all(store.delivery_body(each) is None for each in sent)
    notifications = store.notifications(incident.id)
    assert [(each.kind, each.state, each.delivery_id) for each in notifications] == [
        ("opened", "told", None),
        ("resolved", "told", None),
    ]
    assert counted(engine)["delivery_incidents"] == 1
    assert Outbox(store).incidents_by_delivery([waiting.id]).keys() == {waiting.id}


@pytest.mark.parametrize("state", [each for each in DeliveryState if each != "waiting"])
def test_delivery_that_ended_in_any_way_is_deleted(
    log: MemoryLog, store: AlertStore, tmp_path: Path, state: DeliveryState
) -> None:
    judged(log, store, a_finding(0, 0.9))
    dispatch_all(store, START)
    (waiting,) = store.deliveries()
    store.record_outcome(replace(waiting, state=state, attempts=1, tried_at=START + DAY))
    keeper = keeping(store, tmp_path)
    keeper.run_once(START + 91 * DAY)
    assert len(store.deliveries()) == 1, "tried a day later"
    keeper.run_once(START + 92 * DAY)
    assert store.deliveries() == []


def serials(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        query = select(tables.deliveries.c.serial).order_by(tables.deliveries.c.serial)
        return list(connection.execute(query).scalars())


def test_serial_of_a_deleted_delivery_is_not_used_again(
    log: MemoryLog, store: AlertStore, engine: Engine, tmp_path: Path
) -> None:
    incident = over(log, store, tmp_path)
    over(log, store, tmp_path, 2)
    used, ids = serials(engine), {each.id for each in store.deliveries()}
    assert used == [1, 2, 3, 4]
    keeper = keeping(store, tmp_path)
    keeper.run_once(START + 91 * DAY)
    assert serials(engine) == []
    over(log, store, tmp_path, 9)
    assert serials(engine) == [5, 6]
    assert not ids & {each.id for each in store.deliveries()}
    numbers = [each.number for each in store.deliveries()]
    assert numbers == [5, 6], "the group goes on counting while an incident is in it"
    keeper.run_once(START + 91 * DAY)
    over(log, store, tmp_path, 12)
    assert serials(engine) == [7, 8]
    assert incident.id in {each.id for each in store.incidents()}


def test_group_that_nothing_refers_to_is_deleted_and_may_come_again(
    log: MemoryLog, store: AlertStore, engine: Engine, tmp_path: Path
) -> None:
    over(log, store, tmp_path)
    with store.transaction() as transaction:
        digest = transaction.notifications.ensure_digest_group("soc")
        busy = transaction.notifications.ensure_group("soc", {"camera": "gate"})
        group = transaction.notifications.group(busy)
        transaction.notifications.save_group(replace(group, due_at=START))
    assert counted(engine)["groups"] == 3
    keeper = keeping(store, tmp_path)
    assert keeper.run_once(START) == 1
    with store.transaction() as transaction:
        assert (
            DIGEST
            in transaction.notifications.group(
                transaction.notifications.ensure_digest_group("soc")
            ).labels
        )
        assert transaction.notifications.ensure_digest_group("soc") == digest
    keeper.run_once(START + 999 * DAY)
    assert counted(engine)["groups"] == 1, "that which is due"
    over(log, store, tmp_path, 5)
    assert [each.number for each in store.deliveries()] == [1, 2]


def test_groups_are_looked_at_in_turn(
    store: AlertStore, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "GROUPS_AT_ONCE", 2)
    with store.transaction() as transaction:
        for number in range(5):
            id = transaction.notifications.ensure_group("soc", {"camera": f"c{number}"})
            transaction.notifications.save_group(
                replace(transaction.notifications.group(id), due_at=START)
            )
    with engine.begin() as connection:
        last = select(func.max(tables.groups.c.id)).scalar_subquery()
        connection.execute(
            tables.groups.update().where(tables.groups.c.id == last).values(due_at=None)
        )
    keeper = keeping(store, tmp_path)
    assert [keeper.run_once(START) for _ in range(4)] == [0, 0, 1, 0]


def test_silence_that_ended_long_ago_is_deleted(
    store: AlertStore, engine: Engine, tmp_path: Path
) -> None:
    silences = SilenceStore(store)
    for number in range(2):
        silences.add(
            SilenceRow(
                id=UUID(int=number),
                matchers=(str(Matcher.parse("camera=dock")),),
                start=START,
                end=START + (number + 1) * DAY,
                who="ada",
                comment="",
            ),
            ActionOrigin.CLI,
        )
    keeper = keeping(store, tmp_path)
    assert keeper.run_once(START + 401 * DAY) == 0
    assert keeper.run_once(START + 401.5 * DAY) == 1
    assert [each.id for each in silences.all()] == [UUID(int=1)]


def test_others_get_the_lock_between_two_transactions(
    log: MemoryLog, store: AlertStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FINDINGS_AT_ONCE", 2)
    judged(log, store, *[a_finding(number, 0.1) for number in range(6)])
    seconds, stop = iter(float(each) for each in range(1000)), StopRecorder()
    keeper = RetentionJob(store, tmp_path, KEEP, stop, clock=lambda: next(seconds))
    assert keeper.run_once(START + 99 * DAY) == 6
    assert stop.waits == [3.0] * 3, "three times as long as a transaction of a second"


def test_run_ends_soon_once_it_is_stopped(
    log: MemoryLog, store: AlertStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FINDINGS_AT_ONCE", 2)
    judged(log, store, *[a_finding(number, 0.1) for number in range(6)])
    stop = Event()
    keeper = RetentionJob(store, tmp_path, KEEP, stop)
    stop.set()
    assert keeper.run_once(START + 99 * DAY) == 0


def test_database_that_retention_went_through_can_be_copied(
    log: MemoryLog, store: AlertStore, engine: Engine, tmp_path: Path
) -> None:
    over(log, store, tmp_path)
    over(log, store, tmp_path, 4, "yard")
    keeping(store, tmp_path).run_once(START + 91 * DAY)
    target = f"sqlite:///{tmp_path / 'copy.db'}"
    copy_database(engine.url.render_as_string(hide_password=False), target, lambda *_: None)
    copy = open_database(target)
    assert counted(copy) == counted(engine)
    assert AlertStore(copy).verify_audit() == store.verify_audit()
    copy.dispose()


class Killed(Exception):
    """Where the process would have been killed."""


def run_killed(engine: Engine, keeper: RetentionJob, now: datetime, statement: int) -> bool:
    """Run until just before a statement; return whether it came to that one."""
    left = [statement]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    event.listen(engine, "before_cursor_execute", count)
    try:
        keeper.run_once(now)
    except Killed:
        return True
    finally:
        event.remove(engine, "before_cursor_execute", count)
    return False


def contents(engine: Engine) -> dict[str, list[str]]:
    """Return the rows of all tables but the chains, which have instants at which it was written."""
    with engine.connect() as connection:
        return {
            table.name: sorted(str(tuple(row)) for row in connection.execute(select(table)))
            for table in tables.metadata.sorted_tables
            if table.name not in ("audit", "checkpoints", "acts")
        }


def aged(log: MemoryLog, store: AlertStore, folder: Path) -> datetime:
    """Fill a store with something of everything; return an instant at which half of it is old."""
    folder.mkdir()
    for number in range(3):
        over(log, store, folder, 4 * number, f"camera-{number}")
    flicker(log, store, 20)
    EvidenceKeeper(log, store, folder).run_once(START)
    judged(log, store, a_finding(30, 0.9, "yard"))
    delivered(store, START + 31 * WINDOW_LENGTH)
    return START + 400 * DAY + 9 * WINDOW_LENGTH


class SavedDatabase:
    """A store and its stills as they were, to begin anew from; on a server to go on from."""

    def __init__(self, engine: Engine, stills: Path) -> None:
        self.engine, self.stills = engine, stills
        self.is_file = engine.dialect.name == "sqlite"
        self._rows, self._files = sqlite3.connect(":memory:"), stills.with_name("saved")
        shutil.copytree(stills, self._files)
        if self.is_file:
            self._backup(lambda raw: raw.backup(self._rows))

    def restore(self) -> None:
        if self.is_file:
            self._backup(self._rows.backup)
            shutil.rmtree(self.stills)
            shutil.copytree(self._files, self.stills)

    def _backup(self, copy: Callable[[sqlite3.Connection], None]) -> None:
        pooled = self.engine.raw_connection()
        assert isinstance(pooled.driver_connection, sqlite3.Connection)
        copy(pooled.driver_connection)
        pooled.driver_connection.execute("PRAGMA synchronous=OFF")
        pooled.close()


@pytest.mark.parametrize("stride", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_run_that_is_killed_at_any_statement_ends_the_same_after_a_restart(
    log: MemoryLog, store: AlertStore, engine: Engine, tmp_path: Path, stride: int
) -> None:
    """On a file each run begins anew, on a server each goes on where the last was killed."""
    stills = tmp_path / "stills"
    now = aged(log, store, stills)
    saved, ends = SavedDatabase(engine, stills), list[dict[str, list[str]]]()
    statement, killed = 0, True
    while killed:
        statement += stride
        saved.restore()
        killed = run_killed(engine, keeping(store, stills), now, statement)
        assert store.verify_audit().problem is None
        if saved.is_file or not killed:
            keeping(store, stills).run_once(now)
            ends.append(contents(engine))
            assert store.verify_audit().problem is None
            assert list(stills.iterdir()) == []
    assert statement > 20
    assert all(each == ends[0] for each in ends)
    assert len(ends[0]["incidents"]) == 2


@pytest.mark.parametrize(
    "minutes", [3, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(400)])]
)
def test_findings_written_at_20000_a_minute_do_not_accumulate(
    store: AlertStore, engine: Engine, tmp_path: Path, minutes: int
) -> None:
    keep = KEEP.model_copy(update={"findings": DAY})
    keeper = RetentionJob(store, tmp_path, keep, StopRecorder())
    write_template(engine, 20_000)
    for minute in range(minutes):
        end = START + timedelta(minutes=minute)
        copy_template(engine, end)
        keeper.run_once(end + DAY)
        assert counted(engine)["findings"] == 2 * 20_000
        assert keeper.run_once(end + DAY) == 0
    assert keeper.run_once(end + 2 * DAY) == 20_000


NEVER = START + 9999 * DAY


def write_template(engine: Engine, count: int) -> None:
    plain = asdict(a_finding(0, 0.1)) | {"end": NEVER}
    with engine.begin() as connection:
        rows = [plain | {"id": f"dock/{number}"} for number in range(count)]
        connection.execute(insert(tables.findings), rows)


def copy_template(engine: Engine, end: datetime) -> None:
    table = tables.findings
    new = {"id": table.c.id + f"/{end.isoformat()}", "end": literal(end, table.c.end.type)}
    copied = select(*(new.get(each.name, each) for each in table.c)).where(table.c.end == NEVER)
    with engine.begin() as connection:
        connection.execute(insert(table).from_select(list(table.c.keys()), copied))
