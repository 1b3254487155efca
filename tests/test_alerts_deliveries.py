"""What becomes of deliveries whose receiver fails, is gone, or is no longer configured."""

import random
import threading
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from alerts_fixtures import Receiver, a_webhook, receiving
from storage_fixtures import BY_ADA, START, a_delivery, an_incident, by_rule, wait_for
from structlog.testing import capture_logs

from alerts.breaker import FAILURES, Breaker
from alerts.courier import Courier
from alerts.outcomes import Delivered, Outcome, Retry
from alerts.receivers import Receiver as AnyReceiver
from alerts.route import Trouble
from storage.errors import StorageDown
from storage.incidents import IncidentStore
from storage.ledger import Ledger
from storage.outbox import Outbox
from storage.records import DeliveryState, ReceiverState

NOW = datetime.now(UTC)
DOWN = Retry(reason="down")


@pytest.fixture
def outbox(store: IncidentStore) -> Outbox:
    return Outbox(store)


def waiting(store: IncidentStore, count: int, receiver: str = "soc", begin: int = 0) -> None:
    """Write so many deliveries to a receiver, each of an incident of its own."""
    with store.transaction() as ledger:
        for number in range(begin, begin + count):
            id = UUID(int=1000 + number)
            ledger.save([by_rule(replace(an_incident(), id=id, camera=f"camera-{number}"))])
            ids: dict[str, Any] = {"id": UUID(int=10**6 + number), "group_id": id}
            delivery = replace(a_delivery(1, receiver), **ids)
            ledger.deliveries.add(delivery, b'{"n":%d}' % number, {id: 1})


def courier_of(store: IncidentStore, *receivers: AnyReceiver) -> tuple[Courier, list[Trouble]]:
    troubles: list[Trouble] = []
    return Courier(store, receivers, lambda _, trouble: troubles.append(trouble)), troubles


def after(breaker: Breaker, *outcomes: Outcome) -> Breaker:
    for outcome in outcomes:
        breaker = breaker.after(outcome, START)
    return breaker


def run_at(courier: Courier, *seconds: float) -> list[int]:
    return [courier.run_once(NOW + timedelta(seconds=each)) for each in seconds]


def test_breaker_opens_after_failures_in_a_row_and_pauses_longer_each_time() -> None:
    closed = Breaker()
    assert closed.lets_through(START)
    pauses = []
    for _ in range(FAILURES + 5):
        closed = after(closed, DOWN)
        assert closed.until is not None
        assert not closed.lets_through(START)
        assert closed.lets_through(closed.until)
        pauses.append((closed.until - START).total_seconds())
    assert pauses == [2, 4, 8, 16, 30, 60, 120, 240, 300, 300]
    assert after(Breaker(), DOWN, Delivered(), DOWN) == after(Breaker(), DOWN)
    assert after(closed, Delivered()) == Breaker()


def test_clock_that_is_set_back_makes_no_pause_of_a_breaker_longer() -> None:
    opened = after(Breaker(), *[DOWN] * FAILURES)
    assert not opened.lets_through(START + timedelta(seconds=29))
    assert opened.lets_through(START - timedelta(seconds=1))
    assert opened.lets_through(START - timedelta(days=30))


def test_open_breaker_spends_no_tries_and_one_probe_decides(
    store: IncidentStore, outbox: Outbox
) -> None:
    waiting(store, 12)
    with receiving(Receiver(status=500)) as receiver:
        courier, _ = courier_of(store, a_webhook(receiver.url))
        assert run_at(courier, 0, 1, 2, 5, 6, 14, 29, 30, 31, 59) == [1, 0, 1, 0, 1, 1, 0, 1, 0, 0]
        assert outbox.statuses()["soc"].state is ReceiverState.FAILING
        assert outbox.statuses()["soc"].reason == "status 500"
        probing = NOW + timedelta(seconds=61)
        assert [courier.run_once(probing) for _ in range(3)] == [1, 0, 0]
        receiver.status = 204
        well = probing + timedelta(seconds=61)
        assert sum(courier.run_once(well) for _ in range(20)) >= 7
    assert outbox.statuses()["soc"].state is ReceiverState.ACTIVE
    assert max(each.attempts for each in outbox.deliveries()) == 2


def test_receiver_that_was_failing_is_probed_after_a_restart(store: IncidentStore) -> None:
    waiting(store, 12)
    with receiving(Receiver(status=500)) as receiver:
        webhook = a_webhook(receiver.url)
        courier, _ = courier_of(store, webhook)
        assert run_at(courier, 0, 2, 6, 14, 30, 31) == [1] * 5 + [0]
        courier, _ = courier_of(store, webhook)
        assert run_at(courier, 0, 2, 4) == [1, 0, 0]


def test_gone_receiver_is_disabled_over_restarts_until_it_is_enabled(
    store: IncidentStore, outbox: Outbox
) -> None:
    waiting(store, 3)
    with receiving(Receiver(status=410)) as receiver:
        courier, troubles = courier_of(store, a_webhook(receiver.url))
        assert [courier.run_once(NOW) for _ in range(2)] == [1, 0]
        assert outbox.statuses()["soc"].state is ReceiverState.DISABLED
        assert [each.state for each in outbox.deliveries()] == [DeliveryState.REFUSED] * 3
        assert [trouble.receiver for trouble in troubles] == ["soc", "soc"]
        receiver.status = 204
        waiting(store, 1, begin=3)
        restarted, _ = courier_of(store, a_webhook(receiver.url))
        assert restarted.run_once(NOW) == 0
        assert len(receiver.posts) == 1
        assert outbox.enable("soc", NOW, BY_ADA)
        assert not outbox.enable("soc", NOW, BY_ADA)
        assert outbox.replay_all("soc", None, NOW, BY_ADA) == 4
        assert sum(restarted.run_once(NOW) for _ in range(5)) == 4
    assert len(receiver.posts) == 5


def test_deliveries_to_a_receiver_that_is_no_longer_configured_end_visibly(
    store: IncidentStore, outbox: Outbox
) -> None:
    waiting(store, 2, "former")
    courier, troubles = courier_of(store)
    assert courier.run_once(NOW) == 0
    assert {(each.state, each.reason) for each in outbox.deliveries()} == {
        (DeliveryState.ORPHANED, "no receiver is called so any more")
    }
    assert [trouble.receiver for trouble in troubles] == ["former"]
    assert outbox.waiting(NOW) == {}


def exhausted(store: IncidentStore, receiver: Receiver) -> list[Trouble]:
    courier, troubles = courier_of(store, a_webhook(receiver.url))
    now = NOW
    while courier.run_once(now):
        now += timedelta(days=2)
    return troubles


def test_exhausted_delivery_raises_trouble_and_can_be_replayed_with_its_id(
    store: IncidentStore, outbox: Outbox
) -> None:
    waiting(store, 1)
    with receiving(Receiver(status=500)) as receiver:
        (trouble,) = exhausted(store, receiver)
        (delivery,) = outbox.deliveries((DeliveryState.EXHAUSTED,))
        assert trouble.delivery == delivery.id
        assert trouble.told == "exhausted after 10 tries: status 500"
        receiver.status = 204
        assert outbox.replay(delivery, NOW, BY_ADA)
        assert not outbox.replay(delivery, NOW, BY_ADA)
        courier, _ = courier_of(store, a_webhook(receiver.url))
        assert courier.run_once(NOW) == 1
    assert len(set(receiver.ids())) == 1
    assert [each.state for each in outbox.deliveries()] == [DeliveryState.DELIVERED]


def test_trouble_and_the_mark_are_one_transaction(store: IncidentStore, outbox: Outbox) -> None:
    def fail(_: Ledger, trouble: Trouble) -> None:
        raise StorageDown("database", trouble.told)

    waiting(store, 1)
    with receiving(Receiver(status=410)) as receiver:
        courier = Courier(store, [a_webhook(receiver.url)], fail)
        with pytest.raises(StorageDown, match="refused after 1 tries"):
            courier.run_once(NOW)
    assert [each.state for each in outbox.deliveries()] == [DeliveryState.WAITING]
    assert outbox.statuses() == {}


def write_and_fail(ledger: Ledger, trouble: Trouble) -> None:
    ledger.advance("trouble", trouble.receiver, 0, 1)
    raise RuntimeError(trouble.told)


def test_trouble_that_raises_is_logged_and_the_mark_is_written(
    store: IncidentStore, outbox: Outbox
) -> None:
    waiting(store, 1)
    waiting(store, 1, "former", begin=1)
    with receiving(Receiver(status=410)) as receiver, capture_logs() as said:
        courier = Courier(store, [a_webhook(receiver.url)], write_and_fail)
        assert [courier.run_once(NOW), courier.run_once(NOW)] == [1, 0]
    ended = {each.receiver: each.state for each in outbox.deliveries()}
    assert ended == {"soc": DeliveryState.REFUSED, "former": DeliveryState.ORPHANED}
    assert outbox.statuses()["soc"].state is ReceiverState.DISABLED
    assert store.position("trouble", "soc") == store.position("trouble", "former") == 0
    ours = [line["event"] for line in said if "exc_info" in line]
    assert ours == ["an error of longwatch: trouble is logged and raises no incident"] * 2
    assert {line["receiver"] for line in said if line["event"] == "not told"} == {"soc", "former"}


def test_replay_by_receiver_goes_back_to_an_instant(store: IncidentStore, outbox: Outbox) -> None:
    waiting(store, 2, "former")
    courier_of(store)[0].run_once(NOW)
    assert outbox.replay_all("former", START + timedelta(seconds=1), NOW, BY_ADA) == 0
    assert outbox.replay_all("other", None, NOW, BY_ADA) == 0
    assert outbox.replay_all("former", START, NOW, BY_ADA) == 2
    assert outbox.waiting(NOW) == {"former": True}


@pytest.mark.slow
def test_all_is_delivered_within_the_schedule_whatever_the_outage(
    store: IncidentStore, outbox: Outbox
) -> None:
    chance = random.Random(7)
    with ExitStack() as stack:
        servers = [stack.enter_context(receiving()) for _ in range(6)]
        ends = [NOW + timedelta(hours=hours) for hours in (0, 0.01, 0.5, 6, 30, 67)]
        webhooks = [a_webhook(server.url, f"r{n}") for n, server in enumerate(servers)]
        for n in range(len(servers)):
            waiting(store, 2, f"r{n}", begin=2 * n)
        courier, troubles = courier_of(store, *webhooks)
        now = NOW
        while outbox.waiting(now) and now < NOW + timedelta(hours=84):
            for server, end in zip(servers, ends, strict=True):
                server.status = 204 if now >= end else chance.choice([500, 503, 301])
            moved = courier.run_once(now)
            early = now < NOW + timedelta(minutes=10)
            now += timedelta() if moved else timedelta(minutes=1 if early else 20)
    assert troubles == []
    assert {each.state for each in outbox.deliveries()} == {DeliveryState.DELIVERED}
    assert len({id for server in servers for id in server.ids()}) == 12


def test_thousand_receivers_at_rest_have_no_threads(store: IncidentStore) -> None:
    with receiving() as receiver:
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
