"""The judge follows all parts at once: positions pass what is no entry, and cost little at rest."""

import threading
from collections.abc import Mapping
from functools import partial

import pytest
from sqlalchemy import event
from structlog.testing import capture_logs

from alerts.incidents.publisher import Publisher
from alerts.intake.cursor import READER, LogCursor
from alerts.intake.log_availability import LogAvailability
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from kit.coverage.claims import a_claim
from kit.storage.fixtures import a_finding
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.errors import OffsetMoved
from storage.log.log import LogEntry, LogPage, ReadRequest
from storage.log.memory_log import MemoryLog
from storage.log.sole import SequentialTailReader
from storage.records.claims import encode_claim
from storage.records.records import CoverageState
from storage.records.topics import COVERAGE, FINDINGS
from storage.records.wire import encode_finding

RULE = Rule(name="bag", question="bag", above=0.8, below=0.5)


class HoledFollower:
    """A follower of a log in which nothing is an entry before each position in `holes`."""

    def __init__(self, log: MemoryLog, holes: dict[str, int]) -> None:
        self._follower = SequentialTailReader(log)
        self._holes = holes
        self.reads = 0

    def read(self, requests: Mapping[str, ReadRequest]) -> list[LogPage]:
        self.reads += 1
        pages = list[LogPage]()
        for partition, (offset, limit) in requests.items():
            hole = self._holes.get(partition, 0)
            below = max(0, offset - hole)
            for page in self._follower.read({partition: ReadRequest(below, limit)}):
                pages.append(
                    LogPage(
                        [_with_offset_shift(entry, hole) for entry in page],
                        partition=partition,
                        offset=offset,
                        next_offset=page.next_offset + hole,
                        missed=page.missed,
                    )
                )
            if below + hole > offset and not any(each.partition == partition for each in pages):
                pages.append(
                    LogPage([], partition=partition, offset=offset, next_offset=below + hole)
                )
        return pages

    def wait(self, stop: threading.Event, seconds: float) -> None:
        self._follower.wait(stop, seconds)

    def close(self) -> None:
        self._follower.close()


def _with_offset_shift(entry: LogEntry, by: int) -> LogEntry:
    return entry._replace(offset=entry.offset + by)


class HoledLog(MemoryLog):
    """A log with markers where it begins."""

    def __init__(self, partitions: int = 1) -> None:
        super().__init__(partitions=partitions)
        self.holes = dict[str, int]()
        self.followers = list[HoledFollower]()

    def follow(self) -> HoledFollower:  # type: ignore[override]
        self.followers.append(HoledFollower(self, self.holes))
        return self.followers[-1]


def worker(log: MemoryLog, store: AlertStore) -> AlertsWorker:
    return AlertsWorker(log, store, [RULE], lambda _: None, cameras=("dock",))


def find(log: MemoryLog, number: int, score: float = 0.9, camera: str = "dock") -> None:
    log.append(FINDINGS, camera, encode_finding(a_finding(number, score, camera)))


def test_positions_pass_markers_though_no_entry_came(store: AlertStore) -> None:
    log = HoledLog()
    log.holes[FINDINGS] = 7
    with capture_logs() as log_lines:
        worker(log, store).run_once()
    assert store.committed_offset(READER, FINDINGS) == 7
    assert [each for each in log_lines if each["log_level"] == "error"] == []
    find(log, 0)
    assert worker(log, store).run_once() == 1
    assert store.committed_offset(READER, FINDINGS) == 8


def test_hole_of_markers_is_no_loss_of_claims(store: AlertStore) -> None:
    """Positions that hold no entry are not missed, and no camera was shed for them."""
    log = HoledLog()
    states = (CoverageState.ANALYSED, CoverageState.ANALYSED)
    first, second = (a_claim(n * 60, n * 60 + 10, state) for n, state in enumerate(states))
    log.append(COVERAGE, "dock", encode_claim(first))
    judge = worker(log, store)
    judge.run_once()
    log.holes[COVERAGE] = 3
    log.append(COVERAGE, "dock", encode_claim(second))
    judge.run_once()
    with store.transaction() as transaction:
        latest = transaction.coverage.latest("dock")
    assert latest is not None
    assert (latest.state, latest.start) == (CoverageState.ANALYSED, second.start)


def test_step_at_rest_asks_the_database_for_no_position(store: AlertStore) -> None:
    log, said = MemoryLog(partitions=48), list[str]()
    judge = AlertsWorker(log, store, [RULE], lambda _: None, publisher=Publisher(log, store))
    judge.run_once()
    event.listen(store.engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    for _ in range(20):
        judge.run_once()
    assert said == []


def test_one_look_is_one_read_of_all_parts(store: AlertStore) -> None:
    log = HoledLog(partitions=12)
    judge = worker(log, store)
    for number in range(24):
        find(log, number, camera=f"camera-{number}")
    assert judge.run_once() == 24
    (follower,) = log.followers
    assert follower.reads == 1


def test_another_that_moved_a_position_is_followed_from_there(store: AlertStore) -> None:
    log = MemoryLog()
    judge = worker(log, store)
    for number in range(4):
        find(log, number)
    assert judge.run_once() == 4
    find(log, 4)
    find(log, 5)
    assert worker(log, store).run_once() == 2
    with pytest.raises(OffsetMoved):
        judge.run_once()
    assert judge.run_once() == 0
    find(log, 6)
    assert judge.run_once() == 1
    assert store.committed_offset(READER, FINDINGS) == 7


def test_part_that_ends_too_early_keeps_no_other_from_being_read(store: AlertStore) -> None:
    log = MemoryLog(partitions=4)
    cameras = [f"camera-{n}" for n in range(12)]
    for camera in cameras:
        find(log, 0, camera=camera)
    worker(log, store).run_once()
    short = log.partition_for(FINDINGS, cameras[0])
    with store.transaction() as transaction:
        transaction.advance_offset(READER, short, log.end_offset(short), log.end_offset(short) + 5)
    for camera in cameras[1:]:
        find(log, 1, camera=camera)
    with capture_logs() as log_lines:
        assert worker(log, store).run_once() >= 11
    assert [each["event"].split()[0] for each in log_lines if each["log_level"] == "error"] == [
        short
    ]
    assert store.counts().findings == 23


def test_failed_commit_looks_the_positions_up_again(store: AlertStore) -> None:
    log = MemoryLog()
    find(log, 0)
    reading = LogCursor(log, store, LogAvailability())
    pages = reading.read(10)
    with pytest.raises(ZeroDivisionError), reading.transaction(pages):
        raise ZeroDivisionError
    assert [page.offset for page in reading.read(10)] == [0]
    with reading.transaction(reading.read(10)):
        pass
    assert reading.read(10) == []


def test_parts_that_are_added_are_read_soon(store: AlertStore) -> None:
    log, now = MemoryLog(partitions=2), [0.0]
    reading = LogCursor(log, store, LogAvailability(), clock=lambda: now[0])
    assert reading.read(10) == []
    old = set(log.partitions(FINDINGS))
    for number in range(6):
        find(log, number, camera=f"camera-{number}")
    log._partition_count = 4
    for number in range(12):
        find(log, number, camera=f"camera-{number}")
    now[0] += 60
    pages = reading.read(100)
    assert {page.partition for page in pages} == old  # cameras move: what waits is read first
    with reading.transaction(pages):
        pass
    now[0] += 60
    assert {page.partition for page in reading.read(100)} == set(log.partitions(FINDINGS)) - old


def has_findings(store: AlertStore, count: int) -> bool:
    return store.counts().findings == count


def test_finding_wakes_the_judge_at_once(
    store: AlertStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.loop.POLL_SECONDS", 3600.0)
    log, stop = MemoryLog(partitions=3), threading.Event()
    judge = worker(log, store)
    thread = threading.Thread(target=judge.run, args=(stop,))
    thread.start()
    try:
        for number in range(3):
            find(log, number, camera=f"camera-{number}")
            wait_for(partial(has_findings, store, number + 1))
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
