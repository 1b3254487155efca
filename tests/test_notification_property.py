"""What is marked as told is what left the house: for every kind of receiver, in any number."""

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.grouping import NotificationPolicy, RoutePolicy
from alerts.dispatch.rate_limit import MessageRate
from alerts.notify.apprise import AppriseReceiver
from alerts.notify.courier import Courier
from alerts.notify.pagerduty import PagerDuty
from alerts.notify.receivers import Receiver as AnyReceiver
from alerts.rules.lifecycle import change_kind
from kit.alerts.routing import an_open_incident, resolved
from kit.alerts.webhook_receiver import ALLOW_ALL, RecordingReceiver, a_webhook, run_receiver
from kit.storage.fixtures import by_rule
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.records.deliveries import DeliveryState
from storage.records.notifications import NotificationState
from storage.records.records import Incident
from test_routing_property import a_world

NOW = datetime.now(UTC)
NO_TIME, MINUTE = timedelta(), timedelta(minutes=1)
UUIDS = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
KINDS = ("webhook", "pagerduty", "apprise")
LABELS = st.one_of(
    st.sampled_from(["dock", "yard"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1),
    st.sampled_from('x\U0001f400"\n').flatmap(
        lambda each: st.integers(1, 9000).map(lambda length: each * length)
    ),
)


@dataclass(frozen=True, kw_only=True)
class IncidentStorm:
    """Incidents at once, and the route on which they are told."""

    kind: str
    count: int
    cameras: list[str]
    rules: list[str]
    group_by: tuple[str, ...]
    digest_after: int
    tokens: int
    over: int
    """How many of them are over before anybody is told."""
    minutes: int

    def incidents(self) -> list[Incident]:
        severities = ("low", "medium", "high", "critical")
        return [
            replace(
                an_open_incident(
                    n, self.cameras[n % len(self.cameras)], self.rules[n % len(self.rules)]
                ),
                severity=severities[n % 7 % 4],
                opened_at=NOW,
                first_seen_at=NOW,
            )
            for n in range(self.count)
        ]

    @property
    def is_soon_over(self) -> bool:
        """Return whether a digest holds all of it, or there are tokens for all groups."""
        groups = {tuple(getattr(each, n) for n in self.group_by) for each in self.incidents()}
        few = len(groups) <= min(self.digest_after, self.tokens)
        return few or (self.kind != "pagerduty" and len(groups) > self.digest_after)

    @property
    def routing(self) -> NotificationPolicy:
        route = RoutePolicy(
            group_by=self.group_by,
            group_wait=NO_TIME,
            rate_limit=MessageRate(count=self.tokens, per=self.tokens * MINUTE),
            digest_after=self.digest_after,
        )
        pagers = frozenset({"soc"} if self.kind == "pagerduty" else ())
        return NotificationPolicy(default=route, pagers=pagers)


def storms(most: int) -> st.SearchStrategy[IncidentStorm]:
    return st.builds(
        IncidentStorm,
        kind=st.sampled_from(KINDS),
        count=st.integers(1, most),
        cameras=st.lists(LABELS, min_size=1, max_size=40),
        rules=st.lists(LABELS, min_size=1, max_size=5),
        group_by=st.lists(st.sampled_from(["camera", "rule", "severity"]), unique=True).map(tuple),
        digest_after=st.integers(1, 50),
        tokens=st.integers(1, 60),
        over=st.integers(0, 20),
        minutes=st.integers(1, 12),
    )


@contextmanager
def listening(kind: str) -> Iterator[tuple[AnyReceiver, Callable[[], set[str]]]]:
    """Yield a receiver, and what tells the ids of the incidents that it got."""
    if kind == "apprise":
        texts: list[str] = []

        def run(*_: object, input: bytes, **__: object) -> subprocess.CompletedProcess[bytes]:
            texts.append(json.loads(input)["text"])
            expected = b'{"sent": true, "reason": "", "hint": ""}'
            return subprocess.CompletedProcess([], 0, stdout=expected, stderr=b"")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subprocess, "run", run)
            got = lambda: {id for text in texts for id in UUIDS.findall(text)}  # noqa: E731
            yield AppriseReceiver(name="soc", url="json://localhost"), got
        return
    with run_receiver(RecordingReceiver(status=202)) as receiver:
        bodies = lambda: (json.loads(post.body) for post in receiver.posts)  # noqa: E731
        if kind == "webhook":
            yield (
                a_webhook(receiver.url),
                lambda: {each["id"] for body in bodies() for each in body["data"]["incidents"]},
            )
        else:
            service = PagerDuty(
                name="soc", routing_key="k" * 32, url=receiver.url, egress=ALLOW_ALL
            )
            yield (
                service,
                lambda: {
                    body["dedup_key"]
                    for body in bodies()
                    if not body["dedup_key"].startswith("longwatch-")
                },
            )


def write(store: AlertStore, storm: IncidentStorm) -> list[Incident]:
    incidents, routing = storm.incidents(), storm.routing
    ended = [resolved(each, NOW) for each in incidents[: storm.over]]
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(each) for each in [*incidents, *ended]])
        for before, after in [(None, each) for each in incidents] + list(
            zip(incidents, ended, strict=False)
        ):
            news = change_kind(before, after)
            assert news is not None
            transaction.notifications.enqueue(after, news, routing.group_labels(after, ["soc"]))
    return incidents


def notified_ids(store: AlertStore) -> set[str]:
    marked = tables.notices.c.state == NotificationState.SENT
    return {
        row.incident_id for row in store.rows(select(tables.notices.c.incident_id).where(marked))
    }


def check(storm: IncidentStorm) -> int:
    """Compare after every minute; return how many deliveries it took."""
    with tempfile.TemporaryDirectory() as folder, listening(storm.kind) as (receiver, got):
        world = a_world(folder, storm.routing)
        try:
            incidents = write(world.store, storm)
            dispatcher, courier = (
                Dispatcher(world.store, storm.routing),
                Courier(world.store, [receiver]),
            )
            for minute in range(storm.minutes):
                dispatcher.run_once(NOW + minute * MINUTE)
                while courier.run_once(NOW + minute * MINUTE):
                    pass
                assert got() == notified_ids(world.store)
            deliveries = world.store.deliveries()
            assert {each.state for each in deliveries} <= {DeliveryState.DELIVERED}
            if storm.is_soon_over:
                assert got() == {str(each.id) for each in incidents}
            return len(deliveries)
        finally:
            world.engine.dispose()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(storms(60))
def test_what_is_marked_as_told_left_the_house(storm: IncidentStorm) -> None:
    check(storm)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(storms(400))
def test_the_same_at_length(storm: IncidentStorm) -> None:
    check(storm)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "group_by"),
    [*((kind, ("camera", "rule")) for kind in KINDS), ("webhook", ("severity",))],
)
def test_the_same_with_five_thousand(kind: str, group_by: tuple[str, ...]) -> None:
    storm = IncidentStorm(
        kind=kind,
        count=5000,
        cameras=[f"camera-{n}" for n in range(1000)],
        rules=[f"rule-{n}" for n in range(7)],
        group_by=group_by,
        digest_after=20,
        tokens=60,
        over=50,
        minutes=3,
    )
    print(kind, group_by, check(storm), "deliveries")
