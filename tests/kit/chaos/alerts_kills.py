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

from sqlalchemy import Engine, update

from alerts.intake.cursor import READER
from alerts.rules.rule import sample_from_finding
from kit.alerts.hostile_receiver import HostileReceiver, run_hostile_receiver
from kit.alerts.oracle import expected_timelines, timeline_of
from kit.alerts.role import FAILURE_FILE, OTHER_RECEIVER, RULE, compete, serve
from kit.alerts.webhook_receiver import RecordingReceiver, run_receiver
from kit.storage.fixtures import START, a_finding
from kit.waiting import wait_for
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.unpublished import AUDIT_TOPIC, PUBLISHER_GROUP, unpublished_revisions
from storage.log.log import Log
from storage.log.sqlite.log import SqliteLog
from storage.records import wire
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.notifications import ChangeKind, Notification, NotificationState
from storage.records.records import Finding, Incident, IncidentState
from storage.records.topics import FINDINGS, INCIDENTS

FINDINGS_PER_KILL = 12
"""Of each camera: more than are judged between two kills, so that the last falls among them."""
(SOC,) = RULE.notify
FEW_KILLS = 20
"""So few kills may all come before anything is delivered."""
FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(
    ["alerts.worker", "alerts.notify.courier", "alerts.dispatch.dispatcher"]
)
_OFFSET_TRIGGERS = {
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
_DROP_PRIMARY_KEY = [
    "CREATE TABLE keyless AS SELECT * FROM findings",
    "DROP TABLE findings",
    "ALTER TABLE keyless RENAME TO findings",
]


@dataclass(frozen=True, slots=True)
class AlertsTarget:
    """Where alerts work, and the protection that they work without."""

    folder: Path
    without: str
    database: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertsKillResult:
    """What the kills were survived by; `hostile` are the answers of the other receiver."""

    kills: int
    findings: int
    incidents: int
    deliveries: int
    posts: int
    hostile: int


def run_alerts_kills(
    folder: Path, kills: int, rng: random.Random, disabled_protection: str = "", database: str = ""
) -> AlertsKillResult:
    """Kill so many times, let all be judged and told, and compare; raises AssertionError.

    `without` takes out a protection: `key` (of findings) or `swap`.
    """
    log = SqliteLog(folder / "log.db")
    alerts = AlertsTarget(
        folder, disabled_protection, database or f"sqlite:///{folder / 'longwatch.db'}"
    )
    engine = open_database(alerts.database)
    try:
        store = AlertStore(engine)
        _execute(
            engine,
            *_OFFSET_TRIGGERS[engine.dialect.name],
            *(_DROP_PRIMARY_KEY if disabled_protection == "key" else ()),
        )
        appended = append_findings(log, rng, kills * FINDINGS_PER_KILL)
        with run_receiver() as receiver, run_hostile_receiver(random.Random(rng.random())) as other:
            servers = (receiver.url, other.url)
            for _ in range(kills):
                _kill_once(alerts, servers, store, rng)
            assert store.committed_offset(READER, FINDINGS) < log.end_offset(FINDINGS), (
                "killed too late"
            )
            assert receiver.posts or kills < FEW_KILLS, "killed before any delivery"
            assert other.failed or kills < FEW_KILLS, "the other receiver was not hostile"
            stop_hostility(other, engine)
            _finish(alerts, servers, store, log)
        assert_matches_oracle(store, log, appended)
        assert_hostile_posts_match(other, store, kills)
        assert _execute(engine, "SELECT count(*) FROM went_back") == 0, "a position went back"
        assert store.verify_audit().problem is None
        assert_posts_match(receiver, store, kills)
        count = sum(map(len, appended.values()))
        deliveries = len(deliveries_to(store, SOC))
        return AlertsKillResult(
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


def _execute(engine: Engine, *statements: str) -> object:
    """Return the first value of the last statement, if it has any."""
    with engine.begin() as connection:
        (*_, last) = (connection.exec_driver_sql(each) for each in statements)
        return last.scalar() if last.returns_rows else None


def append_findings(
    log: Log,
    rng: random.Random,
    per_camera: int,
    given: dict[str, list[Finding]] | None = None,
) -> dict[str, list[Finding]]:
    """Append what an analyzer would, every tenth finding twice as after a crash of its own."""
    given = {"dock": [], "yard": []} if given is None else given
    while pending := [camera for camera, findings in given.items() if len(findings) < per_camera]:
        camera = rng.choice(pending)
        findings = given[camera]
        score = rng.choice([0.1, 0.6, 0.9, 0.9])
        findings.append(a_finding(len(findings), score, camera))
        again = rng.random() < 0.1
        value = wire.encode_finding(findings[-1])
        log.append(FINDINGS, camera, *([value, value] if again else [value]))
    return given


def _start(alerts: AlertsTarget, servers: tuple[str, str]) -> list[ForkServerProcess]:
    url, other_url = servers
    rest = (alerts.without, alerts.database)
    processes = [
        FORK_SERVER.Process(target=serve, args=(alerts.folder, url, *rest, None, other_url)),
        FORK_SERVER.Process(
            target=compete, args=(alerts.folder, *rest), kwargs={"for_other": True}
        ),
    ]
    for process in processes:
        process.start()
    return processes


def _kill_once(
    alerts: AlertsTarget, servers: tuple[str, str], store: AlertStore, rng: random.Random
) -> None:
    goal = store.committed_offset(READER, FINDINGS) + rng.randint(1, 6)
    processes = _start(alerts, servers)
    try:
        wait_for(lambda: _has_exited(processes) or _has_reached(store, goal))
        processes[0].join(rng.uniform(0.0, 0.02))
    finally:
        _kill(processes)
    _check_failure(alerts)


def _finish(alerts: AlertsTarget, servers: tuple[str, str], store: AlertStore, log: Log) -> None:
    processes = _start(alerts, servers)
    try:
        wait_for(
            lambda: _has_exited(processes) or _has_reached(store, log.end_offset(FINDINGS)), 300
        )
        wait_for(lambda: _has_exited(processes) or is_settled(store), 120)
    finally:
        _kill(processes)
    _check_failure(alerts)


def _has_reached(store: AlertStore, offset: int) -> bool:
    return store.committed_offset(READER, FINDINGS) >= offset


def _has_exited(processes: Sequence[ForkServerProcess]) -> bool:
    return any(process.exitcode is not None for process in processes)


def _check_failure(alerts: AlertsTarget) -> None:
    """Raise AssertionError where a process failed by itself, killed before its end or not."""
    failure = alerts.folder / FAILURE_FILE
    assert not failure.exists(), failure.read_text()


def _kill(processes: Sequence[ForkServerProcess]) -> None:
    for process in processes:
        if process.pid is not None and process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()


def is_settled(store: AlertStore) -> bool:
    notifications = [
        notification for each in store.incidents() for notification in store.notifications(each.id)
    ]
    waits = any(notification.state is NotificationState.WAITING for notification in notifications)
    unpublished = unpublished_revisions(
        store, store.committed_offset(PUBLISHER_GROUP, AUDIT_TOPIC), 1
    )
    return not (waits or unpublished) and store.counts().deliveries[DeliveryState.WAITING] == 0


def assert_matches_oracle(store: AlertStore, log: Log, given: dict[str, list[Finding]]) -> None:
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
        assert [timeline_of(incident) for incident in mine] == expected_timelines(
            RULE, map(sample_from_finding, findings)
        )
    opened = [incident for incident in incidents if incident.opened_at is not None]
    resolved = [each for each in opened if each.state is IncidentState.RESOLVED]
    deliveries = deliveries_to(store, SOC)
    numbers = sorted((delivery.group_id, delivery.number) for delivery in deliveries)
    assert len(numbers) == len(set(numbers))
    assert {delivery.state for delivery in deliveries} == {DeliveryState.DELIVERED}
    notifications = notifications_to(store, SOC, opened)
    assert len(notifications) == len(opened) + len(resolved)
    assert {notification.state for notification in notifications} <= {
        NotificationState.SENT,
        NotificationState.SUPERSEDED,
    }
    last = [
        notification for notification in notifications if notification.kind is ChangeKind.RESOLVED
    ]
    assert {notification.state for notification in last} <= {NotificationState.SENT}
    known = {delivery.id for delivery in deliveries}
    assert {n.delivery_id for n in notifications if n.state is NotificationState.SENT} <= known
    published = {(each.id, each.revision): each for each in _published(log)}
    made = {(each.id, number) for each in incidents for number in range(1, each.revision + 1)}
    assert published.keys() == made, "a revision that is not in the log"
    latest = {(each.id, each.revision): each for each in incidents}
    assert all(published[name] == incident for name, incident in latest.items())


def _published(log: Log) -> list[Incident]:
    found = list[Incident]()
    for partition in log.partitions(INCIDENTS):
        offset = log.start_offset(partition)
        while (page := log.read(partition, offset, limit=10**6)).next_offset > offset:
            found += [wire.decode_incident(entry.value) for entry in page]
            offset = page.next_offset
    return found


def assert_posts_match(receiver: RecordingReceiver, store: AlertStore, kills: int) -> None:
    """Compare what was posted with the rows: each has its row, and twice came what a kill cut."""
    deliveries = deliveries_to(store, SOC)
    assert set(receiver.ids()) == {str(delivery.id) for delivery in deliveries}
    assert len(receiver.ids()) <= len(deliveries) + kills


def stop_hostility(other: HostileReceiver, engine: Engine) -> None:
    """Let the other receiver take all from now on, and let nothing wait for its next try."""
    other.is_healthy = True
    due = update(tables.deliveries).where(tables.deliveries.c.receiver == OTHER_RECEIVER)
    with engine.begin() as connection:
        connection.execute(due.values(next_at=START))


def assert_hostile_posts_match(other: HostileReceiver, store: AlertStore, kills: int) -> None:
    """Compare what the other receiver took with the rows, and with all that happened."""
    ended = {str(each.id): each.state for each in deliveries_to(store, OTHER_RECEIVER)}
    assert other.ids() <= ended.keys()
    assert set(ended.values()) <= {DeliveryState.DELIVERED, DeliveryState.SUPERSEDED}
    delivered = {id for id, state in ended.items() if state is DeliveryState.DELIVERED}
    assert delivered <= set(other.accepted)
    assert len(other.accepted) - len(set(other.accepted)) <= kills
    opened = [incident for incident in store.incidents() if incident.opened_at is not None]
    resolved = {str(each.id) for each in opened if each.state is IncidentState.RESOLVED}
    assert {id for id, _ in other.states} == {str(each.id) for each in opened}
    assert {id for id, state in other.states if state == "resolved"} == resolved
    notifications = notifications_to(store, OTHER_RECEIVER, opened)
    assert {notification.state for notification in notifications} <= {
        NotificationState.SENT,
        NotificationState.SUPERSEDED,
    }
    notified = [
        str(each.delivery_id) for each in notifications if each.state is NotificationState.SENT
    ]
    assert set(notified) <= delivered


def deliveries_to(store: AlertStore, receiver: str) -> list[Delivery]:
    return [each for each in store.deliveries() if each.receiver == receiver]


def notifications_to(
    store: AlertStore, receiver: str, incidents: Iterable[Incident]
) -> list[Notification]:
    notifications = [
        notification for each in incidents for notification in store.notifications(each.id)
    ]
    return [notification for notification in notifications if notification.receiver == receiver]
