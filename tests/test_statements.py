"""No statement of a loop or of a command reads more the longer a camera has run."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event

from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.heartbeat import Heartbeat
from alerts.dispatch.muting import Inhibition
from alerts.dispatch.rate_limit import MessageRate
from alerts.evidence.keeper import EvidenceKeeper
from alerts.evidence.retention import RetentionJob, RetentionPeriods
from alerts.intake.coverage_writer import CoverageWriter
from alerts.intake.progress_check import ProgressCheck
from alerts.notify.courier import Courier
from alerts.rules import lifecycle
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from deploy.cli import incident_actions
from kit.alerts.history import CAMERAS, HISTORY_END, RULE, fill_history
from kit.alerts.routing import AT_ONCE
from kit.alerts.webhook_receiver import RecordingReceiver, a_webhook, run_receiver
from kit.storage.fixtures import BY_ADA, START, WINDOW_LENGTH, a_finding, a_window
from kit.storage.statements import FEW_ROWS, RecordedStatements, full_scans, record_statements
from storage.db.alert_store import AlertStore
from storage.db.audit.actions import ActionOrigin
from storage.db.outbox import UNDELIVERED, Outbox
from storage.db.rows.coverage import CoverageStore
from storage.db.rows.findings import FindingStore
from storage.db.silences import SilenceRow, SilenceStore, known_cameras_and_rules
from storage.log.memory_log import MemoryLog
from storage.records import wire
from storage.records.claims import Claim, encode_claim
from storage.records.deliveries import DeliveryState
from storage.records.notifications import NotificationState
from storage.records.records import LIVE_STATES, CoverageState, IncidentState, TimeSpan
from storage.records.topics import COVERAGE, FINDINGS, WINDOWS

MOST_STEPS = 12_000
"""A statement that reads all that one camera ever had takes more steps of SQLite's machine."""
INCIDENTS = 20_000
HEALTH = Rule(
    name="camera-down", question="health/camera_down", above=0.5, below=0.5, notify=("soc",)
)
LOST = replace(HEALTH, name="not-told", question="health/undelivered")
SLOW = Rule(name="loiter", question="bag", above=0.7, below=0.5, for_=timedelta(minutes=1))
RULES = (replace(RULE, notify=("soc", "gone")), SLOW, HEALTH, LOST)
ROUTING = replace(
    AT_ONCE,
    default=replace(
        AT_ONCE.default, digest_after=2, rate_limit=MessageRate(count=600, per=timedelta(hours=1))
    ),
    inhibitions=(Inhibition(source=frozenset({"camera-down"})),),
    pagers=frozenset({"soc"}),
)
ONE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
BOTH = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)


class Day:
    """A day of an installation: all the loops, people, and a receiver that fails at first."""

    def __init__(self, store: AlertStore, folder: Path, receiver: RecordingReceiver) -> None:
        self.log = MemoryLog(now=lambda: self.now)
        self.now = START
        self.store = store
        self.receiver = receiver
        self.worker = AlertsWorker(
            self.log,
            store,
            RULES,
            lambda _: None,
            policy=ROUTING,
            cameras=CAMERAS,
            sweep_after=timedelta(minutes=10),
        )
        self.keeper = EvidenceKeeper(self.log, store, folder)
        beat = Heartbeat(every=timedelta(minutes=1), notify=("soc",))
        self.router = Dispatcher(store, ROUTING, beat, ProgressCheck(self.log, store))
        self.courier = Courier(store, [a_webhook(receiver.url)], self.worker.judge_delivery_failure)
        self.outbox, self.silences = Outbox(store), SilenceStore(store)

    def turn(self, number: int, score: float, *cameras: str) -> None:
        """Let cameras film a window with an answer, and all loops look at it."""
        for camera in cameras:
            window = a_window(number, camera)
            self.now = window.end
            self.log.append(WINDOWS, camera, wire.encode_window(window))
            finding = a_finding(number, score, camera)
            self.log.append(FINDINGS, camera, wire.encode_finding(finding))
            self.claim(camera, number, CoverageState.WAITING)
            self.claim(camera, number, CoverageState.ANALYSED)
        self.dispatch()

    def claim(self, camera: str, number: int, state: CoverageState) -> None:
        start = START + number * WINDOW_LENGTH
        claim_made = Claim(camera=camera, start=start, end=start + WINDOW_LENGTH, state=state)
        self.log.append(COVERAGE, camera, encode_claim(claim_made))

    def dispatch(self) -> None:
        while self.worker.run_once():
            pass
        while self.keeper.run_once(self.now):
            pass
        self.router.run_once(self.now)
        while self.courier.run_once(datetime.now(UTC)):
            pass

    def silence(self) -> SilenceRow:
        row = SilenceRow(
            id=uuid4(),
            matchers=("camera=yard",),
            start=START,
            end=datetime.now(UTC) + timedelta(days=1),
            who="ada",
            comment="",
        )
        self.silences.add(row, ActionOrigin.CLI)
        return row

    def run(self) -> None:
        """Let all happen that ever does."""
        self.turn(0, 0.1, *CAMERAS)
        self.turn(1, 0.9, "dock")
        silence = self.silence()
        self.turn(2, 0.9, *CAMERAS)
        self.receiver.status = 204
        for camera in CAMERAS[:2]:
            self.claim(camera, 3, CoverageState.CAMERA_DOWN)
        self.turn(4, 0.75, *CAMERAS[2:])
        assert self.silences.expire(silence.id, self.now, BY_ADA)
        self.act(lifecycle.acknowledge)
        self.act(lifecycle.note)
        self.fail_again()
        self.turn(5, 0.1, *CAMERAS)
        self.turn(6, 0.9, "dock", "yard")
        self.act(lifecycle.resolve)
        self.turn(300, 0.1, "camera-0")
        self.worker.tick(datetime.now(UTC))
        self.dispatch()
        CoverageWriter(self.log, self.store).sweep(self.now)
        assert self.outbox.requeue_undelivered("soc", START, self.now, BY_ADA) == 0
        self.dispatch()
        Dispatcher(self.store, ROUTING).run_once(self.now + timedelta(hours=5))
        self.dispatch()

    def fail_again(self) -> None:
        """Replay the oldest of what was given up, in vain."""
        oldest = self.outbox.deliveries((DeliveryState.EXHAUSTED,), "soc")[-1]
        assert self.outbox.requeue(oldest, datetime.now(UTC), BY_ADA)
        self.receiver.status = 503
        courier = Courier(self.store, [a_webhook(self.receiver.url)])
        while courier.run_once(datetime.now(UTC)):
            pass
        assert self.outbox.deliveries((DeliveryState.SUPERSEDED,), "soc")[-1].id == oldest.id
        self.receiver.status = 204

    def forget(self, folder: Path) -> None:
        """Delete the oldest of all that is over."""
        age = self.now - (HISTORY_END - INCIDENTS * timedelta(minutes=1))
        old, older = age - timedelta(minutes=30), age - timedelta(minutes=10)
        keep = RetentionPeriods.model_construct(
            incidents=older, deliveries=older, dismissed=old, findings=older, stills=old
        )
        assert RetentionJob(self.store, folder, keep, Event()).run_once(self.now) > 60

    def act(self, step: incident_actions.LifecycleStep) -> None:
        newest = next(each for each in self.store.incidents(limit=50) if each.opened_at)
        incident_actions.apply_action(self.store, str(newest.id)[:13], step, by="ada", note="seen")

    def read(self, engine: Engine) -> None:
        """Ask what the commands ask."""
        incident = self.store.incidents(limit=50)[0]
        self.store.deliveries(incident.id), self.store.notifications(incident.id)
        self.store.evidence(incident.id), self.store.audit_entries(incident.id)
        for states in (tuple(DeliveryState), (DeliveryState.WAITING,), UNDELIVERED):
            for receiver in (None, "soc", "nobody"):
                found = self.outbox.deliveries(states, receiver, limit=50)
                self.outbox.incidents_by_delivery([each.id for each in found])
        delivery = self.outbox.deliveries(limit=1)[0]
        assert self.outbox.find(str(delivery.id)) == delivery
        self.outbox.requeue(delivery, self.now, BY_ADA)
        self.silences.all(self.now), self.silences.find("0"), known_cameras_and_rules(self.store)
        ledger = CoverageStore(engine)
        ledger.between("dock", TimeSpan(start=START, end=self.now)), ledger.extent("dock")
        ledger.latest(), ledger.cameras()
        list(FindingStore(engine).between(START, None))

    def check(self) -> None:
        """Hold that what should happen did."""
        new = [each for each in self.store.incidents(limit=50) if each.first_seen_at >= START]
        notifications = [
            notification for each in new for notification in self.store.notifications(each.id)
        ]
        states = {each.state for each in self.outbox.deliveries(limit=50)}
        assert {each.state for each in new} >= {IncidentState.RESOLVED, IncidentState.DISMISSED}
        assert {each.rule for each in new} == {rule.name for rule in RULES}
        assert {each.closed_because for each in new} >= {"ada", "swept"}
        assert {each.state for each in notifications} >= {NotificationState.SENT}
        assert states >= {DeliveryState.DELIVERED, DeliveryState.ORPHANED}
        assert any(self.store.evidence(each.id) for each in new)


@pytest.fixture
def past(engine: Engine) -> Engine:
    """A database with 20,000 incidents behind it; nothing of it has to last."""
    if engine.dialect.name == "sqlite":
        engine.dispose()
        event.listen(engine, "connect", _in_haste)
    fill_history(engine, INCIDENTS, ROUTING)
    return engine


def _in_haste(connection: Any, _: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "evidence"


def heard_on(engine: Engine, folder: Path) -> RecordedStatements:
    store = AlertStore(engine)
    with (
        run_receiver(RecordingReceiver(status=503)) as receiver,
        record_statements(engine) as recorded,
    ):
        day = Day(store, folder, receiver)
        day.run()
        day.check()
        day.forget(folder)
        day.read(engine)
    assert len(recorded.by_text) > 80
    return recorded


def found_in(engine: Engine, recorded: RecordedStatements) -> Iterator[str]:
    with engine.connect() as connection:
        for each in recorded:
            if scanned := full_scans(connection, each):
                yield f"{each.describe()}\n  {scanned}"
            if each.steps > MOST_STEPS:
                yield f"{each.describe()}\n  {each.steps} steps"


@pytest.mark.timeout(600)
@BOTH
def test_no_statement_reads_more_where_more_is_over(past: Engine, folder: Path) -> None:
    found = list(found_in(past, heard_on(past, folder)))
    assert not found, "\n".join([f"{len(found)} statements", *found])


@ONE
@pytest.mark.parametrize(
    "indexes",
    [
        ("incidents_live", "incidents_live_of_a_rule", "one_live_incident"),
        ("deliveries_waiting", "deliveries_waiting_in_order", "deliveries_by_state"),
    ],
)
def test_statement_whose_index_is_gone_is_found(engine: Engine, indexes: tuple[str, ...]) -> None:
    fill_history(engine, 2 * FEW_ROWS, ROUTING)
    store = AlertStore(engine)
    with record_statements(engine) as recorded:
        store.incidents(LIVE_STATES)
        Outbox(store).waiting_receivers(START)
    assert list(found_in(engine, recorded)) == []
    with engine.begin() as connection:
        for index in indexes:
            connection.exec_driver_sql(f"DROP INDEX {index}")
    engine.dispose()  # a statement that is explained again on its connection keeps its plan
    (found,) = found_in(engine, recorded)
    assert "SCAN" in found
