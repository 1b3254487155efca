"""A topic that refuses what is written to it holds up nothing else, and has all of it later."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from alerts.incidents.publisher import Publisher
from alerts.intake.progress_check import ProgressCheck
from deploy.config.log_access import ALERT
from kit.chaos.topic_refusals import run_under_refusal
from kit.coverage.claims import a_claim
from kit.kafka.refusals import KINDS
from kit.storage.fixtures import START
from storage.db.alert_store import AlertStore
from storage.db.rows.coverage import CoverageStore
from storage.db.transaction import PendingWork
from storage.errors import StorageBlocked, StorageDown
from storage.records.claims import encode_claim
from storage.records.records import CoverageState, TimeSpan
from storage.records.topics import COVERAGE, DEAD_LETTERS, FINDINGS, INCIDENTS
from storage.records.wire import decode_incident
from test_alerts_log_unreachable import GONE, BrokenLog, Site

LOST = 5
"""Revisions whose answer may be lost: a try may end while a broker begins to take them."""
REFUSED = StorageDown("kafka at 127.0.0.1:1", "topic incidents: fewer replicas are in sync")


class ChoosyLog(BrokenLog):
    """A log that takes nothing of some topics and, while it is `torn`, half of a topic at a try."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = set[str]()
        self.torn = False

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        if topic in self.refused:
            raise REFUSED
        if not self.torn:
            return super().append_all(topic, list(values))
        kept = range((len(values) + 1) // 2)
        super().append_all(topic, [values[index] for index in kept])
        error = StorageDown("kafka at 127.0.0.1:1", f"lost after {len(kept)}")
        error.durable_indices = frozenset(kept)
        raise error


class ChoosySite(Site):
    log: ChoosyLog

    def __init__(self, store: AlertStore) -> None:
        super().__init__(store, log=ChoosyLog())

    def revise(self, count: int) -> None:
        for number in range(count):
            self.find(number)
            self.judge.run_once()

    def published(self) -> list[int]:
        return [decode_incident(entry.value).revision for entry in self.log.read(INCIDENTS, 0)]


@pytest.fixture
def site(store: AlertStore) -> ChoosySite:
    return ChoosySite(store)


def test_topic_that_refuses_holds_up_no_other(site: ChoosySite) -> None:
    site.revise(2)
    site.log.append(FINDINGS, "dock", b"\x00garbage")
    site.judge.run_once()
    site.log.refused = {INCIDENTS}
    assert site.publisher.run_once() == 1
    assert site.log.end_offset(DEAD_LETTERS) == 1
    with pytest.raises(StorageBlocked, match="fewer replicas"):
        site.publisher.run_once()
    site.log.refused.clear()
    assert site.publisher.run_once() == 2
    assert site.published() == [1, 2]


def test_what_a_log_kept_of_what_it_refused_is_not_appended_again(site: ChoosySite) -> None:
    site.revise(7)
    site.log.torn = True
    for _ in range(2):
        assert site.publisher.run_once()
    site.log.torn = False
    while site.publisher.run_once():
        pass
    assert site.published() == [1, 2, 3, 4, 5, 6, 7]


def test_what_the_log_has_is_not_appended_again_where_the_database_failed(
    site: ChoosySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.revise(2)

    def fail(*_: object) -> None:
        raise GONE

    with monkeypatch.context() as patch:
        patch.setattr(site.publisher, "_save_offset", fail)
        with pytest.raises(StorageDown):
            site.publisher.run_once()
    while site.publisher.run_once():
        pass
    assert site.published() == [1, 2]


def aloud(publisher: Publisher) -> int:
    """Take a step that says what a running publisher says."""
    try:
        return publisher.run_once()
    finally:
        for each in publisher._appenders:
            each.log_state()


def test_each_reason_is_said_once_and_its_end_too(site: ChoosySite) -> None:
    site.revise(4)
    site.log.torn = True
    with capture_logs() as log_lines:
        for _ in range(2):
            aloud(site.publisher)
        site.log.torn = False
        while aloud(site.publisher):
            pass
    told = [(each["topic"], each["event"].partition(" (")[0]) for each in log_lines]
    down = "kafka at 127.0.0.1:1 does not answer"
    assert told == [(INCIDENTS, down), (INCIDENTS, "the log takes what waited")]


def test_what_is_refused_again_and_again_is_said_once_a_minute(
    site: ChoosySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 1000, 20))
    monkeypatch.setattr(site.publisher._incidents, "_clock", lambda: float(next(seconds)))
    with capture_logs() as log_lines:
        for number in range(6):
            site.find(number)
            site.judge.run_once()
            site.log.refused = {INCIDENTS}
            with pytest.raises(StorageBlocked):
                aloud(site.publisher)
            site.log.refused.clear()
            aloud(site.publisher)
    levels = [each["log_level"] for each in log_lines if each.get("topic") == INCIDENTS]
    assert levels == ["error", "info"]


def test_publisher_that_runs_goes_on_with_the_other_topic(site: ChoosySite) -> None:
    site.log.refused = {INCIDENTS}
    stop = threading.Event()
    thread = threading.Thread(target=site.publisher.run, args=(stop,))
    thread.start()
    try:
        site.revise(1)
        for number in range(3):
            site.log.append(FINDINGS, "dock", b"\x00garbage")
            site.judge.run_once()
            deadline = time.monotonic() + 5
            while site.log.end_offset(DEAD_LETTERS) <= number:
                assert time.monotonic() < deadline
                site.store.pending_work[PendingWork.PUBLISH].set()
                time.sleep(0.01)
        assert site.log.end_offset(INCIDENTS) == 0
    finally:
        stop.set()
        thread.join()


def test_what_a_sweep_finds_is_in_the_ledger_though_the_log_takes_nothing(
    site: ChoosySite, engine: Engine
) -> None:
    claim = a_claim(0, 10, CoverageState.WAITING, "dock")
    site.log.append(COVERAGE, "dock", encode_claim(claim))
    site.judge.run_once()
    site.log.refuses = REFUSED
    site.judge.coverage.sweep(START)  # no window is there
    span = TimeSpan(start=claim.start or claim.end, end=claim.end)
    states = [each.state for each in CoverageStore(engine).between("dock", span)]
    assert states == [CoverageState.SHED]
    assert site.log.end_offset(COVERAGE) == 1
    assert COVERAGE not in ALERT.writes


def test_log_that_hangs_does_not_hold_up_who_asks_for_the_pulse(store: AlertStore) -> None:
    answers = threading.Event()

    class HangingLog(BrokenLog):
        def end_offset(self, partition: str) -> int:
            answers.wait(10)
            return super().end_offset(partition)

    pulse = ProgressCheck(HangingLog(), store)
    began = time.monotonic()
    assert not pulse.observe()
    assert time.monotonic() - began < 5
    answers.set()
    deadline = time.monotonic() + 5
    while not pulse.observe():
        assert time.monotonic() < deadline


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_incidents_do_not_wait_for_a_topic_that_refuses_them(tmp_path: Path, kind: str) -> None:
    result = run_under_refusal(tmp_path, kind, before=8, seconds=25)
    print(result)
    assert result.refusing.count > 20
    assert result.waiting > 0, "nothing was refused"
    assert result.unposted == 0
    assert result.refusing.p50 < max(2.0, 3 * result.before.p95)
    assert result.dead_meanwhile > 0
    assert result.left_out == result.out_of_order == 0
    assert result.twice <= LOST, "more than what was under way at the end of a try"
    assert result.dead_left_out == result.dead_twice == 0
    assert len(result.lines) == 1
