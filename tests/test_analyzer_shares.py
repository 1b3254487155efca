"""Several analyzers on one log: who reads which part, and what is shed where that is too much."""

import threading
from collections import Counter
from typing import Any

import pytest
from overload_run import Overload, without_shedding
from small_model import small_speaker, window
from structlog.testing import capture_logs
from test_watcher import watcher

from analyzer.intake import Intake
from analyzer.queue import Queue
from analyzer.shedding import Load, Waiting, by_need, in_order, shed
from analyzer.videoxl2.speaker import Speaker
from analyzer.worker import READER, AnalyzerWorker
from storage.errors import PositionMoved, StorageDown
from storage.log import FINDINGS, INCIDENTS, REQUESTS, WINDOWS, Entry, Page
from storage.memory_log import MemoryLog
from storage.records import Finding
from storage.wire import decode_finding, encode_window

CAMERAS = [f"c{n}" for n in range(6)]
STOP = threading.Event()


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return small_speaker()


def worker(speaker: Speaker, log: MemoryLog) -> AnalyzerWorker:
    return AnalyzerWorker(log, watcher(speaker), promise=lambda seconds: None)


def cut(log: MemoryLog, numbers: range) -> None:
    for number in numbers:
        for camera in CAMERAS:
            log.append(WINDOWS, camera, encode_window(window(number, camera=camera)))


def findings(log: MemoryLog) -> list[Finding]:
    parts = log.parts(FINDINGS)
    return [decode_finding(entry.value) for part in parts for entry in log.read(part, 0, 1000)]


def work(*workers: AnalyzerWorker) -> None:
    while sum(each.run_once(STOP) for each in workers):
        pass


def test_analyzers_that_come_and_go_answer_as_one_that_stays(speaker: Speaker) -> None:
    whole, log = MemoryLog(parts=4), MemoryLog(parts=4)
    for each in (whole, log):
        cut(each, range(2))
    stays, first = worker(speaker, whole), worker(speaker, log)
    work(stays)
    work(first)
    for each in (whole, log):
        cut(each, range(2, 4))
    second = worker(speaker, log)
    work(first, second)
    work(stays)
    assert first.watcher.cameras | second.watcher.cameras == set(CAMERAS)
    assert not first.watcher.cameras & second.watcher.cameras
    first._share.close()  # it is gone; what it had goes to the other
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


def test_what_a_part_was_lost_for_is_not_committed(speaker: Speaker) -> None:
    log = MemoryLog(parts=4)
    cut(log, range(1))
    first = worker(speaker, log)
    first.rehearse()
    waiting = first._read_on()
    second = worker(speaker, log)
    work(second)
    taken = second._share.parts()
    lost = [each for each in waiting if each.part in taken]
    assert lost
    committed = {each.part: log.committed(READER, each.part) for each in lost}
    first._step(STOP, lost)  # a zombie goes on with what it had read
    assert not {each.part for each in lost} & first._queues.keys()
    assert committed == {part: log.committed(READER, part) for part in committed}
    with pytest.raises(PositionMoved):
        first._share.commit(lost[0].part, 9, second._share.tenure(lost[0].part))


def test_zombie_that_sheds_goes_on_without_what_it_lost(speaker: Speaker) -> None:
    log = MemoryLog(parts=4)
    cut(log, range(3))
    first = worker(speaker, log)
    first.rehearse()
    waiting = first._read_on()
    second = worker(speaker, log)
    work(second)
    lost = [each for each in waiting if each.part in second._share.parts()]
    assert lost
    first._hurry(STOP, lost)
    assert not first._queues.keys() & second._share.parts()


def test_analyzer_of_a_broker_that_forgot_reads_what_it_does_not_remember(
    speaker: Speaker,
) -> None:
    kept, forgetful = MemoryLog(parts=4), MemoryLog(parts=4)
    cut(kept, range(3))
    reader = worker(speaker, kept)
    work(reader)
    cut(forgetful, range(1, 2))
    for part in kept.parts(WINDOWS):
        forgetful.commit(READER, part, kept.committed(READER, part))
    reader.log, reader._share = forgetful, forgetful.join(READER, WINDOWS)
    reader._intake = Intake(forgetful)
    with capture_logs() as said:
        work(reader)
    assert {each["again_from"] for each in said if "ends at" in each["event"]} == {0}
    assert findings(forgetful) == []  # window 1 is known
    cut(forgetful, range(3, 4))
    work(reader)
    assert {each.camera for each in findings(forgetful)} == set(CAMERAS)
    assert {each.start for each in findings(forgetful)} == {window(3).start}


def test_analyzer_starts_on_a_log_with_poison_that_ends_before_what_was_read(
    speaker: Speaker,
) -> None:
    log = MemoryLog()
    cut(log, range(2))
    log.append(FINDINGS, CAMERAS[0], b"\x00poison")
    log.commit(READER, WINDOWS, 99)
    with capture_logs() as said:
        work(worker(speaker, log))
    assert [each["again_from"] for each in said if "ends at 12, before 99" in each["event"]] == [0]
    assert log.committed(READER, WINDOWS) == 12


def test_requests_of_a_part_regained_are_not_looked_at_twice(speaker: Speaker) -> None:
    log = MemoryLog(parts=4)
    first = worker(speaker, log)
    work(first)
    second = worker(speaker, log)
    work(first, second)
    part = min(second._share.parts())
    camera = next(c for c in (f"c{n}" for n in range(99)) if log.part_of(WINDOWS, c) == part)
    for _ in range(6):
        log.append(REQUESTS, camera, b"unreadable")
    for _ in range(2):
        second.run_once(STOP)
        second._reply_all()
    assert log.committed(READER, log.part_of(REQUESTS, camera)) == 6
    second._share.close()
    first.run_once(STOP)
    assert first._reply_all() == 0


def test_what_was_read_under_a_tenure_that_is_over_is_not_committed_once_the_part_is_back(
    speaker: Speaker,
) -> None:
    log = MemoryLog(parts=4)
    cut(log, range(3))
    first = worker(speaker, log)
    first.rehearse()
    waiting = first._read_on()
    second = worker(speaker, log)
    work(second)
    lost = [each for each in waiting if each.part in second._share.parts()]
    committed = {each.part: log.committed(READER, each.part) for each in lost}
    second._share.close()
    assert first._share.parts() == frozenset(log.parts(WINDOWS))
    first._step(STOP, lost)  # it owns the part again, and goes on with what it had read
    assert {part: log.committed(READER, part) for part in committed} == committed
    assert not committed.keys() & first._queues.keys()
    work(first)
    found = Counter(finding.id for finding in findings(log))
    assert set(found.values()) == {1}


class Marked(MemoryLog):
    """A log in which some positions hold no entry, as those of aborted records on Kafka."""

    def read(self, part: str, position: int, limit: int = 100, key: str | None = None) -> Page:
        page = super().read(part, position, limit, key)
        entries = [entry for entry in page if entry.value != b"marker"]
        return Page(entries, part=part, position=position, next=page.next, missed=page.missed)


def test_positions_pass_what_is_no_entry_and_nothing_counts_as_missed(speaker: Speaker) -> None:
    log = Marked()
    cut(log, range(1))
    log.append(WINDOWS, CAMERAS[0], *[b"marker"] * 3)
    reader = worker(speaker, log)
    with capture_logs() as said:
        work(reader)
        log.append(WINDOWS, CAMERAS[0], *[b"marker"] * 2)  # nothing but markers
        work(reader)
        reader.run_once(STOP)
    assert log.committed(READER, WINDOWS) == log.next(WINDOWS) == len(CAMERAS) + 5
    assert not [each for each in said if "dropped" in each["event"]]
    assert len(findings(log)) == len(CAMERAS)


def test_a_part_whose_queue_is_full_is_not_wanted() -> None:
    queue = Queue(WINDOWS, 5, 1)
    queue.limit = 2
    assert queue.want() == (5, 2)
    entries = [Entry(WINDOWS, position, "dock", 0, b"") for position in (6, 8)]
    queue.take(Page(entries, part=WINDOWS, position=5, next=9))
    assert queue.want() is None
    queue.done(6)
    assert queue.want() == (9, 1)
    assert queue.position == 8


class Broken(MemoryLog):
    """A log whose broker is away now and then."""

    away = 0

    def _there(self) -> None:
        if self.away:
            Broken.away -= 1
            raise StorageDown("kafka", "away")

    def append(self, topic: str, key: str, *values: bytes) -> int:
        self._there()
        return super().append(topic, key, *values)

    def commit(self, reader: str, part: str, position: int) -> None:
        self._there()
        super().commit(reader, part, position)

    def read(self, part: str, position: int, limit: int = 100, key: str | None = None) -> list[Any]:
        self._there()
        return super().read(part, position, limit, key)


def test_log_that_is_away_now_and_then_costs_no_finding(
    speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyzer.worker.FULL", 0.01)
    log, stop = Broken(parts=2), threading.Event()
    cut(log, range(2))
    thread = threading.Thread(target=worker(speaker, log).run, args=(stop,))
    with capture_logs() as said:
        thread.start()
        for number in range(2, 6):
            cut(log, range(number, number + 1))
            Broken.away = 7
            while Broken.away:
                stop.wait(0.02)
    assert len([each for each in said if each["event"] == "analysis waits"]) <= 4
    for _ in range(500):
        if sum(len(log._topics[part].entries) for part in log.parts(FINDINGS)) >= 36:
            break
        stop.wait(0.02)
    stop.set()
    thread.join()
    assert Counter(f.id for f in findings(log)) == {
        f"{window(n, camera=camera).id}/fire/{findings(log)[0].question_version}": 1
        for n in range(6)
        for camera in CAMERAS
    }


def waits(camera: str, position: int, at: float = 0.0) -> Waiting:
    return Waiting(camera=camera, part="windows", position=position, at=at or float(position))


def test_of_each_camera_the_newest_waits_and_more_where_an_incident_is_open() -> None:
    waiting = [waits("dock", n) for n in range(5)] + [waits("yard", n) for n in range(5, 10)]
    gone = shed(waiting, {"yard"})
    assert [each.position for each in gone] == [0, 1, 2, 3, 5, 6]


def test_unseen_comes_first_then_open_then_who_waited_longest() -> None:
    waiting = [waits("a", 1), waits("b", 2), waits("open", 3), waits("late", 4), waits("a", 5)]
    seen = {"a": 90.0, "b": 80.0, "open": 95.0, "late": 10.0}
    order = by_need(waiting, {"open"}, seen, now=100.0)
    assert [each.camera for each in order] == ["late", "open", "b", "a"]
    assert [each.position for each in in_order(waiting)] == [1, 2, 3, 4]


def test_a_backlog_is_no_overload_but_slowness_is() -> None:
    load = Load()
    for n in range(100):
        load.arrive("windows", 10.0 * n)  # read at once, after a restart
    load.work(8.0, 1)
    assert not load.judge()
    load.work(14.0, 1)
    assert load.judge()
    load.work(8.0, 1)
    assert load.judge()  # not quite below the lower bound
    load.work(2.0, 2)
    assert not load.judge()


def test_overload_keeps_up_and_leaves_no_camera_or_second_out() -> None:
    found = Overload(12, 3.0, watched=(0, 5)).live(360)
    assert found.lag(0.99) <= 3
    assert min(found.covered(f"camera-{n}") for n in (0, 5)) >= 0.9
    assert max(found.gaps) <= 60
    assert found.unexplained == 0
    assert found.most_held <= 12 * 3 + 64


def test_overload_reads_as_many_together_as_is_cheapest() -> None:
    """A pass costs a second and each window 0.6: four at a time are 1.2 a second, eight 1.4."""
    found = Overload(12, 0.9, watched=(), each_pass=1.0).live(360)
    assert sum(found.analysed.values()) >= 0.85 * found.windows


def test_overload_asks_for_the_end_of_the_incidents_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = Overload(12, 3.0, watched=(0, 5)), list[str]()
    next_of = run.log.next
    monkeypatch.setattr(run.log, "next", lambda part: (asked.append(part), next_of(part))[1])
    assert run.live(120).lag(0.99) <= 3
    assert Counter(part for part in asked if part.startswith(INCIDENTS)) == dict.fromkeys(
        run.log.parts(INCIDENTS), 1
    )


def test_without_shedding_overload_falls_ever_further_behind() -> None:
    assert without_shedding(Overload(12, 3.0, watched=(0,))).live(360).lag(0.99) > 20


def test_without_overload_nothing_is_shed() -> None:
    found = Overload(12, 0.8, watched=()).live(360)
    assert sum(found.analysed.values()) >= found.windows - 24
