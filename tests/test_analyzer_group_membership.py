"""Several analyzers on one log: who reads which part, and what is shed where that is too much."""

import threading
from collections import Counter

import pytest
from structlog.testing import capture_logs

from analyzer.intake.committer import OffsetCommitter
from analyzer.intake.outcomes import HandledEntry, dead_letter_outcome
from analyzer.intake.queue import WindowQueue
from analyzer.intake.reader import FeedReader
from analyzer.intake.shedding import (
    AnalysisLoad,
    PendingWindow,
    first_of_each_camera,
    most_urgent_first,
    windows_to_shed,
)
from analyzer.models.runner import ModelRunner
from analyzer.worker import GROUP, AnalyzerWorker
from kit.model.small_model import small_runner, window
from kit.simulation.overload_simulation import OverloadSimulation, without_shedding
from storage.errors import OffsetMoved, StorageDown, Unreadable
from storage.log.log import LogEntry, LogPage
from storage.log.memory_log import MemoryLog
from storage.records.records import Finding
from storage.records.topics import FINDINGS, INCIDENTS, REQUESTS, WINDOWS
from storage.records.wire import decode_finding, encode_window
from test_watcher import watcher

CAMERAS = [f"c{n}" for n in range(6)]
STOP = threading.Event()


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return small_runner()


def worker(runner: ModelRunner, log: MemoryLog) -> AnalyzerWorker:
    return AnalyzerWorker(log, watcher(runner), keepalive=lambda seconds: None)


def cut(log: MemoryLog, numbers: range) -> None:
    for number in numbers:
        for camera in CAMERAS:
            log.append(WINDOWS, camera, encode_window(window(number, camera=camera)))


def findings(log: MemoryLog) -> list[Finding]:
    partitions = log.partitions(FINDINGS)
    return [
        decode_finding(entry.value)
        for partition in partitions
        for entry in log.read(partition, 0, 1000)
    ]


def work(*workers: AnalyzerWorker) -> None:
    while sum(each.run_once(STOP) for each in workers):
        pass


def test_analyzers_that_come_and_go_answer_as_one_that_stays(runner: ModelRunner) -> None:
    whole, log = MemoryLog(partitions=4), MemoryLog(partitions=4)
    for each in (whole, log):
        cut(each, range(2))
    stays, first = worker(runner, whole), worker(runner, log)
    work(stays)
    work(first)
    for each in (whole, log):
        cut(each, range(2, 4))
    second = worker(runner, log)
    work(first, second)
    work(stays)
    assert first.watcher.cameras | second.watcher.cameras == set(CAMERAS)
    assert not first.watcher.cameras & second.watcher.cameras
    assert first._analysed_at.keys() == first.watcher.cameras
    first._membership.close()  # it is gone; what it had goes to the other
    for each in (whole, log):
        cut(each, range(4, 6))
    work(second)
    work(stays)
    assert second.watcher.cameras == set(CAMERAS)
    wanted = {f.id: f.margin for f in findings(whole)}
    found = Counter(f.id for f in findings(log))
    assert set(found) == set(wanted)
    assert set(found.values()) == {1}
    for finding in findings(log):
        assert finding.margin == pytest.approx(wanted[finding.id], abs=1e-4)


def test_what_a_part_was_lost_for_is_not_committed(runner: ModelRunner) -> None:
    log = MemoryLog(partitions=4)
    cut(log, range(1))
    first = worker(runner, log)
    first.rebalance()
    waiting = first._fetch()
    second = worker(runner, log)
    work(second)
    taken = second._membership.partitions()
    lost = [each for each in waiting if each.partition in taken]
    assert lost
    committed = {each.partition: log.committed(GROUP, each.partition) for each in lost}
    first._step(STOP, lost)  # a zombie goes on with what it had read
    assert not {each.partition for each in lost} & first._queues.keys()
    assert committed == {partition: log.committed(GROUP, partition) for partition in committed}
    with pytest.raises(OffsetMoved):
        first._membership.commit(
            lost[0].partition, 9, second._membership.generation(lost[0].partition)
        )


def test_zombie_that_sheds_goes_on_without_what_it_lost(runner: ModelRunner) -> None:
    log = MemoryLog(partitions=4)
    cut(log, range(3))
    first = worker(runner, log)
    first.rebalance()
    waiting = first._fetch()
    second = worker(runner, log)
    work(second)
    lost = [each for each in waiting if each.partition in second._membership.partitions()]
    assert lost
    first._step_overloaded(STOP, lost)
    assert not first._queues.keys() & second._membership.partitions()


def test_analyzer_of_a_broker_that_forgot_reads_what_it_does_not_remember(
    runner: ModelRunner,
) -> None:
    kept, forgetful = MemoryLog(partitions=4), MemoryLog(partitions=4)
    cut(kept, range(3))
    reader = worker(runner, kept)
    work(reader)
    cut(forgetful, range(1, 2))
    for partition in kept.partitions(WINDOWS):
        forgetful.commit(GROUP, partition, kept.committed(GROUP, partition))
    reader.log, reader._membership = forgetful, forgetful.join_group(GROUP, WINDOWS)
    reader._committer._membership = reader._membership
    reader._reader = FeedReader(forgetful)
    with capture_logs() as log_lines:
        work(reader)
    assert {each["again_from"] for each in log_lines if "ends at" in each["event"]} == {0}
    assert findings(forgetful) == []  # window 1 is known
    cut(forgetful, range(3, 4))
    work(reader)
    assert {each.camera for each in findings(forgetful)} == set(CAMERAS)
    assert {each.start for each in findings(forgetful)} == {window(3).start}


def test_analyzer_starts_on_a_log_with_poison_that_ends_before_what_was_read(
    runner: ModelRunner,
) -> None:
    log = MemoryLog()
    cut(log, range(2))
    log.append(FINDINGS, CAMERAS[0], b"\x00poison")
    log.commit(GROUP, WINDOWS, 99)
    with capture_logs() as log_lines:
        work(worker(runner, log))
    assert [
        each["again_from"] for each in log_lines if "ends at 12, before 99" in each["event"]
    ] == [0]
    assert log.committed(GROUP, WINDOWS) == 12


def test_requests_of_a_part_regained_are_not_looked_at_twice(runner: ModelRunner) -> None:
    log = MemoryLog(partitions=4)
    first = worker(runner, log)
    work(first)
    second = worker(runner, log)
    work(first, second)
    partition = min(second._membership.partitions())
    camera = next(
        c for c in (f"c{n}" for n in range(99)) if log.partition_for(WINDOWS, c) == partition
    )
    for _ in range(6):
        log.append(REQUESTS, camera, b"unreadable")
    for _ in range(2):
        second.run_once(STOP)
        second._reply_all()
    assert log.committed(GROUP, log.partition_for(REQUESTS, camera)) == 6
    second._membership.close()
    first.run_once(STOP)
    assert first._reply_all() == 0


def test_what_was_read_under_a_tenure_that_is_over_is_not_committed_once_the_part_is_back(
    runner: ModelRunner,
) -> None:
    log = MemoryLog(partitions=4)
    cut(log, range(3))
    first = worker(runner, log)
    first.rebalance()
    waiting = first._fetch()
    second = worker(runner, log)
    work(second)
    lost = [each for each in waiting if each.partition in second._membership.partitions()]
    committed = {each.partition: log.committed(GROUP, each.partition) for each in lost}
    second._membership.close()
    assert first._membership.partitions() == frozenset(log.partitions(WINDOWS))
    first._step(STOP, lost)  # it owns the part again, and goes on with what it had read
    assert {partition: log.committed(GROUP, partition) for partition in committed} == committed
    assert not committed.keys() & first._queues.keys()
    work(first)
    found = Counter(finding.id for finding in findings(log))
    assert set(found.values()) == {1}


class ConfusedMembership:
    """A membership that names a partition which is not in the append."""

    attempts = 0

    def append(self, messages: object, commits: object) -> bool:
        self.attempts += 1
        assert self.attempts == 1
        raise OffsetMoved(GROUP, "elsewhere", 0)


def test_a_moved_offset_of_another_partition_ends_the_attempts() -> None:
    queues = {WINDOWS: WindowQueue(WINDOWS, 0, 1)}
    committer = OffsetCommitter(ConfusedMembership(), queues, queues.pop, lambda: None)  # type: ignore[arg-type]
    entry = LogEntry(WINDOWS, 0, "dock", 0, b"")
    outcome = dead_letter_outcome(entry, Unreadable("no window"))
    with pytest.raises(OffsetMoved, match="elsewhere"):
        committer.finish(STOP, [HandledEntry(entry=entry, outcome=outcome, claims=())])


class MarkerLog(MemoryLog):
    """A log in which some positions hold no entry, as those of aborted records on Kafka."""

    def read(
        self, partition: str, offset: int, limit: int = 100, key: str | None = None
    ) -> LogPage:
        page = super().read(partition, offset, limit, key)
        entries = [entry for entry in page if entry.value != b"marker"]
        return LogPage(
            entries,
            partition=partition,
            offset=offset,
            next_offset=page.next_offset,
            missed=page.missed,
        )


def test_positions_pass_what_is_no_entry_and_nothing_counts_as_missed(runner: ModelRunner) -> None:
    log = MarkerLog()
    cut(log, range(1))
    log.append(WINDOWS, CAMERAS[0], *[b"marker"] * 3)
    reader = worker(runner, log)
    with capture_logs() as log_lines:
        work(reader)
        log.append(WINDOWS, CAMERAS[0], *[b"marker"] * 2)  # nothing but markers
        work(reader)
        reader.run_once(STOP)
    assert log.committed(GROUP, WINDOWS) == log.end_offset(WINDOWS) == len(CAMERAS) + 5
    assert not [each for each in log_lines if "dropped" in each["event"]]
    assert len(findings(log)) == len(CAMERAS)


def test_a_part_whose_queue_is_full_is_not_wanted() -> None:
    queue = WindowQueue(WINDOWS, 5, 1)
    queue.limit = 2
    assert queue.next_fetch() == (5, 2)
    entries = [LogEntry(WINDOWS, offset, "dock", 0, b"") for offset in (6, 8)]
    queue.take(LogPage(entries, partition=WINDOWS, offset=5, next_offset=9))
    assert queue.next_fetch() is None
    queue.release(6)
    assert queue.next_fetch() == (9, 1)
    assert queue.commit_offset == 8


class FlakyLog(MemoryLog):
    """A log whose broker is away now and then."""

    away = 0

    def _there(self) -> None:
        if self.away:
            FlakyLog.away -= 1
            raise StorageDown("kafka", "away")

    def append(self, topic: str, key: str, *values: bytes) -> int:
        self._there()
        return super().append(topic, key, *values)

    def commit(self, group: str, partition: str, offset: int) -> None:
        self._there()
        super().commit(group, partition, offset)

    def read(
        self, partition: str, offset: int, limit: int = 100, key: str | None = None
    ) -> LogPage:
        self._there()
        return super().read(partition, offset, limit, key)


def test_log_that_is_away_now_and_then_costs_no_finding(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyzer.intake.committer.BLOCKED_WAIT", 0.01)
    log, stop = FlakyLog(partitions=2), threading.Event()
    cut(log, range(2))
    thread = threading.Thread(target=worker(runner, log).run, args=(stop,))
    with capture_logs() as log_lines:
        thread.start()
        for number in range(2, 6):
            cut(log, range(number, number + 1))
            FlakyLog.away = 7
            while FlakyLog.away:
                stop.wait(0.02)
    assert len([each for each in log_lines if each["event"] == "analysis waits"]) <= 4
    for _ in range(500):
        if (
            sum(len(log._partitions[partition].entries) for partition in log.partitions(FINDINGS))
            >= 36
        ):
            break
        stop.wait(0.02)
    stop.set()
    thread.join()
    assert Counter(f.id for f in findings(log)) == {
        f"{window(n, camera=camera).id}/fire/{findings(log)[0].question_version}": 1
        for n in range(6)
        for camera in CAMERAS
    }


def waits(camera: str, offset: int, at: float = 0.0) -> PendingWindow:
    return PendingWindow(
        camera=camera, partition="windows", offset=offset, arrived_at=at or float(offset)
    )


def test_of_each_camera_the_newest_waits_and_more_where_an_incident_is_open() -> None:
    waiting = [waits("dock", n) for n in range(5)] + [waits("yard", n) for n in range(5, 10)]
    gone = windows_to_shed(waiting, {"yard"})
    assert [each.offset for each in gone] == [0, 1, 2, 3, 5, 6]


def test_unseen_comes_first_then_open_then_who_waited_longest() -> None:
    waiting = [waits("a", 1), waits("b", 2), waits("open", 3), waits("late", 4), waits("a", 5)]
    seen = {"a": 90.0, "b": 80.0, "open": 95.0, "late": 10.0}
    order = most_urgent_first(waiting, {"open"}, seen, now=100.0)
    assert [each.camera for each in order] == ["late", "open", "b", "a"]
    assert [each.offset for each in first_of_each_camera(waiting)] == [1, 2, 3, 4]


def test_a_backlog_is_no_overload_but_slowness_is() -> None:
    load = AnalysisLoad()
    for n in range(100):
        load.record_arrival("windows", 10.0 * n)  # read at once, after a restart
    load.record_batch(8.0, 1)
    assert not load.update()
    load.record_batch(14.0, 1)
    assert load.update()
    load.record_batch(8.0, 1)
    assert load.update()  # not quite below the lower bound
    load.record_batch(2.0, 2)
    assert not load.update()


def test_overload_keeps_up_and_leaves_no_camera_or_second_out() -> None:
    found = OverloadSimulation(12, 3.0, watched=(0, 5)).run(360)
    assert found.lag(0.99) <= 3
    assert min(found.covered(f"camera-{n}") for n in (0, 5)) >= 0.9
    assert max(found.gaps) <= 60
    assert found.unexplained == 0
    assert found.max_waiting <= 12 * 3 + 64


def test_overload_reads_as_many_together_as_is_cheapest() -> None:
    """A pass costs a second and each window 0.6: four at a time are 1.2 a second, eight 1.4."""
    found = OverloadSimulation(12, 0.9, watched=(), pass_seconds=1.0).run(360)
    assert sum(found.analysed.values()) >= 0.85 * found.windows


def test_overload_asks_for_the_end_of_the_incidents_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = OverloadSimulation(12, 3.0, watched=(0, 5)), list[str]()
    next_of = run.log.end_offset

    def end_offset(partition: str) -> int:
        asked.append(partition)
        return next_of(partition)

    monkeypatch.setattr(run.log, "end_offset", end_offset)
    assert run.run(120).lag(0.99) <= 3
    assert Counter(
        partition for partition in asked if partition.startswith(INCIDENTS)
    ) == dict.fromkeys(run.log.partitions(INCIDENTS), 1)


def test_without_shedding_overload_falls_ever_further_behind() -> None:
    assert without_shedding(OverloadSimulation(12, 3.0, watched=(0,))).run(360).lag(0.99) > 20


def test_without_overload_nothing_is_shed() -> None:
    found = OverloadSimulation(12, 0.8, watched=()).run(360)
    assert sum(found.analysed.values()) >= found.windows - 24
