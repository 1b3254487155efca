"""What becomes of deliveries whose receiver fails, is gone, or is no longer configured."""

import random
import threading
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from alerts.notify.breaker import FAILURES, Breaker
from alerts.notify.courier import Courier
from alerts.notify.failures import DeliveryFailure
from alerts.notify.outcomes import Delivered, DeliveryOutcome, Retry
from alerts.notify.receivers import Receiver as AnyReceiver
from kit.alerts.webhook_receiver import RecordingReceiver, a_webhook, run_receiver
from kit.storage.fixtures import BY_ADA, START, a_delivery, an_incident, by_rule
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.outbox import Outbox
from storage.db.transaction import Transaction
from storage.errors import StorageDown
from storage.records.deliveries import DeliveryState, ReceiverState

NOW = datetime.now(UTC)
DOWN = Retry(reason="down")


@pytest.fixture
def outbox(store: AlertStore) -> Outbox:
    return Outbox(store)


def waiting(store: AlertStore, count: int, receiver: str = "soc", begin: int = 0) -> None:
    """Write so many deliveries to a receiver, each of an incident of its own."""
    with store.transaction() as transaction:
        for number in range(begin, begin + count):
            id = UUID(int=1000 + number)
            transaction.save_revisions(
                [by_rule(replace(an_incident(), id=id, camera=f"camera-{number}"))]
            )
            ids: dict[str, Any] = {"id": UUID(int=10**6 + number), "group_id": id}
            delivery = replace(a_delivery(1, receiver), **ids)
            transaction.deliveries.add(delivery, b'{"n":%d}' % number, {id: 1})


def courier_of(store: AlertStore, *receivers: AnyReceiver) -> tuple[Courier, list[DeliveryFailure]]:
    troubles: list[DeliveryFailure] = []
    return Courier(store, receivers, lambda _, trouble: troubles.append(trouble)), troubles


def after(breaker: Breaker, *outcomes: DeliveryOutcome) -> Breaker:
    for outcome in outcomes:
        breaker = breaker.after(outcome, START)
    return breaker


def run_at(courier: Courier, *seconds: float) -> list[int]:
    return [courier.run_once(NOW + timedelta(seconds=each)) for each in seconds]


def test_breaker_opens_after_failures_in_a_row_and_pauses_longer_each_time() -> None:
    closed = Breaker()
    assert closed.can_post(START)
    pauses = []
    for _ in range(FAILURES + 5):
        closed = after(closed, DOWN)
        assert closed.until is not None
        assert not closed.can_post(START)
        assert closed.can_post(closed.until)
        pauses.append((closed.until - START).total_seconds())
    assert pauses == [2, 4, 8, 16, 30, 60, 120, 240, 300, 300]
    assert after(Breaker(), DOWN, Delivered(), DOWN) == after(Breaker(), DOWN)
    assert after(closed, Delivered()) == Breaker()


def test_clock_that_is_set_back_makes_no_pause_of_a_breaker_longer() -> None:
    opened = after(Breaker(), *[DOWN] * FAILURES)
    assert not opened.can_post(START + timedelta(seconds=29))
    assert opened.can_post(START - timedelta(seconds=1))
    assert opened.can_post(START - timedelta(days=30))


def test_open_breaker_spends_no_tries_and_one_probe_decides(
    store: AlertStore, outbox: Outbox
) -> None:
    waiting(store, 12)
    with run_receiver(RecordingReceiver(status=500)) as receiver:
        courier, _ = courier_of(store, a_webhook(receiver.url))
        assert run_at(courier, 0, 1, 2, 5, 6, 14, 29, 30, 31, 59) == [1, 0, 1, 0, 1, 1, 0, 1, 0, 0]
        assert outbox.receiver_statuses()["soc"].state is ReceiverState.FAILING
        assert outbox.receiver_statuses()["soc"].reason == "status 500"
        probing = NOW + timedelta(seconds=61)
        assert [courier.run_once(probing) for _ in range(3)] == [1, 0, 0]
        receiver.status = 204
        well = probing + timedelta(seconds=61)
        assert sum(courier.run_once(well) for _ in range(20)) >= 7
    assert outbox.receiver_statuses()["soc"].state is ReceiverState.ACTIVE
    assert max(each.attempts for each in outbox.deliveries()) == 2


def test_receiver_that_was_failing_is_probed_after_a_restart(store: AlertStore) -> None:
    waiting(store, 12)
    with run_receiver(RecordingReceiver(status=500)) as receiver:
        webhook = a_webhook(receiver.url)
        courier, _ = courier_of(store, webhook)
        assert run_at(courier, 0, 2, 6, 14, 30, 31) == [1] * 5 + [0]
        courier, _ = courier_of(store, webhook)
        assert run_at(courier, 0, 2, 4) == [1, 0, 0]


def test_gone_receiver_is_disabled_over_restarts_until_it_is_enabled(
    store: AlertStore, outbox: Outbox
) -> None:
    waiting(store, 3)
    with run_receiver(RecordingReceiver(status=410)) as receiver:
        courier, troubles = courier_of(store, a_webhook(receiver.url))
        assert [courier.run_once(NOW) for _ in range(2)] == [1, 0]
        assert outbox.receiver_statuses()["soc"].state is ReceiverState.DISABLED
        assert [each.state for each in outbox.deliveries()] == [DeliveryState.REFUSED] * 3
        assert [trouble.receiver for trouble in troubles] == ["soc", "soc"]
        receiver.status = 204
        waiting(store, 1, begin=3)
        restarted, _ = courier_of(store, a_webhook(receiver.url))
        assert restarted.run_once(NOW) == 0
        assert len(receiver.posts) == 1
        assert outbox.enable_receiver("soc", NOW, BY_ADA)
        assert not outbox.enable_receiver("soc", NOW, BY_ADA)
        assert outbox.requeue_undelivered("soc", None, NOW, BY_ADA) == 4
        assert sum(restarted.run_once(NOW) for _ in range(5)) == 4
    assert len(receiver.posts) == 5


def test_deliveries_to_a_receiver_that_is_no_longer_configured_end_visibly(
    store: AlertStore, outbox: Outbox
) -> None:
    waiting(store, 2, "former")
    courier, troubles = courier_of(store)
    assert courier.run_once(NOW) == 0
    assert {(each.state, each.reason) for each in outbox.deliveries()} == {
        (DeliveryState.ORPHANED, "no receiver has this name any more")
    }
    assert [trouble.receiver for trouble in troubles] == ["former"]
    assert outbox.waiting_receivers(NOW) == {}


def exhausted(store: AlertStore, receiver: RecordingReceiver) -> list[DeliveryFailure]:
    courier, troubles = courier_of(store, a_webhook(receiver.url))
    now = NOW
    while courier.run_once(now):
        now += timedelta(days=2)
    return troubles


def test_exhausted_delivery_raises_trouble_and_can_be_replayed_with_its_id(
    store: AlertStore, outbox: Outbox
) -> None:
    waiting(store, 1)
    with run_receiver(RecordingReceiver(status=500)) as receiver:
        (trouble,) = exhausted(store, receiver)
        (delivery,) = outbox.deliveries((DeliveryState.EXHAUSTED,))
        assert trouble.delivery_id == delivery.id
        assert trouble.reason == "exhausted after 10 tries: status 500"
        receiver.status = 204
        assert outbox.requeue(delivery, NOW, BY_ADA)
        assert not outbox.requeue(delivery, NOW, BY_ADA)
        courier, _ = courier_of(store, a_webhook(receiver.url))
        assert courier.run_once(NOW) == 1
    assert len(set(receiver.ids())) == 1
    assert [each.state for each in outbox.deliveries()] == [DeliveryState.DELIVERED]


def test_trouble_and_the_mark_are_one_transaction(store: AlertStore, outbox: Outbox) -> None:
    def fail(_: Transaction, trouble: DeliveryFailure) -> None:
        raise StorageDown("database", trouble.reason)

    waiting(store, 1)
    with run_receiver(RecordingReceiver(status=410)) as receiver:
        courier = Courier(store, [a_webhook(receiver.url)], fail)
        with pytest.raises(StorageDown, match="refused after 1 tries"):
            courier.run_once(NOW)
    assert [each.state for each in outbox.deliveries()] == [DeliveryState.WAITING]
    assert outbox.receiver_statuses() == {}


def write_and_fail(ledger: Transaction, trouble: DeliveryFailure) -> None:
    ledger.advance_offset("trouble", trouble.receiver, 0, 1)
    raise RuntimeError(trouble.reason)


def test_trouble_that_raises_is_logged_and_the_mark_is_written(
    store: AlertStore, outbox: Outbox
) -> None:
    waiting(store, 1)
    waiting(store, 1, "former", begin=1)
    with run_receiver(RecordingReceiver(status=410)) as receiver, capture_logs() as log_lines:
        courier = Courier(store, [a_webhook(receiver.url)], write_and_fail)
        assert [courier.run_once(NOW), courier.run_once(NOW)] == [1, 0]
    ended = {each.receiver: each.state for each in outbox.deliveries()}
    assert ended == {"soc": DeliveryState.REFUSED, "former": DeliveryState.ORPHANED}
    assert outbox.receiver_statuses()["soc"].state is ReceiverState.DISABLED
    assert (
        store.committed_offset("trouble", "soc") == store.committed_offset("trouble", "former") == 0
    )
    ours = [line["event"] for line in log_lines if "exc_info" in line]
    assert ours == ["an error of longwatch: the failed delivery raises no incident"] * 2
    assert {line["receiver"] for line in log_lines if line["event"] == "delivery failed"} == {
        "soc",
        "former",
    }


def test_replay_by_receiver_goes_back_to_an_instant(store: AlertStore, outbox: Outbox) -> None:
    waiting(store, 2, "former")
    courier_of(store)[0].run_once(NOW)
    assert outbox.requeue_undelivered("former", START + timedelta(seconds=1), NOW, BY_ADA) == 0
    assert outbox.requeue_undelivered("other", None, NOW, BY_ADA) == 0
    assert outbox.requeue_undelivered("former", START, NOW, BY_ADA) == 2
    assert outbox.waiting_receivers(NOW) == {"former": True}


@pytest.mark.slow
def test_all_is_delivered_within_the_schedule_whatever_the_outage(
    store: AlertStore, outbox: Outbox
) -> None:
    rng = random.Random(7)
    with ExitStack() as stack:
        servers = [stack.enter_context(run_receiver()) for _ in range(6)]
        ends = [NOW + timedelta(hours=hours) for hours in (0, 0.01, 0.5, 6, 30, 67)]
        webhooks = [a_webhook(server.url, f"r{n}") for n, server in enumerate(servers)]
        for n in range(len(servers)):
            waiting(store, 2, f"r{n}", begin=2 * n)
        courier, troubles = courier_of(store, *webhooks)
        now = NOW
        while outbox.waiting_receivers(now) and now < NOW + timedelta(hours=84):
            for server, end in zip(servers, ends, strict=True):
                server.status = 204 if now >= end else rng.choice([500, 503, 301])
            moved = courier.run_once(now)
            early = now < NOW + timedelta(minutes=10)
            now += timedelta() if moved else timedelta(minutes=1 if early else 20)
    assert troubles == []
    assert {each.state for each in outbox.deliveries()} == {DeliveryState.DELIVERED}
    assert len({id for server in servers for id in server.ids()}) == 12


def test_thousand_receivers_at_rest_have_no_threads(store: AlertStore) -> None:
    with run_receiver() as receiver:
        names = [f"r{n}" for n in range(1000)]
        courier, _ = courier_of(store, *(a_webhook(receiver.url, name) for name in names))
        waiting(store, 3, "r500")
        before, stop = threading.active_count(), threading.Event()
        thread = threading.Thread(target=courier.run, args=(stop,))
        thread.start()
        wait_for(lambda: len(receiver.posts) == 3)
        during = [each for each in threading.enumerate() if each.name.startswith("courier")]
        stop.set()
        thread.join()
    assert len(during) <= 2
    assert threading.active_count() <= before
