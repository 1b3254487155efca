"""Alerts killed again and again over a stream of findings, and what must be left of it.

A second judge competes with the first all the time, as after a host that was only slow; findings
come twice; the order holds within a camera alone. A second receiver answers the worst headers and
hangs up all the time. What is left is compared with an oracle that shares nothing with the fold.
"""

import multiprocessing
import os
import random
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from alerts_fixtures import Receiver, receiving
from alerts_oracle import stories, story_of
from alerts_role import FAILURE, OTHER, RULE, compete, serve
from hostile_receiver import HostileReceiver, hostile
from sqlalchemy import Engine, update
from storage_fixtures import START, a_finding, wait_for

from alerts.reading import READER
from alerts.rules import sample_of
from storage import tables, wire
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.log import FINDINGS, INCIDENTS, Log
from storage.records import Delivery, DeliveryState, Finding, Incident, IncidentState
from storage.routing import News, Notice, NoticeState
from storage.sqlite_log import SqliteLog
from storage.unpublished import PUBLISHER, TRAIL, revisions

FINDINGS_PER_KILL = 12
"""Of each camera: more than are judged between two kills, so that the last falls among them."""
(SOC,) = RULE.notify
FEW = 20
"""So few kills may all come before anything is delivered."""
CRASHING = multiprocessing.get_context("forkserver")
CRASHING.set_forkserver_preload(["alerts.worker", "alerts.courier", "alerts.router"])
_WATCH = {
    "sqlite": [
        "CREATE TABLE went_back (was INTEGER, became INTEGER)",
        "CREATE TRIGGER position_went_back AFTER UPDATE ON positions WHEN new.next < old.next"
        " BEGIN INSERT INTO went_back VALUES (old.next, new.next); END",
    ],
    "postgresql": [
        "CREATE TABLE went_back (was BIGINT, became BIGINT)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO went_back VALUES (old.next, new.next); RETURN new; END'",
        "CREATE TRIGGER position_went_back AFTER UPDATE ON positions FOR EACH ROW"
        " WHEN (new.next < old.next) EXECUTE FUNCTION note()",
    ],
}
_NO_KEY = [
    "CREATE TABLE keyless AS SELECT * FROM findings",
    "DROP TABLE findings",
    "ALTER TABLE keyless RENAME TO findings",
]


@dataclass(frozen=True, slots=True)
class Alerts:
    """Where alerts work, and the protection that they work without."""

    folder: Path
    without: str
    database: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """What the kills were survived by; `hostile` are the answers of the other receiver."""

    kills: int
    findings: int
    incidents: int
    deliveries: int
    posts: int
    hostile: int


def survive(
    folder: Path, kills: int, chance: random.Random, without: str = "", database: str = ""
) -> Toll:
    """Kill so many times, let all be judged and told, and compare; raises AssertionError.

    `without` takes out a protection: `key` (of findings) or `swap`.
    """
    log = SqliteLog(folder / "log.db")
    alerts = Alerts(folder, without, database or f"sqlite:///{folder / 'longwatch.db'}")
    engine = open_database(alerts.database)
    try:
        store = IncidentStore(engine)
        _run(engine, *_WATCH[engine.dialect.name], *(_NO_KEY if without == "key" else ()))
        given = give(log, chance, kills * FINDINGS_PER_KILL)
        with receiving() as receiver, hostile(random.Random(chance.random())) as other:
            servers = (receiver.url, other.url)
            for _ in range(kills):
                _kill_once(alerts, servers, store, chance)
            assert store.position(READER, FINDINGS) < log.next(FINDINGS), "killed too late"
            assert receiver.posts or kills < FEW, "killed before any delivery"
            assert other.failed or kills < FEW, "the other receiver was not hostile"
            make_kind(other, engine)
            _finish(alerts, servers, store, log)
        compare(store, log, given)
        compare_hostile(other, store, kills)
        assert _run(engine, "SELECT count(*) FROM went_back") == 0, "a position went back"
        assert store.verify().problem is None
        compare_posts(receiver, store, kills)
        count = sum(map(len, given.values()))
        deliveries = len(deliveries_to(store, SOC))
        return Toll(
            kills=kills,
            findings=count,
            incidents=len(store.incidents()),
            deliveries=deliveries,
            posts=len(receiver.ids()),
            hostile=other.failed.total(),
        )
    finally:
        log.close()
        engine.dispose()


def _run(engine: Engine, *statements: str) -> object:
    """Return the first value of the last statement, if it has any."""
    with engine.begin() as connection:
        (*_, last) = (connection.exec_driver_sql(each) for each in statements)
        return last.scalar() if last.returns_rows else None


def give(
    log: Log,
    chance: random.Random,
    each: int,
    given: dict[str, list[Finding]] | None = None,
) -> dict[str, list[Finding]]:
    """Append what an analyzer would, every tenth finding twice as after a crash of its own."""
    given = {"dock": [], "yard": []} if given is None else given
    while pending := [camera for camera, findings in given.items() if len(findings) < each]:
        camera = chance.choice(pending)
        findings = given[camera]
        score = chance.choice([0.1, 0.6, 0.9, 0.9])
        findings.append(a_finding(len(findings), score, camera))
        again = chance.random() < 0.1
        value = wire.encode_finding(findings[-1])
        log.append(FINDINGS, camera, *([value, value] if again else [value]))
    return given


def _start(alerts: Alerts, servers: tuple[str, str]) -> list[ForkServerProcess]:
    url, other_url = servers
    rest = (alerts.without, alerts.database)
    processes = [
        CRASHING.Process(target=serve, args=(alerts.folder, url, *rest, None, other_url)),
        CRASHING.Process(target=compete, args=(alerts.folder, *rest), kwargs={"for_other": True}),
    ]
    for process in processes:
        process.start()
    return processes


def _kill_once(
    alerts: Alerts, servers: tuple[str, str], store: IncidentStore, chance: random.Random
) -> None:
    goal = store.position(READER, FINDINGS) + chance.randint(1, 6)
    processes = _start(alerts, servers)
    try:
        wait_for(lambda: _died(processes) or _reached(store, goal))
        processes[0].join(chance.uniform(0.0, 0.02))
    finally:
        _kill(processes)
    _check_failure(alerts)


def _finish(alerts: Alerts, servers: tuple[str, str], store: IncidentStore, log: Log) -> None:
    processes = _start(alerts, servers)
    try:
        wait_for(lambda: _died(processes) or _reached(store, log.next(FINDINGS)), 300)
        wait_for(lambda: _died(processes) or is_told(store), 120)
    finally:
        _kill(processes)
    _check_failure(alerts)


def _reached(store: IncidentStore, position: int) -> bool:
    return store.position(READER, FINDINGS) >= position


def _died(processes: Sequence[ForkServerProcess]) -> bool:
    return any(process.exitcode is not None for process in processes)


def _check_failure(alerts: Alerts) -> None:
    """Raise AssertionError where a process failed by itself, killed before its end or not."""
    failure = alerts.folder / FAILURE
    assert not failure.exists(), failure.read_text()


def _kill(processes: Sequence[ForkServerProcess]) -> None:
    for process in processes:
        if process.pid is not None and process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()


def is_told(store: IncidentStore) -> bool:
    notices = [notice for each in store.incidents() for notice in store.notices(each.id)]
    waits = any(notice.state is NoticeState.WAITING for notice in notices)
    unpublished = revisions(store, store.position(PUBLISHER, TRAIL), 1)
    return not (waits or unpublished) and store.counts().deliveries[DeliveryState.WAITING] == 0


def compare(store: IncidentStore, log: Log, given: dict[str, list[Finding]]) -> None:
    """Compare everything with the oracle; raises AssertionError."""
    stored = store.findings([finding.id for findings in given.values() for finding in findings])
    assert sorted(stored, key=lambda each: each.id) == sorted(
        (finding for findings in given.values() for finding in findings),
        key=lambda each: each.id,
    )
    assert store.counts().findings == len(stored)
    incidents = store.incidents()
    for camera, findings in given.items():
        mine = sorted(
            (incident for incident in incidents if incident.camera == camera),
            key=lambda incident: incident.first_seen_at,
        )
        assert [story_of(incident) for incident in mine] == stories(RULE, map(sample_of, findings))
    opened = [incident for incident in incidents if incident.opened_at is not None]
    resolved = [each for each in opened if each.state is IncidentState.RESOLVED]
    deliveries = deliveries_to(store, SOC)
    numbers = sorted((delivery.group_id, delivery.number) for delivery in deliveries)
    assert len(numbers) == len(set(numbers))
    assert {delivery.state for delivery in deliveries} == {DeliveryState.DELIVERED}
    notices = notices_to(store, SOC, opened)
    assert len(notices) == len(opened) + len(resolved)
    assert {notice.state for notice in notices} <= {NoticeState.TOLD, NoticeState.SUPERSEDED}
    last = [notice for notice in notices if notice.kind is News.RESOLVED]
    assert {notice.state for notice in last} <= {NoticeState.TOLD}
    known = {delivery.id for delivery in deliveries}
    assert {n.delivery_id for n in notices if n.state is NoticeState.TOLD} <= known
    told = {(each.id, each.revision): each for each in _published(log)}
    made = {(each.id, number) for each in incidents for number in range(1, each.revision + 1)}
    assert told.keys() == made, "a revision that is not in the log"
    latest = {(each.id, each.revision): each for each in incidents}
    assert all(told[name] == incident for name, incident in latest.items())


def _published(log: Log) -> list[Incident]:
    found = list[Incident]()
    for part in log.parts(INCIDENTS):
        position = log.oldest(part)
        while (page := log.read(part, position, limit=10**6)).next > position:
            found += [wire.decode_incident(entry.value) for entry in page]
            position = page.next
    return found


def compare_posts(receiver: Receiver, store: IncidentStore, kills: int) -> None:
    """Compare what was posted with the rows: each has its row, and twice came what a kill cut."""
    deliveries = deliveries_to(store, SOC)
    assert set(receiver.ids()) == {str(delivery.id) for delivery in deliveries}
    assert len(receiver.ids()) <= len(deliveries) + kills


def make_kind(other: HostileReceiver, engine: Engine) -> None:
    """Let the other receiver take all from now on, and let nothing wait for its next try."""
    other.kind = True
    due = update(tables.deliveries).where(tables.deliveries.c.receiver == OTHER)
    with engine.begin() as connection:
        connection.execute(due.values(next_at=START))


def compare_hostile(other: HostileReceiver, store: IncidentStore, kills: int) -> None:
    """Compare what the other receiver took with the rows, and with all that happened."""
    ended = {str(each.id): each.state for each in deliveries_to(store, OTHER)}
    assert other.ids() <= ended.keys()
    assert set(ended.values()) <= {DeliveryState.DELIVERED, DeliveryState.SUPERSEDED}
    delivered = {id for id, state in ended.items() if state is DeliveryState.DELIVERED}
    assert delivered <= set(other.took)
    assert len(other.took) - len(set(other.took)) <= kills
    opened = [incident for incident in store.incidents() if incident.opened_at is not None]
    resolved = {str(each.id) for each in opened if each.state is IncidentState.RESOLVED}
    assert {id for id, _ in other.states} == {str(each.id) for each in opened}
    assert {id for id, state in other.states if state == "resolved"} == resolved
    notices = notices_to(store, OTHER, opened)
    assert {notice.state for notice in notices} <= {NoticeState.TOLD, NoticeState.SUPERSEDED}
    told = [str(each.delivery_id) for each in notices if each.state is NoticeState.TOLD]
    assert set(told) <= delivered


def deliveries_to(store: IncidentStore, receiver: str) -> list[Delivery]:
    return [each for each in store.deliveries() if each.receiver == receiver]


def notices_to(store: IncidentStore, receiver: str, incidents: Iterable[Incident]) -> list[Notice]:
    notices = [notice for each in incidents for notice in store.notices(each.id)]
    return [notice for notice in notices if notice.receiver == receiver]
