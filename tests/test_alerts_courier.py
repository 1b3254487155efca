import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, delete, update
from structlog.testing import capture_logs

from alerts.notify.courier import Courier
from alerts.notify.outcomes import Delivered, Refused, Retry
from alerts.notify.queue import RETRIES, delivery_after_post
from alerts.notify.webhook import Webhook
from kit.alerts.receiver_fuzz import WORST_RETRY_AFTERS
from kit.alerts.webhook_receiver import SECRET, RecordingReceiver, a_webhook, run_receiver
from kit.storage.fixtures import START, a_delivery, an_incident, by_rule
from kit.waiting import wait_for
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.records import IncidentState

NOW = datetime.now(UTC)


def webhook(receiver: RecordingReceiver, name: str = "soc") -> Webhook:
    return a_webhook(receiver.url, name)


def waiting(store: AlertStore, *receivers: str, incident: int = 7) -> None:
    with store.transaction() as transaction:
        resolved = an_incident(state=IncidentState.RESOLVED)
        transaction.save_revisions([by_rule(replace(resolved, id=UUID(int=incident)))])
        for number, receiver in enumerate(receivers):
            ids: dict[str, Any] = {
                "id": UUID(int=incident * 1000 + number),
                "group_id": UUID(int=incident),
            }
            delivery = replace(a_delivery(1, receiver), **ids)
            transaction.deliveries.add(delivery, b'{"incident":%d}' % incident, {})


def states(store: AlertStore) -> list[DeliveryState]:
    return [delivery.state for delivery in store.deliveries()]


def test_due_delivery_is_posted_once(store: AlertStore) -> None:
    waiting(store, "soc")
    with run_receiver() as receiver:
        courier = Courier(store, [webhook(receiver)])
        assert [courier.run_once(NOW) for _ in range(3)] == [1, 0, 0]
    assert states(store) == [DeliveryState.DELIVERED]
    assert [post.body for post in receiver.posts] == [b'{"incident":7}']
    assert receiver.ids() == [str(store.deliveries()[0].id)]


def test_failed_delivery_is_posted_again_with_the_same_id_and_a_fresh_time(
    store: AlertStore,
) -> None:
    waiting(store, "soc")
    with run_receiver(RecordingReceiver(status=500)) as receiver:
        courier = Courier(store, [webhook(receiver)])
        assert courier.run_once(NOW) == 1
        assert courier.run_once(NOW + timedelta(seconds=4)) == 0
        receiver.status = 200
        assert courier.run_once(NOW + timedelta(seconds=6)) == 1
    first, second = receiver.posts
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-timestamp"] < second.headers["webhook-timestamp"]
    assert states(store) == [DeliveryState.DELIVERED]
    assert store.deliveries()[0].attempts == 2


def test_tries_come_as_standard_webhooks_says_and_then_end() -> None:
    delivery, now, tries = a_delivery(), START, [START]
    while delivery.state is DeliveryState.WAITING:
        delivery = delivery_after_post(delivery, Retry(reason="down"), now, jitter=0.0)
        now = delivery.next_at
        tries.append(now)
    pauses = [later - sooner for sooner, later in pairwise(tries[:-1])]
    hours = [0.5, 2, 5, 10, 14, 20, 24]
    assert pauses == [
        timedelta(seconds=5), timedelta(minutes=5), *(timedelta(hours=n) for n in hours)
    ]  # fmt: skip
    assert delivery.state is DeliveryState.EXHAUSTED
    assert delivery.attempts == 10


@pytest.mark.parametrize("attempts", range(len(RETRIES)))
def test_jitter_moves_a_try_by_a_tenth_at_most(attempts: int) -> None:
    tried = replace(a_delivery(), attempts=attempts)
    for jitter in (-1.0, 0.5, 1.0):
        pause = delivery_after_post(tried, Retry(reason="down"), START, jitter).next_at - START
        assert abs(pause / RETRIES[attempts] - 1) == pytest.approx(abs(jitter) / 10)


def test_outcome_ends_a_delivery() -> None:
    delivered = delivery_after_post(a_delivery(), Delivered(status=204), START, 0.0)
    refused = delivery_after_post(a_delivery(), Refused(reason="410"), START, 0.0)
    assert (delivered.state, delivered.attempts) == (DeliveryState.DELIVERED, 1)
    assert refused.state is DeliveryState.REFUSED


def test_receiver_that_asks_for_quiet_is_left_alone(store: AlertStore) -> None:
    waiting(store, "soc", incident=1)
    waiting(store, "soc", incident=2)
    with run_receiver(RecordingReceiver(status=429, headers={"Retry-After": "60"})) as receiver:
        courier = Courier(store, [webhook(receiver)])
        assert [courier.run_once(NOW + timedelta(seconds=n)) for n in (0, 1, 59)] == [1, 0, 0]
        receiver.status = 204
        assert [courier.run_once(NOW + timedelta(seconds=61)) for _ in range(3)] == [1, 1, 0]
    assert states(store) == [DeliveryState.DELIVERED] * 2


def test_receiver_that_is_gone_gets_nothing_more(store: AlertStore) -> None:
    waiting(store, "soc", incident=1)
    waiting(store, "soc", incident=2)
    with run_receiver(RecordingReceiver(status=410)) as receiver:
        courier = Courier(store, [webhook(receiver)])
        assert [courier.run_once(NOW) for _ in range(3)] == [1, 0, 0]
    assert len(receiver.posts) == 1
    assert states(store) == [DeliveryState.REFUSED] * 2


def test_delivery_that_is_given_up_stays_visible(store: AlertStore) -> None:
    waiting(store, "soc")
    with run_receiver(RecordingReceiver(status=500)) as receiver, capture_logs() as log_lines:
        courier = Courier(store, [webhook(receiver)])
        now, tries = NOW, 0
        while courier.run_once(now):
            tries += 1
            now += timedelta(days=2)
    assert tries == len(receiver.posts) == 10
    assert states(store) == [DeliveryState.EXHAUSTED]
    assert store.counts().deliveries[DeliveryState.EXHAUSTED] == 1
    (last,) = [line for line in log_lines if line["event"] == "given up"]
    assert (last["receiver"], last["reason"], last["log_level"]) == ("soc", "status 500", "error")
    (lines_found,) = [line for line in log_lines if line["event"] == "delivery failed"]
    assert lines_found["reason"] == "exhausted after 10 tries: status 500"


@pytest.mark.parametrize("status", [204, 301, 410, 429, 500, None])
def test_no_line_tells_the_url_or_the_secret(store: AlertStore, status: int | None) -> None:
    waiting(store, "soc")
    with (
        run_receiver(RecordingReceiver(status=status or 200)) as receiver,
        capture_logs() as log_lines,
    ):
        url = receiver.url if status else receiver.url.replace("127.0.0.1", "nowhere.invalid")
        courier = Courier(store, [replace(webhook(receiver), url=url)])
        assert courier.run_once(NOW) == 1
    assert log_lines
    assert "canary" not in str(log_lines)
    assert SECRET not in str(log_lines)


def run_until(courier: Courier, done: threading.Event, seconds: float) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=courier.run, args=(stop,))
    thread.start()
    done.wait(seconds)
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def test_slow_receiver_delays_no_other(store: AlertStore) -> None:
    for incident in range(1, 6):
        waiting(store, "slow", "quick", incident=incident)
    with ExitStack() as stack:
        slow = stack.enter_context(run_receiver(RecordingReceiver(delay=1.5)))
        quick = stack.enter_context(run_receiver())
        courier = Courier(store, [webhook(slow, "slow"), webhook(quick, "quick")])
        began = time.monotonic()
        done = threading.Event()
        watch = threading.Thread(target=wait_for_posts, args=(quick, 5, done))
        watch.start()
        run_until(courier, done, 10)
        watch.join()
        assert time.monotonic() - began < 5
    assert len(set(quick.ids())) == 5
    assert len(slow.posts) < 5


def wait_for_posts(receiver: RecordingReceiver, count: int, done: threading.Event) -> None:
    deadline = time.monotonic() + 10
    while len(receiver.posts) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    done.set()


def broken(receiver: RecordingReceiver, name: str = "broken") -> Webhook:
    """A receiver for which nothing can be signed, so that `send` raises."""
    return replace(webhook(receiver, name), secrets=("no secret",))


def test_send_that_raises_is_a_failed_try_of_that_delivery_alone(store: AlertStore) -> None:
    waiting(store, "broken", "soc")
    with run_receiver() as receiver, capture_logs() as log_lines:
        courier, done = Courier(store, [broken(receiver), webhook(receiver)]), threading.Event()
        watch = threading.Thread(target=wait_for_posts, args=(receiver, 1, done))
        watch.start()
        run_until(courier, done, 10)
        watch.join()
    failed, delivered = sorted(store.deliveries(), key=lambda each: each.receiver)
    assert delivered.state is DeliveryState.DELIVERED
    assert (failed.state, failed.attempts) == (DeliveryState.WAITING, 1)
    assert failed.reason == "an error of longwatch: ValueError"
    assert failed.next_at > NOW
    (line,) = [each for each in log_lines if each["log_level"] == "error"]
    assert (line["receiver"], line["exc_info"]) == ("broken", True)


def test_send_that_raises_for_ever_gives_up_on_its_schedule(store: AlertStore) -> None:
    waiting(store, "broken")
    with run_receiver() as receiver:
        courier, now = Courier(store, [broken(receiver)]), NOW
        for _ in range(len(RETRIES) + 1):
            assert courier.run_once(now) == 1
            now = store.deliveries()[0].next_at + timedelta(hours=1)
    assert states(store) == [DeliveryState.EXHAUSTED]


@pytest.mark.parametrize("value", WORST_RETRY_AFTERS)
def test_worst_header_delays_one_receiver_and_ends_none(store: AlertStore, value: str) -> None:
    waiting(store, "busy", "soc")
    with ExitStack() as stack:
        answer = RecordingReceiver(status=503, headers={"Retry-After": value})
        busy, soc = stack.enter_context(run_receiver(answer)), stack.enter_context(run_receiver())
        courier = Courier(store, [webhook(busy, "busy"), webhook(soc)])
        assert courier.run_once(NOW) == 2
    waits, delivered = sorted(store.deliveries(), key=lambda each: each.receiver)
    assert delivered.state is DeliveryState.DELIVERED
    assert waits.reason == "status 503"
    assert NOW + timedelta(seconds=20) < waits.next_at <= NOW + timedelta(hours=24)


@contextmanager
def running(courier: Courier) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=courier.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)


def unreadable(store: AlertStore, receiver: str, group: str) -> None:
    with store.transaction() as transaction:
        transaction.connection.execute(
            update(tables.deliveries)
            .where(tables.deliveries.c.receiver == receiver)
            .values(group_id=group)
        )


def test_row_that_cannot_be_read_holds_back_its_receiver_alone(store: AlertStore) -> None:
    waiting(store, "bad", "soc")
    unreadable(store, "bad", "no id")
    with (
        run_receiver() as receiver,
        capture_logs() as log_lines,
        running(Courier(store, [webhook(receiver, "bad"), webhook(receiver)])),
    ):
        wait_for(lambda: any("exc_info" in line for line in log_lines) and receiver.posts)
        waiting(store, "soc", incident=8)
        wait_for(lambda: len(receiver.posts) == 2)
        unreadable(store, "bad", str(UUID(int=7)))
        wait_for(lambda: len(receiver.posts) == 3)
    assert set(states(store)) == {DeliveryState.DELIVERED}
    held = [line for line in log_lines if "exc_info" in line]
    assert {(line["receiver"], line["log_level"]) for line in held} == {("bad", "error")}


class DeletingStore(AlertStore):
    """Somebody else deletes a delivery that has just been picked."""

    def next_delivery(self, receiver: str, now: datetime) -> Delivery | None:
        found = super().next_delivery(receiver, now)
        with self.transaction() as transaction:
            transaction.connection.execute(delete(tables.deliveries))
        return found


def test_delivery_that_is_deleted_before_it_is_posted_is_not(engine: Engine) -> None:
    store = DeletingStore(engine)
    waiting(store, "soc")
    with run_receiver() as receiver:
        assert Courier(store, [webhook(receiver)]).run_once(NOW) == 0
    assert receiver.posts == []


def test_posts_wait_while_the_machine_starts_no_thread(store: AlertStore) -> None:
    with (
        run_receiver() as receiver,
        capture_logs() as log_lines,
        running(Courier(store, [webhook(receiver)])),
    ):
        before = threading.stack_size(1 << 46)  # more than there is
        try:
            waiting(store, "soc")
            wait_for(lambda: any("posts wait" in line["event"] for line in log_lines))
        finally:
            threading.stack_size(before)
        wait_for(lambda: bool(receiver.posts))
    assert states(store) == [DeliveryState.DELIVERED]
    assert len(receiver.posts) == 1
    assert len([line for line in log_lines if "posts wait" in line["event"]]) == 1


def test_courier_without_receivers_waits_until_stopped(store: AlertStore) -> None:
    run_until(Courier(store, []), threading.Event(), 0.2)
