"""What the analyzer does with windows of the future, and while its own clock is in doubt."""

import threading
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from analyzer.worker import GROUP, AnalyzerWorker
from kit.model.small_model import BEGIN, small_runner, window
from kit.simulation.coverage_simulation import StubWatcher
from storage.clock import ClockReading
from storage.log.dead_letters import read_dead_letters
from storage.log.memory_log import MemoryLog
from storage.records.claims import decode_claim
from storage.records.records import TimeSpan
from storage.records.topics import COVERAGE, WINDOWS
from storage.records.wire import encode_window
from test_watcher import watcher

DAY, EVERY = timedelta(days=1), timedelta(seconds=16)
STOP = threading.Event()


class Site:
    """A log with windows, an analyzer that keeps what it read, and the clocks of both."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.wrong = timedelta()
        self.number = 0
        self.read = list[TimeSpan]()
        self.log = MemoryLog(now=lambda: self.now)
        self.restart()

    def restart(self) -> None:
        reader = StubWatcher(self.read)
        self.analyzer = AnalyzerWorker(self.log, reader, lambda _: None, now=self.clock)  # type: ignore[arg-type]

    def clock(self) -> ClockReading:
        monotonic = (self.now - BEGIN).total_seconds()
        return ClockReading(wall=self.now + self.wrong, monotonic=monotonic)

    def live(self, windows: int, *cameras: str, ahead: timedelta = timedelta()) -> None:
        for _ in range(windows):
            self.now += EVERY
            for camera in cameras:
                cut = window(self.number, camera=camera, begin=BEGIN + ahead)
                self.log.append(WINDOWS, camera, encode_window(cut))
            self.number += 1
            while self.analyzer.run_once(STOP):
                pass

    def dead(self) -> list[str]:
        return [dead.reason for _, dead in read_dead_letters(self.log)]


def test_window_of_the_future_is_set_aside_and_nothing_is_claimed_of_it() -> None:
    site = Site()
    site.live(2, "dock")
    site.live(1, "dock", ahead=30 * DAY)
    site.live(2, "dock")
    (reason,) = site.dead()
    assert reason.startswith("clock ahead: 2026-03-31T")
    assert len(site.read) == 4
    claims = [decode_claim(entry.value) for entry in site.log.read(COVERAGE, 0)]
    assert max(claim.end for claim in claims) < site.now + EVERY
    assert site.log.committed(GROUP, WINDOWS) == 5


@pytest.mark.parametrize("cameras", [("dock",), ("dock", "gate")])
@pytest.mark.parametrize("restarts", [False, True])
def test_analyzer_that_is_behind_for_two_minutes_loses_nothing(
    cameras: tuple[str, ...], restarts: bool
) -> None:
    site = Site()
    site.live(2, *cameras)
    site.wrong = timedelta(hours=-1)
    if restarts:
        site.restart()
    with capture_logs() as log_lines:
        site.live(8, *cameras)
    assert len(site.read) == 2 * len(cameras)
    assert site.log.committed(GROUP, WINDOWS) == 2 * len(cameras)
    assert sum(each["event"].startswith("clock_behind") for each in log_lines) == 1
    site.wrong = timedelta()
    site.live(2, *cameras)
    assert len(site.read) == 12 * len(cameras)
    assert site.log.committed(GROUP, WINDOWS) == 12 * len(cameras)
    assert site.dead() == []


def test_memory_of_the_future_is_dropped_so_that_nothing_comes_too_late() -> None:
    """Both clocks were ahead: what was read then is no reason to pass over what is read now."""
    log, times = MemoryLog(now=lambda: BEGIN), [BEGIN + 30 * DAY]
    clock = lambda: ClockReading(wall=times[-1], monotonic=1000.0 * len(times))  # noqa: E731
    analyzer = AnalyzerWorker(log, watcher(small_runner()), lambda _: None, now=clock)
    log.append(WINDOWS, "dock", encode_window(window(0, begin=BEGIN + 30 * DAY)))
    analyzer.run_once(STOP)
    assert analyzer.watcher.cameras == {"dock"}
    for minute in range(3):
        times.append(BEGIN + timedelta(seconds=1000 * minute))
        analyzer.run_once(STOP)
    log.append(WINDOWS, "dock", encode_window(window(1)))
    analyzer.run_once(STOP)
    assert [chunk.end for chunk in analyzer.watcher.memory_of("dock").chunks] == [window(1).end]
