"""The router on a real database: what receivers are told, and what is left after a crash."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from routing_fixtures import AT_ONCE, acknowledged, an_open, change, resolved, route_all
from sqlalchemy import Engine, event
from storage_fixtures import BY_ADA, START, by_rule

from alerts.heartbeat import Heartbeat
from alerts.hours import Hours
from alerts.messages import MAX_BODY_BYTES
from alerts.pulse import Pulse
from alerts.reading import READER
from alerts.router import Router
from alerts.routing import Rate, Routing
from alerts.silences import Inhibition, Maintenance
from storage.acts import How
from storage.incidents import IncidentStore
from storage.log import FINDINGS
from storage.memory_log import MemoryLog
from storage.records import DeliveryState, Incident, IncidentState
from storage.routing import News
from storage.silences import SilenceRow, SilenceStore
from storage.wire import MAX_EVIDENCE, MAX_NAME

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
SCHEMA = json.loads((Path(__file__).parent.parent / "alerts/schemas/message.v3.json").read_text())
USUAL = Routing()


def messages(store: IncidentStore) -> list[dict[str, Any]]:
    """Return what was written, oldest first; each fits the schema and is small enough."""
    bodies = [store.body(delivery) for delivery in store.deliveries()]
    told = [json.loads(body) for body in bodies]
    for body, message in zip(bodies, told, strict=True):
        assert len(body) < MAX_BODY_BYTES
        jsonschema.validate(message, SCHEMA, format_checker=jsonschema.FormatChecker())
    return told


def summary(store: IncidentStore) -> list[tuple[str, int]]:
    return [(each["type"], len(each["data"]["incidents"])) for each in messages(store)]


def states(store: IncidentStore) -> list[tuple[str, str, str | None]]:
    notices = [notice for each in store.incidents() for notice in store.notices(each.id)]
    return [(notice.kind.value, notice.state.value, notice.why) for notice in notices]


def silence(store: IncidentStore, *matchers: str, minutes: int = 60, number: int = 1) -> UUID:
    row = SilenceRow(
        id=UUID(int=number),
        matchers=matchers,
        start=START,
        end=START + minutes * MINUTE,
        who="ann",
        comment="",
    )
    SilenceStore(store).add(row, How.CLI)
    return row.id


def test_message_tells_a_group_whole(store: IncidentStore) -> None:
    first = change(store, an_open(1))
    change(store, an_open(2))
    assert route_all(store, START) == 1
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
    told = message["data"]["incidents"]
    assert len(told) == 2
    assert str(first.id) in {each["id"] for each in told}
    assert told[0]["summary"] == "bag-left on dock"


def a_medium(number: int = 1, camera: str = "dock", rule: str = "bag-left") -> Incident:
    return replace(an_open(number, camera, rule), severity="medium")


def test_group_waits_then_goes_every_interval_then_repeats(store: IncidentStore) -> None:
    router = Router(store, USUAL)
    change(store, a_medium(1))
    assert [router.run_once(START + n * SECOND) for n in (0, 29, 30, 31)] == [0, 0, 1, 0]
    change(store, a_medium(2))
    told_at = START + 30 * SECOND
    assert router.run_once(told_at + 5 * MINUTE - SECOND) == 0
    assert router.run_once(told_at + 5 * MINUTE) == 1
    later = told_at + 5 * MINUTE
    written = [n for n in range(1, 100) if router.run_once(later + n * 5 * MINUTE)]
    assert written == [48, 96]  # every 4 h
    assert [count for _, count in summary(store)] == [1, 2, 2, 2]


def test_group_ends_after_its_last_end_was_told_and_may_begin_anew(store: IncidentStore) -> None:
    opened = change(store, an_open(1))
    route_all(store, START)
    change(store, resolved(opened), opened)
    assert route_all(store, START + MINUTE) == 1
    assert route_all(store, START + 9 * HOUR) == 0
    for delivery in store.deliveries():
        store.mark(replace(delivery, state=DeliveryState.DELIVERED, attempts=1))
    change(store, an_open(2))
    assert route_all(store, START + 9 * HOUR) == 1
    assert summary(store) == [
        ("incidents.firing", 1),
        ("incidents.resolved", 1),
        ("incidents.firing", 1),
    ]
    assert sorted(each.number for each in store.deliveries()) == [1, 2, 3]


def test_acknowledged_is_told_once_and_not_repeated(store: IncidentStore) -> None:
    opened = change(store, an_open(1))
    route_all(store, START)
    taken = change(store, acknowledged(opened), opened)
    assert [route_all(store, START + n * HOUR) for n in range(1, 20)] == [1] + [0] * 18
    assert messages(store)[-1]["data"]["incidents"][0]["state"] == "acknowledged"
    change(store, resolved(taken), taken)
    assert route_all(store, START + 20 * HOUR) == 1


def test_receivers_are_told_each_in_its_way(store: IncidentStore) -> None:
    slow = replace(AT_ONCE.default, group_wait=MINUTE)
    routing = replace(AT_ONCE, receivers={"mail": slow})
    change(store, an_open(1), receivers=("soc", "mail"), routing=routing)
    assert [route_all(store, START + n * MINUTE, routing) for n in (0, 1)] == [1, 1]
    assert [each.receiver for each in store.deliveries()] == ["soc", "mail"]


def test_silenced_is_told_when_the_silence_ends_if_it_still_fires(store: IncidentStore) -> None:
    silence(store, "camera=dock")
    over, lasting = change(store, an_open(1)), change(store, an_open(2))
    assert route_all(store, START) == 0
    change(store, resolved(over), over)
    assert route_all(store, START + MINUTE) == 0
    assert route_all(store, START + 59 * MINUTE) == 0
    assert route_all(store, START + HOUR) == 1
    (message,) = messages(store)
    assert [each["id"] for each in message["data"]["incidents"]] == [str(lasting.id)]
    why = "silence 00000000 by ann"
    assert sorted(states(store), key=str) == [
        ("opened", "muted", why),
        ("opened", "told", None),
        ("resolved", "muted", why),
    ]


def test_silence_that_is_expired_by_hand_wakes_what_it_muted(store: IncidentStore) -> None:
    id = silence(store, "rule=~bag.*")
    change(store, an_open(1), routing=USUAL)
    assert Router(store, USUAL).run_once(START + MINUTE) == 0
    assert SilenceStore(store).expire(id, START + 2 * MINUTE, BY_ADA)
    assert not SilenceStore(store).expire(id, START + 2 * MINUTE, BY_ADA)
    assert Router(store, USUAL).run_once(START + 2 * MINUTE) == 1


def test_end_of_what_was_told_is_held_by_a_silence_and_not_lost(store: IncidentStore) -> None:
    opened = change(store, an_open(1))
    route_all(store, START)
    silence(store, "camera=dock")
    change(store, resolved(opened), opened)
    assert route_all(store, START + MINUTE) == 0
    assert route_all(store, START + HOUR) == 1
    assert summary(store) == [("incidents.firing", 1), ("incidents.resolved", 1)]


def test_maintenance_mutes(store: IncidentStore) -> None:
    hours = Hours.parse("00:00-09:00 UTC")  # START is 08:00
    routing = replace(AT_ONCE, maintenance=(Maintenance(cameras=("do*",), active=hours),))
    change(store, an_open(1))
    assert [route_all(store, START + n * HOUR, routing) for n in (0, 1)] == [0, 1]


def test_camera_that_goes_down_mutes_what_already_waits_in_a_group(store: IncidentStore) -> None:
    inhibit = Inhibition(source=frozenset({"camera-down"}))
    routing = replace(USUAL, inhibit=(inhibit,), health=frozenset({"camera-down"}))
    router = Router(store, routing)
    left = change(store, a_medium(1), routing=routing)
    yard = change(store, a_medium(1, "yard"), routing=routing)
    assert router.run_once(START + 10 * SECOND) == 0
    down = change(store, a_medium(1, "dock", "camera-down"), routing=routing)
    assert router.run_once(START + MINUTE) == 2
    kinds = {each["type"]: each["data"]["incidents"][0]["id"] for each in messages(store)}
    assert kinds == {"health": str(down.id), "incidents.firing": str(yard.id)}
    (notice,) = store.notices(left.id)
    assert (notice.state, notice.why) == (
        "muted",
        f"inhibited by camera-down on dock ({str(down.id)[:8]})",
    )
    change(store, resolved(down), down, routing=routing)
    assert router.run_once(START + 6 * MINUTE) == 2
    assert store.notices(left.id)[0].state == "told"


def open_all(store: IncidentStore, incidents: list[Incident]) -> None:
    with store.transaction() as ledger:
        ledger.save([by_rule(incident) for incident in incidents])
        for incident in incidents:
            ledger.routing.notify(incident, News.OPENED, USUAL.groups_of(incident, ["soc"]))


@pytest.mark.slow
def test_storm_of_one_camera_makes_a_handful_of_messages(store: IncidentStore) -> None:
    router = Router(store, USUAL)
    opened = [an_open(number) for number in range(1000)]
    for begin in range(0, 1000, 50):
        open_all(store, opened[begin : begin + 50])
        router.run_once(START + begin * 60 * SECOND / 1000)
    for minute in range(1, 12):
        router.run_once(START + minute * MINUTE)
    told = messages(store)
    numbers = {delivery.number for delivery in store.deliveries()}
    print(f"storm: 1,000 incidents of one camera in a minute, {len(numbers)} messages")
    assert 1 <= len(numbers) <= 3
    last = [each["data"] for each in told[-told[-1]["data"]["parts"] :]]
    assert [each["part"] for each in last] == list(range(1, len(last) + 1))
    ids = [incident["id"] for each in last for incident in each["incidents"]]
    assert sorted(ids) == sorted(str(each.id) for each in opened)
    notices = [notice for each in opened[::20] for notice in store.notices(each.id)]
    assert {notice.state.value for notice in notices} == {"told"}


def test_worst_goes_first_where_messages_are_few(store: IncidentStore) -> None:
    default = replace(AT_ONCE.default, rate_limit=Rate(count=1, per=HOUR))
    routing = replace(AT_ONCE, default=default)
    for number, severity in enumerate(["low", "critical", "medium"]):
        change(store, replace(an_open(number, severity), severity=severity))
    for hours in range(3):
        assert route_all(store, START + hours * HOUR, routing) == 1
    told = [each["data"]["group"]["camera"] for each in messages(store)]
    assert told == ["critical", "medium", "low"]


def test_largest_incidents_leave_every_part_small(store: IncidentStore) -> None:
    widest = "\U0001f400" * MAX_NAME
    evidence = "/".join([f"{widest}@2026-11-22T08:00:00.250+00:00", widest, widest])
    for number in range(5):
        wide = replace(
            an_open(number, camera=widest, rule=widest),
            severity=widest,
            evidence=(evidence,) * MAX_EVIDENCE,
            revision=1,
        )
        change(store, wide)
    assert route_all(store, START) == 1
    told = messages(store)
    assert [len(each["data"]["incidents"]) for each in told] == [3, 2]
    assert [each["data"]["part"] for each in told] == [1, 2]
    assert {each["data"]["parts"] for each in told} == {2}


def test_message_that_failed_is_superseded_and_loses_nothing(store: IncidentStore) -> None:
    opened = change(store, an_open(1))
    route_all(store, START)
    change(store, resolved(opened), opened)
    route_all(store, START + MINUTE)
    first, second = sorted(store.deliveries(), key=lambda each: each.number)
    store.mark(replace(first, state=DeliveryState.DELIVERED, attempts=1))
    store.mark(replace(second, attempts=1, next_at=START + HOUR))
    change(store, an_open(2))
    assert route_all(store, START + 2 * MINUTE) == 1
    third = store.next_delivery("soc", START + 2 * MINUTE)
    assert third is not None
    assert third.number == 3
    told = json.loads(store.body(third))["data"]["incidents"]
    assert [each["state"] for each in told] == ["open", "resolved"]
    ended = store.notices(opened.id)[-1]
    assert (ended.state, ended.delivery_id) == ("told", third.id)
    assert {each.number: each.state for each in store.deliveries()} == {
        1: DeliveryState.DELIVERED,
        2: DeliveryState.SUPERSEDED,
        3: DeliveryState.WAITING,
    }


def test_notice_of_a_superseded_message_is_not_marked_as_told(store: IncidentStore) -> None:
    opened = change(store, an_open(1))
    route_all(store, START)
    (first,) = store.deliveries()
    store.mark(replace(first, attempts=1, next_at=START + HOUR))
    change(store, resolved(opened), opened)
    route_all(store, START + MINUTE)
    earlier, latest = store.notices(opened.id)
    assert (earlier.kind, earlier.state) == ("opened", "superseded")
    assert (latest.kind, latest.state) == ("resolved", "told")


def test_what_was_in_a_superseded_message_alone_waits_to_be_told_again(
    store: IncidentStore,
) -> None:
    opened = change(store, an_open(1))
    route_all(store, START)
    (first,) = store.deliveries()
    silence(store, f"rule={opened.rule}", "camera=dock", minutes=2)
    other = replace(an_open(2), rule_version="r9", severity="high")
    with store.transaction() as ledger:
        ledger.save([by_rule(other)])
        second = replace(first, id=UUID(int=77), number=2)
        ledger.deliveries.add(second, b"{}", {other.id: 1})
    store.mark(replace(first, attempts=1, next_at=START + HOUR))
    assert [notice.state for notice in store.notices(opened.id)] == ["waiting"]


def test_crash_at_any_statement_leaves_all_or_nothing(engine: Engine, store: IncidentStore) -> None:
    silence(store, "camera=yard")
    opened = change(store, an_open(1))
    change(store, an_open(2, "yard"))
    change(store, an_open(3))
    route_all(store, START)
    change(store, resolved(opened), opened)
    change(store, an_open(4))
    limited = Routing(default=replace(AT_ONCE.default, rate_limit=Rate(count=9, per=HOUR)))
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
            route_all(store, START + MINUTE, limited)
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
    assert route_all(store, START + MINUTE, limited) == 0
    assert everything(store)[0] == after[0]


class Crash(Exception):
    pass


def everything(store: IncidentStore) -> tuple[object, ...]:
    return store.deliveries(), states(store)


def test_heartbeat_comes_every_so_often_and_only_the_last_is_kept(store: IncidentStore) -> None:
    router = Router(
        store, AT_ONCE, Heartbeat(every=MINUTE, notify=("watchdog",)), Pulse(MemoryLog(), store)
    )
    begin = START.replace(second=0, microsecond=0)
    seconds = [0, 1, 59, 60, 61, 130]
    assert [router.run_once(begin + n * SECOND) for n in seconds] == [1, 0, 0, 1, 0, 1]
    assert [each["type"] for each in messages(store)] == ["heartbeat"] * 3
    for delivery in sorted(store.deliveries(), key=lambda each: each.number):
        store.mark(replace(delivery, state=DeliveryState.DELIVERED, attempts=1))
    assert router.run_once(begin + 10 * MINUTE) == 1
    assert [each.number for each in store.deliveries()] == [4]
    again = Router(
        store, AT_ONCE, Heartbeat(every=MINUTE, notify=("watchdog",)), Pulse(MemoryLog(), store)
    )
    assert again.run_once(begin + 10 * MINUTE + SECOND) == 0


def test_heart_stops_while_findings_wait_and_nobody_reads_them(store: IncidentStore) -> None:
    log = MemoryLog()
    beat = Heartbeat(every=SECOND, notify=("watchdog",))
    router = Router(store, AT_ONCE, beat, Pulse(log, store))
    assert router.run_once(START) == 1
    log.append(FINDINGS, "dock", b"1", b"2", b"3")
    assert [router.run_once(START + n * SECOND) for n in (1, 2, 3)] == [0, 0, 0]
    with store.transaction() as ledger:
        ledger.advance(READER, FINDINGS, 0, 1)
    assert router.run_once(START + 4 * SECOND) == 1
    assert router.run_once(START + 5 * SECOND) == 0
    with store.transaction() as ledger:
        ledger.advance(READER, FINDINGS, 1, 3)
    assert [router.run_once(START + n * SECOND) for n in (6, 7)] == [1, 1]


def test_what_people_do_is_told_to_those_who_had_a_notice(store: IncidentStore) -> None:
    opened = change(store, an_open(1), receivers=("soc", "guard"))
    route_all(store, START)
    taken = acknowledged(opened)
    with store.transaction() as ledger:
        ledger.save([by_rule(taken)])
        ledger.routing.notify_again(taken, News.ACKNOWLEDGED)
    assert route_all(store, START + MINUTE) == 2
    assert taken.state is IncidentState.ACKNOWLEDGED
