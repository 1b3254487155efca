"""Messages in parts: what may be sent before what, and who tells what was in a failed one."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jsonschema
from alerts_fixtures import Receiver, a_webhook, receiving
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_fixtures import AT_ONCE, an_open, change, resolved, route_all
from sqlalchemy import Engine
from storage_fixtures import BY_ADA, START
from test_alerts_router import SCHEMA
from test_alerts_storms import open_all, opened

from alerts.courier import Courier
from alerts.heartbeat import Heartbeat
from alerts.messages import FIRING, MAX_BODY_BYTES, read_message, write_message
from alerts.pulse import Pulse
from alerts.router import Router
from alerts.routing import Routing
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.memory_log import MemoryLog
from storage.outbox import Outbox
from storage.records import Delivery, DeliveryState
from storage.routing import Group, NoticeState
from storage.wire import incident_fields

MINUTE = timedelta(minutes=1)
TOGETHER = Routing(default=replace(AT_ONCE.default, group_by=()))
DIGESTS = Routing(default=replace(AT_ONCE.default, digest_after=1))
WAITING, SUPERSEDED = DeliveryState.WAITING, DeliveryState.SUPERSEDED


def parts(store: IncidentStore, number: int) -> list[Delivery]:
    found = [each for each in store.deliveries() if each.number == number]
    return sorted(found, key=lambda each: each.part)


def failed(store: IncidentStore, delivery: Delivery) -> Delivery:
    after = replace(delivery, attempts=1, next_at=START + timedelta(hours=1))
    store.mark(after)
    return after


def delivered(store: IncidentStore, delivery: Delivery) -> None:
    store.mark(replace(delivery, state=DeliveryState.DELIVERED, attempts=1))


def ids(store: IncidentStore, delivery: Delivery) -> set[str]:
    return {each["id"] for each in json.loads(store.body(delivery))["data"]["incidents"]}


def sent_in_order(store: IncidentStore, now: datetime) -> list[Delivery]:
    """Deliver what waits, one after another, and return it."""
    found = []
    while (delivery := store.next_delivery("soc", now)) is not None:
        found.append(delivery)
        delivered(store, delivery)
    return found


def test_parts_of_a_message_go_one_after_another(store: IncidentStore) -> None:
    incidents = opened(150)
    open_all(store, incidents, TOGETHER)
    assert route_all(store, START, TOGETHER) == 1
    split = parts(store, 1)
    assert len(split) > 2
    assert {each.parts for each in split} == {len(split)}
    assert len({each.id for each in split}) == len(split)
    assert [each.part for each in sent_in_order(store, START)] == list(range(1, len(split) + 1))


def test_part_that_failed_does_not_hold_up_or_supersede_the_others(store: IncidentStore) -> None:
    open_all(store, opened(150), TOGETHER)
    route_all(store, START, TOGETHER)
    first, *others = parts(store, 1)
    failed(store, first)
    assert [each.part for each in sent_in_order(store, START)] == [each.part for each in others]
    assert parts(store, 1)[0].state is WAITING
    assert [each.part for each in sent_in_order(store, START + timedelta(hours=1))] == [1]


def test_later_message_tells_what_was_in_a_failed_part_or_it_waits_again(
    store: IncidentStore,
) -> None:
    incidents = opened(150)
    open_all(store, incidents, TOGETHER)
    route_all(store, START, TOGETHER)
    first, second, *_ = parts(store, 1)
    failed(store, first)
    lost = ids(store, first)
    open_all(store, opened(1, begin=900), TOGETHER)
    assert route_all(store, START + MINUTE, TOGETHER) == 1
    assert [each.state for each in parts(store, 1)[:2]] == [SUPERSEDED, WAITING]
    later = {each.id: ids(store, each) for each in parts(store, 2)}
    for id in lost:
        (notice,) = store.notices(UUID(id))
        assert notice.delivery_id is not None
        assert id in later[notice.delivery_id]
    turn = store.next_delivery("soc", START + MINUTE)
    assert turn is not None
    assert turn.id == second.id


def test_urgent_message_does_not_overtake_a_digest_that_holds_its_incident(
    store: IncidentStore,
) -> None:
    routing = Routing(default=replace(DIGESTS.default, group_by=("camera",)))
    one, other = opened(2)
    open_all(store, [one, other], routing)
    assert route_all(store, START, routing) == 1
    (digest,) = store.deliveries()
    worse = replace(an_open(7, one.camera), severity="critical")
    open_all(store, [worse], routing)
    assert route_all(store, START + MINUTE, routing) == 1
    (message,) = [each for each in store.deliveries() if each.id != digest.id]
    assert ids(store, message) == {str(one.id), str(worse.id)}
    assert message.priority < digest.priority
    assert [each.id for each in sent_in_order(store, START + MINUTE)] == [digest.id, message.id]


def test_digest_that_failed_is_superseded_by_a_message_that_holds_its_incident(
    store: IncidentStore,
) -> None:
    one, other = opened(2)
    open_all(store, [one, other], DIGESTS)
    route_all(store, START, DIGESTS)
    (digest,) = store.deliveries()
    change(store, resolved(one), one, routing=DIGESTS)
    route_all(store, START + MINUTE, DIGESTS)
    failed(store, digest)
    assert {each.id: each.state for each in store.deliveries()}[digest.id] is SUPERSEDED
    (notice,) = store.notices(other.id)
    assert (notice.state, notice.delivery_id) == (NoticeState.WAITING, None)
    assert route_all(store, START + 2 * MINUTE, DIGESTS) == 1
    assert str(other.id) in ids(store, store.deliveries()[-1])
    told = sent_in_order(store, START + 2 * MINUTE)
    assert {str(one.id), str(other.id)} == set().union(*(ids(store, each) for each in told))


def test_waiting_delivery_that_shares_nothing_goes(store: IncidentStore) -> None:
    open_all(store, opened(2), DIGESTS)
    route_all(store, START, DIGESTS)
    (digest,) = store.deliveries()
    failed(store, digest)
    open_all(store, opened(1, begin=7), DIGESTS)
    route_all(store, START + MINUTE, DIGESTS)
    assert len(sent_in_order(store, START + MINUTE)) == 1


def told_once(engine: Engine) -> list[Delivery]:
    store = IncidentStore(engine)
    beat = Heartbeat(every=MINUTE, notify=("soc",))
    open_all(store, opened(3), AT_ONCE)
    health = replace(AT_ONCE, health=frozenset({"bag-left"}))
    assert Router(store, health, beat, Pulse(MemoryLog(), store)).run_once(START) == 4
    return store.deliveries()


def test_two_databases_of_equal_content_have_no_webhook_id_in_common(tmp_path: Any) -> None:
    engines = [open_database(f"sqlite:///{tmp_path / name}.db") for name in ("one", "two")]
    one, two = (told_once(engine) for engine in engines)
    places = [{(each.group_id, each.number) for each in found} for found in (one, two)]
    assert places[0] == places[1]
    assert not {each.id for each in one} & {each.id for each in two}
    assert {each.id.version for each in (*one, *two)} == {4}
    for engine in engines:
        engine.dispose()


def test_retry_and_replay_repeat_the_webhook_id(store: IncidentStore) -> None:
    change(store, an_open())
    route_all(store, START)
    (delivery,) = store.deliveries()
    now = datetime.now(UTC)
    with receiving(Receiver(status=503)) as receiver:
        courier = Courier(store, [a_webhook(receiver.url)])
        for minutes in (0, 60, 600):
            courier.run_once(now + minutes * MINUTE)
        receiver.status = 204
        courier.run_once(now + timedelta(days=2))
        (sent,) = store.deliveries()
        assert Outbox(store).replay(sent, now, BY_ADA)
        courier.run_once(now + timedelta(days=3))
    assert len(receiver.ids()) >= 4
    assert set(receiver.ids()) == {str(delivery.id)}


TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(["\U0001f400", '"', "\\", "\n", "\x00", "x"]).map(lambda each: each * 9000),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=8), TEXT, st.integers(0, 60))
def test_no_incident_is_left_out_whatever_its_texts(
    texts: list[tuple[str, str, str]], label: str, repeated: int
) -> None:
    incidents = [an_open(number) for number in range(len(texts) + repeated)]
    fields = [incident_fields(each) | {"description": "a bag"} for each in incidents]
    for each, (camera, summary, more) in zip(fields, texts, strict=False):
        each |= {"camera": camera, "summary": f"x{summary}"[:500]}
        each |= {"evidence": [more] * 16, "more": [more]}
    labels = {"camera": label, "rule": label}
    group = Group(
        id=UUID(int=3), receiver="soc", labels=labels, number=1, due_at=None, told_at=None
    )
    found = write_message(FIRING, group, fields, START)
    assert [id for part in found for id in part.incidents] == [str(each.id) for each in incidents]
    for number, part in enumerate(found, 1):
        assert len(part.body) < MAX_BODY_BYTES
        jsonschema.validate(
            json.loads(part.body), SCHEMA, format_checker=jsonschema.FormatChecker()
        )
        message = read_message(part.body)
        assert (message.part, message.parts) == (number, len(found))
        assert tuple(told.id for told in message.incidents) == part.incidents


def test_incident_of_a_hundred_fields_keeps_those_needed() -> None:
    entry = incident_fields(an_open()) | {f"field-{n}": {"text": "x" * 1000} for n in range(1000)}
    group = Group(id=UUID(int=3), receiver="soc", labels={}, number=1, due_at=None, told_at=None)
    (part,) = write_message(FIRING, group, [entry], START)
    assert len(part.body) < MAX_BODY_BYTES
    (told,) = read_message(part.body).incidents
    assert (told.id, told.camera, told.severity) == (entry["id"], "dock", "high")
