"""Whatever comes in whatever order: who stays firing and unmuted is told, who is muted is not."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.grouping import NotificationPolicy, RoutePolicy
from alerts.dispatch.rate_limit import MessageRate
from kit.alerts.routing import acknowledged, an_open_incident, resolved, save_and_notify
from kit.storage.fixtures import BY_ADA, START
from storage.db.alert_store import AlertStore
from storage.db.audit.actions import ActionOrigin
from storage.db.database import open_database
from storage.db.silences import SilenceRow, SilenceStore
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.records import Incident, IncidentState

CAMERAS = ("dock", "yard", "gate")
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
REPEAT = timedelta(hours=4)
ROUTINGS = {
    "usual": NotificationPolicy(),
    "tight": NotificationPolicy(default=RoutePolicy(rate_limit=MessageRate(count=3, per=HOUR))),
    "together": NotificationPolicy(default=RoutePolicy(group_by=())),
    "stormy": NotificationPolicy(
        default=RoutePolicy(digest_after=1, rate_limit=MessageRate(count=6, per=HOUR))
    ),
    "paged": NotificationPolicy(default=RoutePolicy(digest_after=1), pagers=frozenset({"soc"})),
}
SEVERITIES = ("low", "high", "critical")
STEPS = st.one_of(
    st.tuples(st.just("open"), st.sampled_from(CAMERAS), st.sampled_from(SEVERITIES)),
    st.tuples(st.sampled_from(["resolve", "acknowledge"]), st.integers(0, 9)),
    st.tuples(st.just("silence"), st.sampled_from(CAMERAS), st.integers(1, 30)),
    st.tuples(st.just("expire"), st.integers(0, 9)),
    st.tuples(st.just("pass"), st.sampled_from([1, 10, 31, 120, 301, 900])),
    st.tuples(st.just("crash"), st.integers(1, 40)),
    st.tuples(st.sampled_from(["arrive", "fail", "restart"])),
)


class Crash(Exception):
    pass


@dataclass
class DispatchSimulation:
    """A store, a router, and what an onlooker knows of both."""

    engine: Engine
    routing: NotificationPolicy
    now: datetime = START
    incidents: list[Incident] = field(default_factory=list)
    silences: list[SilenceRow] = field(default_factory=list)
    messages: list[tuple[datetime, str, set[tuple[str, str]]]] = field(default_factory=list)
    """When which group, or digest, was told which incidents in which state: a message an entry."""
    faults: bool = False

    def __post_init__(self) -> None:
        self.store = AlertStore(self.engine)
        self.dispatcher = Dispatcher(self.store, self.routing)
        self.recorded_deliveries: set[UUID] = set()

    def do(self, step: tuple[object, ...]) -> None:
        name, *values = step
        getattr(self, f"do_{name}")(*values)
        self.dispatch()

    def do_open(self, camera: str, severity: str) -> None:
        number = len(self.incidents)
        incident = replace(
            an_open_incident(number, camera), opened_at=self.now, first_seen_at=self.now
        )
        incident = replace(incident, last_seen_at=self.now, severity=severity)
        self.incidents.append(save_and_notify(self.store, incident, policy=self.routing))

    def do_resolve(self, number: int) -> None:
        self._step(number, (IncidentState.OPEN, IncidentState.ACKNOWLEDGED), resolved)

    def do_acknowledge(self, number: int) -> None:
        self._step(number, (IncidentState.OPEN,), acknowledged)

    def _step(self, number: int, states: tuple[IncidentState, ...], step: object) -> None:
        able = [n for n, each in enumerate(self.incidents) if each.state in states]
        if able:
            n = able[number % len(able)]
            before = self.incidents[n]
            after = step(before)  # type: ignore[operator]
            if after.closed_at is not None:
                after = replace(after, closed_at=self.now)
            self.incidents[n] = save_and_notify(self.store, after, before, policy=self.routing)

    def do_silence(self, camera: str, minutes: int) -> None:
        row = SilenceRow(
            id=UUID(int=len(self.silences) + 1),
            matchers=(f"camera={camera}",),
            start=self.now,
            end=self.now + minutes * MINUTE,
            who="ann",
            comment="",
        )
        SilenceStore(self.store).add(row, ActionOrigin.CLI)
        self.silences.append(row)

    def do_expire(self, number: int) -> None:
        live = [n for n, each in enumerate(self.silences) if each.end > self.now]
        if live:
            n = live[number % len(live)]
            assert SilenceStore(self.store).expire(self.silences[n].id, self.now, BY_ADA)
            self.silences[n] = replace(self.silences[n], end=self.now)

    def do_pass(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    def do_restart(self) -> None:
        self.dispatcher = Dispatcher(self.store, self.routing)

    def do_crash(self, nth: int) -> None:
        with failing(self.engine, nth):
            try:
                self.dispatcher.run_once(self.now)
            except Crash:
                self.do_restart()

    def do_arrive(self) -> None:
        delivery = self.store.next_delivery("soc", self.now)
        if delivery is not None:
            self.store.record_outcome(replace(delivery, state=DeliveryState.DELIVERED, attempts=1))

    def do_fail(self) -> None:
        delivery = self.store.next_delivery("soc", self.now)
        if delivery is not None:
            self.faults = True
            later = self.now + 5 * MINUTE
            self.store.record_outcome(
                replace(delivery, attempts=delivery.attempts + 1, next_at=later)
            )

    def dispatch(self) -> None:
        self.dispatcher.run_once(self.now)
        written: dict[tuple[str, int], list[Delivery]] = {}
        for delivery in self.store.deliveries():
            if delivery.id not in self.recorded_deliveries:
                self.recorded_deliveries.add(delivery.id)
                of_it = written.setdefault((str(delivery.group_id), delivery.number), [])
                of_it.append(delivery)
        for (group, _), parts in written.items():
            self._record_message(group, parts)

    def _record_message(self, group: str, parts: list[Delivery]) -> None:
        """Take down what one message tells; its parts are all there, and have nothing in common."""
        assert sorted(each.part for each in parts) == list(range(1, parts[0].parts + 1))
        at, bodies = (
            parts[0].next_at,
            [json.loads(self.store.delivery_body(each) or b"") for each in parts],
        )
        incidents = [each for body in bodies for each in body["data"]["incidents"]]
        for each in incidents:
            assert not self.is_muted(each["camera"], at), "told while muted"
        news = {(each["id"], each["state"]) for each in incidents}
        assert len(news) == len(incidents), "one incident in two parts"
        is_digest = bodies[0]["type"] == "incidents.digest"
        self.messages.append((at, "digest" if is_digest else group, news))

    def is_muted(self, camera: str, at: datetime) -> bool:
        return any(
            each.matchers == (f"camera={camera}",) and each.start <= at < each.end
            for each in self.silences
        )

    def settle(self) -> None:
        """Let all silences end, and all be told."""
        for minutes in (6, 25, 6, 20, 6, 20, 20, 20, 20, 20, 20, 20):
            self.now += minutes * MINUTE
            self.dispatch()
            while (waits := self.store.next_delivery("soc", self.now)) is not None:
                self.store.record_outcome(replace(waits, state=DeliveryState.DELIVERED, attempts=1))


@contextmanager
def failing(engine: Engine, nth: int) -> Iterator[None]:
    count = 0

    def fail(*_: object) -> None:
        nonlocal count
        count += 1
        if count == nth:
            raise Crash

    event.listen(engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", fail)


def check(world: DispatchSimulation) -> None:
    told = {each for _, _, news in world.messages for each in news}
    for incident in world.incidents:
        states = {state for id, state in told if id == str(incident.id)}
        if incident.is_live:
            assert incident.state.value in states, "it fires and nobody was told"
        elif states:
            assert "resolved" in states, "its firing was told and its end was not"
    # Every message has news, but for a repetition: and what a digest told is no news to a group.
    known = set[tuple[str, str]]()
    last: dict[str, datetime] = {}
    for at, _, news in sorted(world.messages, key=lambda each: each[0]):
        is_repeat = any(at - last[id] >= REPEAT for id, _ in news if id in last)
        # What was in a message that failed may be told again.
        assert news - known or is_repeat or world.faults, "told twice"
        known |= news
        last |= {id: at for id, _ in news}
    notifications = [n for each in world.incidents for n in world.store.notifications(each.id)]
    assert {notification.state.value for notification in notifications} <= {
        "told",
        "muted",
        "superseded",
    }
    assert all((n.delivery_id is not None) == (n.state.value == "told") for n in notifications)


TEMPLATE = Path(tempfile.mkdtemp()) / "empty.db"


def a_world(folder: str, routing: NotificationPolicy) -> DispatchSimulation:
    if not TEMPLATE.exists():
        open_database(f"sqlite:///{TEMPLATE}").dispose()
    file = Path(folder) / "longwatch.db"
    shutil.copy(TEMPLATE, file)
    return DispatchSimulation(engine=open_database(f"sqlite:///{file}"), routing=routing)


def run(name: str, steps: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = a_world(folder, ROUTINGS[name])
        try:
            for step in steps:
                world.do(step)
            world.settle()
            check(world)
        finally:
            world.engine.dispose()


GIVEN = given(st.sampled_from(sorted(ROUTINGS)), st.lists(STEPS, max_size=25))


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@GIVEN
def test_who_fires_is_told_and_who_is_muted_is_not(
    name: str, steps: list[tuple[object, ...]]
) -> None:
    run(name, steps)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@GIVEN
def test_the_same_at_length(name: str, steps: list[tuple[object, ...]]) -> None:
    run(name, steps)
