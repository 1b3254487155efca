"""Loops of one process wake each other, so that none of them has to look often."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event
from typing import Protocol

import pytest
import structlog
from structlog.testing import capture_logs

from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.grouping import NotificationPolicy
from alerts.notify import courier
from alerts.notify.courier import Courier
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from kit.alerts.routing import AT_ONCE
from kit.alerts.webhook_receiver import RecordingReceiver, a_webhook, run_receiver
from kit.storage.fixtures import WINDOW_LENGTH, a_finding
from kit.waiting import wait_for
from storage import loop
from storage.db.alert_store import AlertStore
from storage.db.transaction import PendingWork
from storage.errors import StorageDown
from storage.log.memory_log import MemoryLog
from storage.records.topics import FINDINGS
from storage.records.wire import encode_finding

HOUR = 3600.0
RULE = Rule(name="bag", question="bag", above=0.8, below=0.5, notify=("soc",))


@pytest.fixture(autouse=True)
def nobody_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (courier, loop):
        monkeypatch.setattr(each, "POLL_SECONDS", HOUR)


class AlertLoop(Protocol):
    def run(self, stop: Event, /) -> None: ...


@contextmanager
def alerting(
    log: MemoryLog,
    store: AlertStore,
    routing: NotificationPolicy,
    to: RecordingReceiver,
    a_router: type[Dispatcher] = Dispatcher,
) -> Iterator[None]:
    stop = Event()
    judge = AlertsWorker(log, store, [RULE], lambda _: None, policy=routing)
    loops: list[AlertLoop] = [judge, a_router(store, routing), Courier(store, [a_webhook(to.url)])]
    with ThreadPoolExecutor() as threads:
        running = [threads.submit(each.run, stop) for each in loops]
        try:
            time.sleep(0.3)  # all of them have looked, and wait
            yield
        finally:
            stop.set()
    for each in running:
        each.result()


def has_posts(receiver: RecordingReceiver, count: int) -> bool:
    return len(receiver.posts) == count


def find(log: MemoryLog, camera: str) -> None:
    now = datetime.now(UTC)
    finding = replace(a_finding(camera=camera), start=now - WINDOW_LENGTH, end=now)
    log.append(FINDINGS, camera, encode_finding(finding))


def test_finding_is_told_though_nobody_polls(store: AlertStore) -> None:
    log = MemoryLog()
    with run_receiver() as receiver, alerting(log, store, AT_ONCE, receiver):
        for number in range(3):
            find(log, f"camera-{number}")
            wait_for(partial(has_posts, receiver, number + 1))


def test_group_that_waits_is_told_when_it_is_due(store: AlertStore) -> None:
    log, wait = MemoryLog(), timedelta(seconds=1)
    waiting = replace(AT_ONCE, default=replace(AT_ONCE.default, group_wait=wait))
    with run_receiver() as receiver, alerting(log, store, waiting, receiver):
        begun = time.monotonic()
        find(log, "dock")
        wait_for(lambda: len(receiver.posts) == 1)
        assert receiver.posts[0].at - begun > 0.9


class SlowRouter(Dispatcher):
    """A router on a machine so slow that groups come due while it looks."""

    def run_once(self, now: datetime) -> int:
        written = super().run_once(now)
        time.sleep(0.6)
        return written


def test_group_that_comes_due_during_a_look_is_told_at_the_next(store: AlertStore) -> None:
    log, wait = MemoryLog(), timedelta(seconds=1)
    waiting = replace(AT_ONCE, default=replace(AT_ONCE.default, group_wait=wait))
    with run_receiver() as receiver, alerting(log, store, waiting, receiver, SlowRouter):
        find(log, "dock")
        wait_for(lambda: len(receiver.posts) == 1, 15)


def test_wait_ends_with_the_event_which_is_cleared() -> None:
    event, stop = Event(), Event()
    event.set()
    loop.wait_for(event, stop, HOUR)
    assert not event.is_set()
    threading.Timer(0.05, event.set).start()
    loop.wait_for(event, stop, HOUR)
    threading.Timer(0.05, stop.set).start()
    loop.wait_for(event, stop, HOUR)
    began = time.monotonic()
    loop.wait_for(event, Event(), 0.05)
    assert 0.05 <= time.monotonic() - began < 5


def test_loop_that_is_woken_all_the_time_leaves_time_to_others() -> None:
    stop, steps = Event(), list[float]()

    def step() -> int:
        steps.append(time.monotonic())
        time.sleep(0.05)
        if len(steps) == 5:
            stop.set()
        return 1

    logger = structlog.get_logger()
    loop.repeat(step, stop, logger, seconds=HOUR, wait=lambda _, __: None)
    assert steps[-1] - steps[0] >= 4 * 2 * 0.05


def test_work_of_a_transaction_that_failed_is_not_announced(store: AlertStore) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        transaction.pending_work.add(PendingWork.DISPATCH)
        raise ZeroDivisionError
    assert not store.pending_work[PendingWork.DISPATCH].is_set()
    with store.transaction() as transaction:
        transaction.pending_work.add(PendingWork.DISPATCH)
        assert not store.pending_work[PendingWork.DISPATCH].is_set()
    assert store.pending_work[PendingWork.DISPATCH].is_set()


def test_storage_that_is_blocked_while_a_loop_waits_is_waited_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "BLOCKED_SECONDS", 0.01)
    stop, steps, waits = Event(), list[int](), list[float]()

    def step() -> int:
        steps.append(len(waits))
        if len(steps) == 3:
            stop.set()
        return 0

    def wait(_: Event, seconds: float) -> None:
        waits.append(seconds)
        raise StorageDown("the database", "it restarts")

    with capture_logs() as log_lines:
        loop.repeat(step, stop, structlog.get_logger(), seconds=HOUR, wait=wait)
    assert steps == [0, 1, 2]
    assert "it restarts" in log_lines[0]["event"]
