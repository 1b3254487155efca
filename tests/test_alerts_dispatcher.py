"""The router on a real database: what receivers are told, and what is left after a crash."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from sqlalchemy import Engine, event

from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.grouping import NotificationPolicy
from alerts.dispatch.heartbeat import Heartbeat
from alerts.dispatch.messages import MAX_BODY_BYTES
from alerts.dispatch.muting import Inhibition, Maintenance
from alerts.dispatch.rate_limit import MessageRate
from alerts.hours import Hours
from alerts.intake.cursor import READER
from alerts.intake.progress_check import ProgressCheck
from kit.alerts.routing import (
    AT_ONCE,
    acknowledged,
    an_open_incident,
    dispatch_all,
    resolved,
    save_and_notify,
)
from kit.storage.fixtures import BY_ADA, START, by_rule
from storage.db.alert_store import AlertStore
from storage.db.audit.actions import ActionOrigin
from storage.db.silences import SilenceRow, SilenceStore
from storage.log.memory_log import MemoryLog
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.notifications import ChangeKind
from storage.records.records import Incident, IncidentState
from storage.records.topics import FINDINGS
from storage.records.wire import MAX_EVIDENCE, MAX_NAME

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
SCHEMA = json.loads((Path(__file__).parent.parent / "alerts/schemas/message.v3.json").read_text())
USUAL = NotificationPolicy()


def messages(store: AlertStore) -> list[dict[str, Any]]:
    """Return what was written, oldest first; each fits the schema and is small enough."""
    bodies = [store.delivery_body(delivery) or b"" for delivery in store.deliveries()]
    told = [json.loads(body) for body in bodies]
    for body, message in zip(bodies, told, strict=True):
        assert len(body) < MAX_BODY_BYTES
        jsonschema.validate(message, SCHEMA, format_checker=jsonschema.FormatChecker())
    return told


def summary(store: AlertStore) -> list[tuple[str, int]]:
    return [(each["type"], len(each["data"]["incidents"])) for each in messages(store)]


def states(store: AlertStore) -> list[tuple[str, str, str | None]]:
    notifications = [
        notification for each in store.incidents() for notification in store.notifications(each.id)
    ]
    return [
        (notification.kind.value, notification.state.value, notification.mute_reason)
        for notification in notifications
    ]


def silence(store: AlertStore, *matchers: str, minutes: int = 60, number: int = 1) -> UUID:
    row = SilenceRow(
        id=UUID(int=number),
        matchers=matchers,
        start=START,
        end=START + minutes * MINUTE,
        who="ann",
        comment="",
    )
    SilenceStore(store).add(row, ActionOrigin.CLI)
    return row.id


def test_message_tells_a_group_whole(store: AlertStore) -> None:
    first = save_and_notify(store, an_open_incident(1))
    save_and_notify(store, an_open_incident(2))
    assert dispatch_all(store, START) == 1
    (message,) = messages(store)
    assert message == {
        "version": 3,
        "type": "incidents.firing",
        "timestamp": START.isoformat(),
        "data": {
            "receiver": "soc",
            "group": {"camera": "dock", "rule": "bag-left"},
            "part": 1,
            "parts": 1,
            "incidents": message["data"]["incidents"],
        },
    }
    incidents = message["data"]["incidents"]
    assert len(incidents) == 2
    assert str(first.id) in {each["id"] for each in incidents}
    assert incidents[0]["summary"] == "bag-left on dock"


def a_medium(number: int = 1, camera: str = "dock", rule: str = "bag-left") -> Incident:
    return replace(an_open_incident(number, camera, rule), severity="medium")


def test_group_waits_then_goes_every_interval_then_repeats(store: AlertStore) -> None:
    dispatcher = Dispatcher(store, USUAL)
    save_and_notify(store, a_medium(1))
    assert [dispatcher.run_once(START + n * SECOND) for n in (0, 29, 30, 31)] == [0, 0, 1, 0]
    save_and_notify(store, a_medium(2))
    told_at = START + 30 * SECOND
    assert dispatcher.run_once(told_at + 5 * MINUTE - SECOND) == 0
    assert dispatcher.run_once(told_at + 5 * MINUTE) == 1
    later = told_at + 5 * MINUTE
    written = [n for n in range(1, 100) if dispatcher.run_once(later + n * 5 * MINUTE)]
    assert written == [48, 96]  # every 4 h
    assert [count for _, count in summary(store)] == [1, 2, 2, 2]


def test_group_ends_after_its_last_end_was_told_and_may_begin_anew(store: AlertStore) -> None:
    opened = save_and_notify(store, an_open_incident(1))
    dispatch_all(store, START)
    save_and_notify(store, resolved(opened), opened)
    assert dispatch_all(store, START + MINUTE) == 1
    assert dispatch_all(store, START + 9 * HOUR) == 0
    for delivery in store.deliveries():
        store.record_outcome(replace(delivery, state=DeliveryState.DELIVERED, attempts=1))
    save_and_notify(store, an_open_incident(2))
    assert dispatch_all(store, START + 9 * HOUR) == 1
    assert summary(store) == [
        ("incidents.firing", 1),
        ("incidents.resolved", 1),
        ("incidents.firing", 1),
    ]
    assert sorted(each.number for each in store.deliveries()) == [1, 2, 3]


def test_acknowledged_is_told_once_and_not_repeated(store: AlertStore) -> None:
    opened = save_and_notify(store, an_open_incident(1))
    dispatch_all(store, START)
    taken = save_and_notify(store, acknowledged(opened), opened)
    assert [dispatch_all(store, START + n * HOUR) for n in range(1, 20)] == [1] + [0] * 18
    assert messages(store)[-1]["data"]["incidents"][0]["state"] == "acknowledged"
    save_and_notify(store, resolved(taken), taken)
    assert dispatch_all(store, START + 20 * HOUR) == 1


def test_receivers_are_told_each_in_its_way(store: AlertStore) -> None:
    slow = replace(AT_ONCE.default, group_wait=MINUTE)
    routing = replace(AT_ONCE, receivers={"mail": slow})
    save_and_notify(store, an_open_incident(1), receivers=("soc", "mail"), policy=routing)
    assert [dispatch_all(store, START + n * MINUTE, routing) for n in (0, 1)] == [1, 1]
    assert [each.receiver for each in store.deliveries()] == ["soc", "mail"]


def test_silenced_is_told_when_the_silence_ends_if_it_still_fires(store: AlertStore) -> None:
    silence(store, "camera=dock")
    over, lasting = (
        save_and_notify(store, an_open_incident(1)),
        save_and_notify(store, an_open_incident(2)),
    )
    assert dispatch_all(store, START) == 0
    save_and_notify(store, resolved(over), over)
    assert dispatch_all(store, START + MINUTE) == 0
    assert dispatch_all(store, START + 59 * MINUTE) == 0
    assert dispatch_all(store, START + HOUR) == 1
    (message,) = messages(store)
    assert [each["id"] for each in message["data"]["incidents"]] == [str(lasting.id)]
    why = "silence 00000000 by ann"
    assert sorted(states(store), key=str) == [
        ("opened", "muted", why),
        ("opened", "told", None),
        ("resolved", "muted", why),
    ]


def test_silence_that_is_expired_by_hand_wakes_what_it_muted(store: AlertStore) -> None:
    id = silence(store, "rule=~bag.*")
    save_and_notify(store, an_open_incident(1), policy=USUAL)
    assert Dispatcher(store, USUAL).run_once(START + MINUTE) == 0
    assert SilenceStore(store).expire(id, START + 2 * MINUTE, BY_ADA)
    assert not SilenceStore(store).expire(id, START + 2 * MINUTE, BY_ADA)
    assert Dispatcher(store, USUAL).run_once(START + 2 * MINUTE) == 1


def test_end_of_what_was_told_is_held_by_a_silence_and_not_lost(store: AlertStore) -> None:
    opened = save_and_notify(store, an_open_incident(1))
    dispatch_all(store, START)
    silence(store, "camera=dock")
    save_and_notify(store, resolved(opened), opened)
    assert dispatch_all(store, START + MINUTE) == 0
    assert dispatch_all(store, START + HOUR) == 1
    assert summary(store) == [("incidents.firing", 1), ("incidents.resolved", 1)]


def test_maintenance_mutes(store: AlertStore) -> None:
    hours = Hours.parse("00:00-09:00 UTC")  # START is 08:00
    routing = replace(AT_ONCE, maintenance=(Maintenance(cameras=("do*",), active=hours),))
    save_and_notify(store, an_open_incident(1))
    assert [dispatch_all(store, START + n * HOUR, routing) for n in (0, 1)] == [0, 1]


def test_camera_that_goes_down_mutes_what_already_waits_in_a_group(store: AlertStore) -> None:
    inhibit = Inhibition(source=frozenset({"camera-down"}))
    routing = replace(USUAL, inhibitions=(inhibit,), health_rules=frozenset({"camera-down"}))
    dispatcher = Dispatcher(store, routing)
    left = save_and_notify(store, a_medium(1), policy=routing)
    yard = save_and_notify(store, a_medium(1, "yard"), policy=routing)
    assert dispatcher.run_once(START + 10 * SECOND) == 0
    down = save_and_notify(store, a_medium(1, "dock", "camera-down"), policy=routing)
    assert dispatcher.run_once(START + MINUTE) == 2
    kinds = {each["type"]: each["data"]["incidents"][0]["id"] for each in messages(store)}
    assert kinds == {"health": str(down.id), "incidents.firing": str(yard.id)}
    (notification,) = store.notifications(left.id)
    assert (notification.state, notification.mute_reason) == (
        "muted",
        f"inhibited by camera-down on dock ({str(down.id)[:8]})",
    )
    save_and_notify(store, resolved(down), down, policy=routing)
    assert dispatcher.run_once(START + 6 * MINUTE) == 2
    assert store.notifications(left.id)[0].state == "told"


def open_all(store: AlertStore, incidents: list[Incident]) -> None:
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(incident) for incident in incidents])
        for incident in incidents:
            transaction.notifications.enqueue(
                incident, ChangeKind.OPENED, USUAL.group_labels(incident, ["soc"])
            )


@pytest.mark.slow
def test_storm_of_one_camera_makes_a_handful_of_messages(store: AlertStore) -> None:
    dispatcher = Dispatcher(store, USUAL)
    opened = [an_open_incident(number) for number in range(1000)]
    for begin in range(0, 1000, 50):
        open_all(store, opened[begin : begin + 50])
        dispatcher.run_once(START + begin * 60 * SECOND / 1000)
    for minute in range(1, 12):
        dispatcher.run_once(START + minute * MINUTE)
    sent = messages(store)
    numbers = {delivery.number for delivery in store.deliveries()}
    print(f"storm: 1,000 incidents of one camera in a minute, {len(numbers)} messages")
    assert 1 <= len(numbers) <= 3
    last = [each["data"] for each in sent[-sent[-1]["data"]["parts"] :]]
    assert [each["part"] for each in last] == list(range(1, len(last) + 1))
    ids = [incident["id"] for each in last for incident in each["incidents"]]
    assert sorted(ids) == sorted(str(each.id) for each in opened)
    notifications = [
        notification for each in opened[::20] for notification in store.notifications(each.id)
    ]
    assert {notification.state.value for notification in notifications} == {"told"}


def test_worst_goes_first_where_messages_are_few(store: AlertStore) -> None:
    default = replace(AT_ONCE.default, rate_limit=MessageRate(count=1, per=HOUR))
    routing = replace(AT_ONCE, default=default)
    for number, severity in enumerate(["low", "critical", "medium"]):
        save_and_notify(store, replace(an_open_incident(number, severity), severity=severity))
    for hours in range(3):
        assert dispatch_all(store, START + hours * HOUR, routing) == 1
    incidents = [each["data"]["group"]["camera"] for each in messages(store)]
    assert incidents == ["critical", "medium", "low"]


def test_largest_incidents_leave_every_part_small(store: AlertStore) -> None:
    widest = "\U0001f400" * MAX_NAME
    evidence = "/".join([f"{widest}@2026-11-22T08:00:00.250+00:00", widest, widest])
    for number in range(5):
        wide = replace(
            an_open_incident(number, camera=widest, rule=widest),
            severity=widest,
            evidence=(evidence,) * MAX_EVIDENCE,
            revision=1,
        )
        save_and_notify(store, wide)
    assert dispatch_all(store, START) == 1
    sent = messages(store)
    assert [len(each["data"]["incidents"]) for each in sent] == [3, 2]
    assert [each["data"]["part"] for each in sent] == [1, 2]
    assert {each["data"]["parts"] for each in sent} == {2}


def test_message_that_failed_is_superseded_and_loses_nothing(store: AlertStore) -> None:
    opened = save_and_notify(store, an_open_incident(1))
    dispatch_all(store, START)
    save_and_notify(store, resolved(opened), opened)
    dispatch_all(store, START + MINUTE)
    first, second = sorted(store.deliveries(), key=lambda each: each.number)
    store.record_outcome(replace(first, state=DeliveryState.DELIVERED, attempts=1))
    store.record_outcome(replace(second, attempts=1, next_at=START + HOUR))
    save_and_notify(store, an_open_incident(2))
    assert dispatch_all(store, START + 2 * MINUTE) == 1
    third = store.next_delivery("soc", START + 2 * MINUTE)
    assert third is not None
    assert third.number == 3
    incidents = json.loads(store.delivery_body(third) or b"")["data"]["incidents"]
    assert [each["state"] for each in incidents] == ["open", "resolved"]
    ended = store.notifications(opened.id)[-1]
    assert (ended.state, ended.delivery_id) == ("told", third.id)
    assert {each.number: each.state for each in store.deliveries()} == {
        1: DeliveryState.DELIVERED,
        2: DeliveryState.SUPERSEDED,
        3: DeliveryState.WAITING,
    }


def test_notice_of_a_superseded_message_is_not_marked_as_told(store: AlertStore) -> None:
    opened = save_and_notify(store, an_open_incident(1))
    dispatch_all(store, START)
    (first,) = store.deliveries()
    store.record_outcome(replace(first, attempts=1, next_at=START + HOUR))
    save_and_notify(store, resolved(opened), opened)
    dispatch_all(store, START + MINUTE)
    earlier, latest = store.notifications(opened.id)
    assert (earlier.kind, earlier.state) == ("opened", "superseded")
    assert (latest.kind, latest.state) == ("resolved", "told")


def test_what_was_in_a_superseded_message_alone_waits_to_be_told_again(
    store: AlertStore,
) -> None:
    opened = save_and_notify(store, an_open_incident(1))
    dispatch_all(store, START)
    (first,) = store.deliveries()
    silence(store, f"rule={opened.rule}", "camera=dock", minutes=2)
    other = replace(an_open_incident(2), rule_version="r9", severity="high")
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(other)])
        second = replace(first, id=UUID(int=77), number=2)
        transaction.deliveries.add(second, b"{}", {other.id: 1})
    store.record_outcome(replace(first, attempts=1, next_at=START + HOUR))
    assert [notification.state for notification in store.notifications(opened.id)] == ["waiting"]


def test_crash_at_any_statement_leaves_all_or_nothing(engine: Engine, store: AlertStore) -> None:
    silence(store, "camera=yard")
    opened = save_and_notify(store, an_open_incident(1))
    save_and_notify(store, an_open_incident(2, "yard"))
    save_and_notify(store, an_open_incident(3))
    dispatch_all(store, START)
    save_and_notify(store, resolved(opened), opened)
    save_and_notify(store, an_open_incident(4))
    limited = NotificationPolicy(
        default=replace(AT_ONCE.default, rate_limit=MessageRate(count=9, per=HOUR))
    )
    before = everything(store)
    fail_at, count = 0, 0

    def fail(*_: object) -> None:
        nonlocal count
        count += 1
        if count == fail_at:
            raise Crash

    event.listen(engine, "before_cursor_execute", fail)
    while True:
        fail_at, count = fail_at + 1, 0
        try:
            dispatch_all(store, START + MINUTE, limited)
        except Crash:
            fail_at, kept = -1, fail_at
            assert everything(store) == before, f"torn at statement {kept}"
            fail_at = kept
            continue
        break
    fail_at = -1
    print(f"a look of the router: {count} statements, each failed once")
    assert count > 10
    after = everything(store)
    assert len(after[0]) == len(before[0]) + 1
    assert dispatch_all(store, START + MINUTE, limited) == 0
    assert everything(store)[0] == after[0]


class Crash(Exception):
    pass


def everything(store: AlertStore) -> tuple[list[Delivery], object]:
    return store.deliveries(), states(store)


def test_heartbeat_comes_every_so_often_and_only_the_last_is_kept(store: AlertStore) -> None:
    dispatcher = Dispatcher(
        store,
        AT_ONCE,
        Heartbeat(every=MINUTE, notify=("watchdog",)),
        ProgressCheck(MemoryLog(), store),
    )
    begin = START.replace(second=0, microsecond=0)
    seconds = [0, 1, 59, 60, 61, 130]
    assert [dispatcher.run_once(begin + n * SECOND) for n in seconds] == [1, 0, 0, 1, 0, 1]
    assert [each["type"] for each in messages(store)] == ["heartbeat"] * 3
    for delivery in sorted(store.deliveries(), key=lambda each: each.number):
        store.record_outcome(replace(delivery, state=DeliveryState.DELIVERED, attempts=1))
    assert dispatcher.run_once(begin + 10 * MINUTE) == 1
    assert [each.number for each in store.deliveries()] == [4]
    again = Dispatcher(
        store,
        AT_ONCE,
        Heartbeat(every=MINUTE, notify=("watchdog",)),
        ProgressCheck(MemoryLog(), store),
    )
    assert again.run_once(begin + 10 * MINUTE + SECOND) == 0


def test_heart_stops_while_findings_wait_and_nobody_reads_them(store: AlertStore) -> None:
    log = MemoryLog()
    beat = Heartbeat(every=SECOND, notify=("watchdog",))
    dispatcher = Dispatcher(store, AT_ONCE, beat, ProgressCheck(log, store))
    assert dispatcher.run_once(START) == 1
    log.append(FINDINGS, "dock", b"1", b"2", b"3")
    assert [dispatcher.run_once(START + n * SECOND) for n in (1, 2, 3)] == [0, 0, 0]
    with store.transaction() as transaction:
        transaction.advance_offset(READER, FINDINGS, 0, 1)
    assert dispatcher.run_once(START + 4 * SECOND) == 1
    assert dispatcher.run_once(START + 5 * SECOND) == 0
    with store.transaction() as transaction:
        transaction.advance_offset(READER, FINDINGS, 1, 3)
    assert [dispatcher.run_once(START + n * SECOND) for n in (6, 7)] == [1, 1]


def test_what_people_do_is_told_to_those_who_had_a_notice(store: AlertStore) -> None:
    opened = save_and_notify(store, an_open_incident(1), receivers=("soc", "guard"))
    dispatch_all(store, START)
    taken = acknowledged(opened)
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(taken)])
        transaction.notifications.enqueue_followup(taken, ChangeKind.ACKNOWLEDGED)
    assert dispatch_all(store, START + MINUTE) == 2
    assert taken.state is IncidentState.ACKNOWLEDGED
