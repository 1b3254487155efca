"""Many groups at once: digests, turns of cameras, borrowed tokens, and what waits for nothing."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event

from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.grouping import NotificationPolicy, RoutePolicy
from alerts.dispatch.messages import parse_message
from alerts.dispatch.muting import Inhibition
from alerts.dispatch.rate_limit import MessageRate
from alerts.notify.pagerduty import build_events
from kit.alerts.routing import AT_ONCE, an_open_incident, dispatch_all, resolved, save_and_notify
from kit.storage.fixtures import START, by_rule
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.notifications import ChangeKind, NotificationState, TokenBucket
from storage.records.records import Incident
from test_alerts_dispatcher import messages

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
RATE = MessageRate(count=60, per=HOUR)
LIMITED = NotificationPolicy(default=replace(AT_ONCE.default, rate_limit=RATE))
PAGED = replace(LIMITED, pagers=frozenset({"soc"}))
"""Nothing waits but for tokens."""


def opened(count: int, severity: str = "medium", begin: int = 0) -> list[Incident]:
    return [
        replace(an_open_incident(number, f"camera-{number:03}"), severity=severity)
        for number in range(begin, begin + count)
    ]


def open_all(store: AlertStore, incidents: Sequence[Incident], routing: NotificationPolicy) -> None:
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(incident) for incident in incidents])
        for incident in incidents:
            transaction.notifications.enqueue(
                incident, ChangeKind.OPENED, routing.group_labels(incident, ["soc"])
            )


def empty_bucket(store: AlertStore) -> None:
    with store.transaction() as transaction:
        transaction.notifications.save_bucket("soc", TokenBucket(tokens=0.0, at=START))


def tokens(store: AlertStore) -> float:
    with store.transaction() as transaction:
        bucket = transaction.notifications.bucket("soc")
    assert bucket is not None
    return bucket.tokens


def deliver_all(store: AlertStore) -> None:
    for delivery in store.deliveries():
        if delivery.state is DeliveryState.WAITING:
            store.record_outcome(replace(delivery, state=DeliveryState.DELIVERED, attempts=1))


def states(store: AlertStore) -> dict[str, set[str]]:
    """Return the cameras of which the newest notice is in each state."""
    found: dict[str, set[str]] = {}
    for incident in store.incidents():
        state = store.notifications(incident.id)[-1].state.value
        found.setdefault(state, set()).add(incident.camera)
    return found


def cameras(message: dict[str, Any]) -> list[str]:
    return [each["camera"] for each in message["data"]["incidents"]]


def test_digest_takes_the_place_of_more_groups_than_the_route_allows(store: AlertStore) -> None:
    incidents = [*opened(200), *opened(1, "critical", begin=200)]
    open_all(store, incidents, LIMITED)
    assert dispatch_all(store, START, LIMITED) == 1
    sent = messages(store)
    assert {each["type"] for each in sent} == {"incidents.digest"}
    assert [each["data"]["part"] for each in sent] == list(range(1, len(sent) + 1))
    assert len(sent) > 1
    counted = [incident for each in sent for incident in each["data"]["incidents"]]
    assert {each["id"] for each in counted} == {str(each.id) for each in incidents}
    assert counted[0]["severity"] == "critical"
    assert ["summary" in each for each in counted] == [True] * 10 + [False] * 191
    assert set(counted[-1]) == {"id", "camera", "rule", "severity", "state", "at"}
    assert tokens(store) == 59.0
    assert states(store) == {"told": {each.camera for each in incidents}}
    by_id = {delivery.id: store.delivery_body(delivery) or b"" for delivery in store.deliveries()}
    for incident in incidents:
        (notification,) = store.notifications(incident.id)
        assert notification.delivery_id is not None
        assert str(incident.id).encode() in by_id[notification.delivery_id]


def test_as_many_groups_as_the_route_allows_are_told_each_by_itself(store: AlertStore) -> None:
    open_all(store, opened(20), LIMITED)
    assert dispatch_all(store, START, LIMITED) == 20
    assert {each["type"] for each in messages(store)} == {"incidents.firing"}


def test_groups_of_a_digest_go_on_as_if_told(store: AlertStore) -> None:
    routing = NotificationPolicy(default=RoutePolicy(group_wait=timedelta()))
    incidents = opened(30)
    open_all(store, incidents, routing)
    dispatcher = Dispatcher(store, routing)
    assert dispatcher.run_once(START) == 1
    save_and_notify(store, resolved(incidents[0]), incidents[0], policy=routing)
    assert [dispatcher.run_once(START + n * MINUTE) for n in (1, 4, 5, 6)] == [0, 0, 1, 0]
    assert messages(store)[-1]["type"] == "incidents.resolved"
    assert dispatcher.run_once(START + 5 * HOUR) == 1  # what still fires is told again, together
    assert messages(store)[-1]["type"] == "incidents.digest"


def test_quiet_groups_that_are_due_make_no_digest(store: AlertStore) -> None:
    routing = NotificationPolicy(default=RoutePolicy(group_wait=timedelta()))
    open_all(store, opened(30), routing)
    dispatcher = Dispatcher(store, routing)
    assert dispatcher.run_once(START) == 1
    open_all(store, opened(1, begin=99), routing)
    assert dispatcher.run_once(START + 5 * MINUTE) == 1
    assert messages(store)[-1]["type"] == "incidents.firing"


def test_digests_of_a_receiver_come_once_a_minute(store: AlertStore) -> None:
    dispatcher = Dispatcher(store, LIMITED)
    for second in range(0, 70, 10):
        open_all(store, opened(30, begin=30 * second), LIMITED)
        dispatcher.run_once(START + second * SECOND)
    digests = [each for each in messages(store) if each["data"]["part"] == 1]
    assert [each["timestamp"] for each in digests] == [
        START.isoformat(),
        (START + MINUTE).isoformat(),
    ]
    assert states(store).keys() == {"told"}


def test_all_of_a_storm_is_told_within_minutes_although_tokens_are_few(
    store: AlertStore,
) -> None:
    empty_bucket(store)
    open_all(store, opened(300), LIMITED)
    dispatcher = Dispatcher(store, LIMITED)
    written = [dispatcher.run_once(START + n * 10 * SECOND) for n in range(8)]
    assert written == [0] * 6 + [1, 0]
    assert states(store).keys() == {"told"}


def test_receiver_without_a_token_is_not_looked_at(engine: Engine, store: AlertStore) -> None:
    empty_bucket(store)
    open_all(store, opened(300), LIMITED)
    dispatcher = Dispatcher(store, LIMITED)
    dispatcher.run_once(START)
    said: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    assert dispatcher.run_once(START + SECOND) == 0
    queries = [each for each in said if "groups" in each]
    assert len(queries) == 4
    assert not any("notices" in each for each in said)
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            plans = [explained(connection, each) for each in queries]
        assert not any("SCAN groups" in line for plan in plans for line in plan), plans


def test_look_at_a_group_and_a_turn_of_the_courier_scan_no_table_that_grows(
    engine: Engine, store: AlertStore
) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("the plans of a small table say nothing there")
    routing = replace(LIMITED, inhibitions=(Inhibition(source=frozenset({"camera-down"})),))
    open_all(store, opened(3), routing)
    said: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    assert dispatch_all(store, START, routing) == 3
    assert store.next_delivery("soc", START) is not None
    queries = {each for each in said if each.startswith(("SELECT", "UPDATE", "WITH"))}
    assert len(queries) > 10
    with engine.connect() as connection:
        plans = {each: explained(connection, each) for each in queries}
    for query, plan in plans.items():
        scanned = {line.split()[1] for line in plan if line.startswith("SCAN ")}
        assert not scanned & {table.name for table in tables.metadata.sorted_tables}, query


def explained(connection: Any, statement: str) -> list[str]:
    given = ("x",) * statement.count("?")
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
    return [row[-1] for row in rows]


@pytest.mark.parametrize("count", [1, 3])
def test_critical_incident_borrows_a_token_whatever_waits(store: AlertStore, count: int) -> None:
    empty_bucket(store)
    open_all(store, opened(300), LIMITED)
    dispatcher = Dispatcher(store, LIMITED)
    assert dispatcher.run_once(START) == 0
    open_all(store, opened(count, "critical", begin=900), LIMITED)
    assert dispatcher.run_once(START + SECOND) == 1
    (message,) = messages(store)
    assert sorted(cameras(message)) == [f"camera-{900 + n}" for n in range(count)]
    assert tokens(store) == pytest.approx(-1 + 1 / 60)
    assert store.deliveries()[0].priority == 0
    open_all(store, opened(1, "critical", begin=950), LIMITED)
    found = [dispatcher.run_once(START + n * SECOND) for n in (2, 30, 60, 61)]
    assert found == [0, 0, 0, 1]  # one a minute by borrowing
    assert cameras(messages(store)[-1]) == ["camera-950"]


def test_critical_delivery_goes_before_what_was_written_earlier(store: AlertStore) -> None:
    open_all(store, opened(300), LIMITED)
    dispatch_all(store, START, LIMITED)
    open_all(store, opened(1, "critical", begin=900), LIMITED)
    dispatch_all(store, START + SECOND, LIMITED)
    first = store.next_delivery("soc", START + SECOND)
    assert first is not None
    assert cameras(json.loads(store.delivery_body(first) or b"")) == ["camera-900"]


def test_cameras_are_served_in_turn(store: AlertStore) -> None:
    routing = replace(
        LIMITED, default=replace(LIMITED.default, rate_limit=MessageRate(count=1, per=MINUTE))
    )
    noisy = [
        replace(an_open_incident(n, "dock", f"rule-{n}"), severity="medium") for n in range(12)
    ]
    open_all(store, noisy, routing)
    others = [
        replace(each, severity="medium")
        for each in (an_open_incident(1, "yard"), an_open_incident(1, "gate"))
    ]
    open_all(store, others, routing)
    for minute in range(4):
        assert dispatch_all(store, START + minute * MINUTE, routing) == 1
    incidents = [cameras(each)[0] for each in messages(store)]
    assert sorted(incidents[:3]) == ["dock", "gate", "yard"]
    assert incidents[3] == "dock"


def test_cameras_are_served_in_turn_within_one_look(store: AlertStore) -> None:
    routing = replace(
        LIMITED, default=replace(LIMITED.default, rate_limit=MessageRate(count=3, per=HOUR))
    )
    noisy = [
        replace(an_open_incident(n, "dock", f"rule-{n}"), severity="medium") for n in range(12)
    ]
    others = [
        replace(each, severity="medium")
        for each in (an_open_incident(1, "yard"), an_open_incident(1, "gate"))
    ]
    open_all(store, [*noisy, *others], routing)
    assert dispatch_all(store, START, routing) == 3
    assert sorted(cameras(each)[0] for each in messages(store)) == ["dock", "gate", "yard"]


def test_worse_one_goes_first_whose_camera_was_served_lately(store: AlertStore) -> None:
    routing = replace(
        LIMITED, default=replace(LIMITED.default, rate_limit=MessageRate(count=1, per=MINUTE))
    )
    open_all(store, [an_open_incident(1, "dock", "a")], routing)
    assert dispatch_all(store, START, routing) == 1
    calm = [replace(an_open_incident(1, "yard"), severity="low")]
    open_all(store, [an_open_incident(2, "dock", "b"), *calm], routing)
    for minute in (1, 2):
        assert dispatch_all(store, START + minute * MINUTE, routing) == 1
    assert [cameras(each) for each in messages(store)] == [["dock"], ["dock"], ["yard"]]


def pages(store: AlertStore) -> list[list[dict[str, Any]]]:
    """Return the events of each message to PagerDuty."""
    found: dict[int, list[dict[str, Any]]] = {}

    def order(delivery: Delivery) -> tuple[int, int]:
        return delivery.number, delivery.part

    for delivery in sorted(store.deliveries(), key=order):
        events = build_events(parse_message(store.delivery_body(delivery) or b""))
        found.setdefault(delivery.number, []).extend(events)
    return list(found.values())


def test_pager_gets_the_ten_worst_and_one_alert_for_the_rest_until_none_waits(
    store: AlertStore,
) -> None:
    incidents = [*opened(42), *opened(3, "high", begin=42)]
    open_all(store, incidents, PAGED)
    dispatcher = Dispatcher(store, PAGED)
    assert dispatcher.run_once(START) == 1
    (first,) = pages(store)
    assert [each["event_action"] for each in first] == ["trigger"] * 11
    worst = {str(each.id) for each in incidents[-3:]}
    assert worst <= {each["dedup_key"] for each in first}
    assert first[-1]["payload"]["summary"].startswith("35 more incidents")
    told = {each["dedup_key"] for each in first[:-1]}
    marked = [
        each
        for each in incidents
        if store.notifications(each.id)[0].state is NotificationState.SENT
    ]
    assert {str(each.id) for each in marked} == told
    for minute in range(1, 9):
        deliver_all(store)
        dispatcher.run_once(START + minute * MINUTE)
    digests = [each for each in messages(store) if each["type"] == "incidents.digest"]
    assert [each["data"]["more"] for each in digests if each["data"]["part"] == 1] == [
        35,
        25,
        15,
        0,
    ]
    assert digests[-1]["data"]["incidents"] == []
    rest = {each["data"]["group"]["digest"] for each in digests}
    (end,) = build_events(parse_message(json.dumps(digests[-1]).encode()))
    assert (end["event_action"], end["dedup_key"]) == ("resolve", f"longwatch-digest-{rest.pop()}")
    assert not rest
    assert states(store).keys() == {"told"}
    assert dispatcher.run_once(START + HOUR) == 0


def test_pager_hears_of_a_group_in_pieces(store: AlertStore) -> None:
    default = RoutePolicy(group_by=("severity",), group_wait=timedelta(), digest_after=1)
    routing = NotificationPolicy(default=default, pagers=frozenset({"soc"}))
    open_all(store, [*opened(25), *opened(5, "low", begin=25)], routing)
    dispatcher = Dispatcher(store, routing)
    messages = []
    for minute in range(4):
        dispatcher.run_once(START + minute * MINUTE)
        deliver_all(store)
        messages.append(len(states(store).get("told", ())))
    assert messages == [10, 20, 30, 30]


def test_rest_of_a_pager_is_named_apart_in_every_database(store: AlertStore) -> None:
    with store.transaction() as transaction:
        rows = transaction.notifications
        first = rows.group(rows.ensure_digest_group("soc")).labels["digest"]
        assert rows.group(rows.ensure_digest_group("soc")).labels["digest"] == first
        assert rows.group(rows.ensure_digest_group("other")).labels["digest"] != first
