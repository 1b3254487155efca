"""Messages in parts: what may be sent before what, and who tells what was in a failed one."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.grouping import NotificationPolicy
from alerts.dispatch.heartbeat import Heartbeat
from alerts.dispatch.messages import FIRING, MAX_BODY_BYTES, build_message, parse_message
from alerts.intake.progress_check import ProgressCheck
from alerts.notify.courier import Courier
from kit.alerts.routing import AT_ONCE, an_open_incident, dispatch_all, resolved, save_and_notify
from kit.alerts.webhook_receiver import RecordingReceiver, a_webhook, run_receiver
from kit.storage.fixtures import BY_ADA, START
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.outbox import Outbox
from storage.log.memory_log import MemoryLog
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.notifications import NotificationGroup, NotificationState
from storage.records.wire import incident_fields
from test_alerts_dispatcher import SCHEMA
from test_alerts_storms import open_all, opened

MINUTE = timedelta(minutes=1)
TOGETHER = NotificationPolicy(default=replace(AT_ONCE.default, group_by=()))
DIGESTS = NotificationPolicy(default=replace(AT_ONCE.default, digest_after=1))
WAITING, SUPERSEDED = DeliveryState.WAITING, DeliveryState.SUPERSEDED


def parts(store: AlertStore, number: int) -> list[Delivery]:
    found = [each for each in store.deliveries() if each.number == number]
    return sorted(found, key=lambda each: each.part)


def failed(store: AlertStore, delivery: Delivery) -> Delivery:
    after = replace(delivery, attempts=1, next_at=START + timedelta(hours=1))
    store.record_outcome(after)
    return after


def delivered(store: AlertStore, delivery: Delivery) -> None:
    store.record_outcome(replace(delivery, state=DeliveryState.DELIVERED, attempts=1))


def ids(store: AlertStore, delivery: Delivery) -> set[str]:
    return {
        each["id"] for each in json.loads(store.delivery_body(delivery) or b"")["data"]["incidents"]
    }


def sent_in_order(store: AlertStore, now: datetime) -> list[Delivery]:
    """Deliver what waits, one after another, and return it."""
    found = []
    while (delivery := store.next_delivery("soc", now)) is not None:
        found.append(delivery)
        delivered(store, delivery)
    return found


def test_parts_of_a_message_go_one_after_another(store: AlertStore) -> None:
    incidents = opened(150)
    open_all(store, incidents, TOGETHER)
    assert dispatch_all(store, START, TOGETHER) == 1
    split = parts(store, 1)
    assert len(split) > 2
    assert {each.parts for each in split} == {len(split)}
    assert len({each.id for each in split}) == len(split)
    assert [each.part for each in sent_in_order(store, START)] == list(range(1, len(split) + 1))


def test_part_that_failed_does_not_hold_up_or_supersede_the_others(store: AlertStore) -> None:
    open_all(store, opened(150), TOGETHER)
    dispatch_all(store, START, TOGETHER)
    first, *others = parts(store, 1)
    failed(store, first)
    assert [each.part for each in sent_in_order(store, START)] == [each.part for each in others]
    assert parts(store, 1)[0].state is WAITING
    assert [each.part for each in sent_in_order(store, START + timedelta(hours=1))] == [1]


def test_later_message_tells_what_was_in_a_failed_part_or_it_waits_again(
    store: AlertStore,
) -> None:
    incidents = opened(150)
    open_all(store, incidents, TOGETHER)
    dispatch_all(store, START, TOGETHER)
    first, second, *_ = parts(store, 1)
    failed(store, first)
    lost = ids(store, first)
    open_all(store, opened(1, begin=900), TOGETHER)
    assert dispatch_all(store, START + MINUTE, TOGETHER) == 1
    assert [each.state for each in parts(store, 1)[:2]] == [SUPERSEDED, WAITING]
    later = {each.id: ids(store, each) for each in parts(store, 2)}
    for id in lost:
        (notification,) = store.notifications(UUID(id))
        assert notification.delivery_id is not None
        assert id in later[notification.delivery_id]
    turn = store.next_delivery("soc", START + MINUTE)
    assert turn is not None
    assert turn.id == second.id


def test_urgent_message_does_not_overtake_a_digest_that_holds_its_incident(
    store: AlertStore,
) -> None:
    routing = NotificationPolicy(default=replace(DIGESTS.default, group_by=("camera",)))
    one, other = opened(2)
    open_all(store, [one, other], routing)
    assert dispatch_all(store, START, routing) == 1
    (digest,) = store.deliveries()
    worse = replace(an_open_incident(7, one.camera), severity="critical")
    open_all(store, [worse], routing)
    assert dispatch_all(store, START + MINUTE, routing) == 1
    (message,) = [each for each in store.deliveries() if each.id != digest.id]
    assert ids(store, message) == {str(one.id), str(worse.id)}
    assert message.priority < digest.priority
    assert [each.id for each in sent_in_order(store, START + MINUTE)] == [digest.id, message.id]


def test_digest_that_failed_is_superseded_by_a_message_that_holds_its_incident(
    store: AlertStore,
) -> None:
    one, other = opened(2)
    open_all(store, [one, other], DIGESTS)
    dispatch_all(store, START, DIGESTS)
    (digest,) = store.deliveries()
    save_and_notify(store, resolved(one), one, policy=DIGESTS)
    dispatch_all(store, START + MINUTE, DIGESTS)
    failed(store, digest)
    assert {each.id: each.state for each in store.deliveries()}[digest.id] is SUPERSEDED
    (notification,) = store.notifications(other.id)
    assert (notification.state, notification.delivery_id) == (NotificationState.WAITING, None)
    assert dispatch_all(store, START + 2 * MINUTE, DIGESTS) == 1
    assert str(other.id) in ids(store, store.deliveries()[-1])
    sent = sent_in_order(store, START + 2 * MINUTE)
    assert {str(one.id), str(other.id)} == set().union(*(ids(store, each) for each in sent))


def test_waiting_delivery_that_shares_nothing_goes(store: AlertStore) -> None:
    open_all(store, opened(2), DIGESTS)
    dispatch_all(store, START, DIGESTS)
    (digest,) = store.deliveries()
    failed(store, digest)
    open_all(store, opened(1, begin=7), DIGESTS)
    dispatch_all(store, START + MINUTE, DIGESTS)
    assert len(sent_in_order(store, START + MINUTE)) == 1


def told_once(engine: Engine) -> list[Delivery]:
    store = AlertStore(engine)
    beat = Heartbeat(every=MINUTE, notify=("soc",))
    open_all(store, opened(3), AT_ONCE)
    health = replace(AT_ONCE, health_rules=frozenset({"bag-left"}))
    assert Dispatcher(store, health, beat, ProgressCheck(MemoryLog(), store)).run_once(START) == 4
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


def test_retry_and_replay_repeat_the_webhook_id(store: AlertStore) -> None:
    save_and_notify(store, an_open_incident())
    dispatch_all(store, START)
    (delivery,) = store.deliveries()
    now = datetime.now(UTC)
    with run_receiver(RecordingReceiver(status=503)) as receiver:
        courier = Courier(store, [a_webhook(receiver.url)])
        for minutes in (0, 60, 600):
            courier.run_once(now + minutes * MINUTE)
        receiver.status = 204
        courier.run_once(now + timedelta(days=2))
        (sent,) = store.deliveries()
        assert Outbox(store).requeue(sent, now, BY_ADA)
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
    incidents = [an_open_incident(number) for number in range(len(texts) + repeated)]
    fields = [incident_fields(each) | {"description": "a bag"} for each in incidents]
    for each, (camera, summary, more) in zip(fields, texts, strict=False):
        each |= {"camera": camera, "summary": f"x{summary}"[:500]}
        each |= {"evidence": [more] * 16, "more": [more]}
    labels = {"camera": label, "rule": label}
    group = NotificationGroup(
        id=UUID(int=3), receiver="soc", labels=labels, number=1, due_at=None, told_at=None
    )
    found = build_message(FIRING, group, fields, START)
    assert [id for part in found for id in part.incidents] == [str(each.id) for each in incidents]
    for number, part in enumerate(found, 1):
        assert len(part.body) < MAX_BODY_BYTES
        jsonschema.validate(
            json.loads(part.body), SCHEMA, format_checker=jsonschema.FormatChecker()
        )
        message = parse_message(part.body)
        assert (message.part, message.parts) == (number, len(found))
        assert tuple(told.id for told in message.incidents) == part.incidents


def test_incident_of_a_hundred_fields_keeps_those_needed() -> None:
    entry = incident_fields(an_open_incident()) | {
        f"field-{n}": {"text": "x" * 1000} for n in range(1000)
    }
    group = NotificationGroup(
        id=UUID(int=3), receiver="soc", labels={}, number=1, due_at=None, told_at=None
    )
    (part,) = build_message(FIRING, group, [entry], START)
    assert len(part.body) < MAX_BODY_BYTES
    (incident,) = parse_message(part.body).incidents
    assert (incident.id, incident.camera, incident.severity) == (entry["id"], "dock", "high")
