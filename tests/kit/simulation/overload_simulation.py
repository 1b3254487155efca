"""More windows than can be read, in virtual time: the real worker, a model that takes its time."""

import resource
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Event

from analyzer.intake.shedding import AnalysisLoad
from analyzer.kv.budget import MemoryPlan
from analyzer.questions.answers import WindowAnswers
from analyzer.worker import AnalyzerWorker
from kit.storage.fixtures import an_incident
from storage.log.memory_log import MemoryLog
from storage.records.claims import decode_claim, merge_intervals, uncovered_spans
from storage.records.records import (
    ClockSource,
    CoverageInterval,
    CoverageState,
    Finding,
    Still,
    TimeSpan,
    Window,
    WindowClock,
)
from storage.records.topics import COVERAGE, INCIDENTS, WINDOWS
from storage.records.wire import encode_incident, encode_window

BEGIN = datetime(2026, 11, 23, 8, tzinfo=UTC)
WINDOW = 8.0
WINDOW_LENGTH = timedelta(seconds=WINDOW)


@dataclass(slots=True)
class OverloadFigures:
    """What became of the windows; lags in windows, times in seconds."""

    windows: int = 0
    analysed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    appended: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lags: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    unexplained: float = 0.0
    max_waiting: int = 0
    kilobytes: list[int] = field(default_factory=list)

    def lag(self, share: float) -> int:
        return sorted(self.lags)[int(share * (len(self.lags) - 1))]

    def covered(self, camera: str) -> float:
        return self.analysed[camera] / self.appended[camera]


class OverloadSimulation:
    """Cameras whose windows take `factor` times as long to read as they last.

    `each_pass` seconds come on top, however many windows are read together.
    """

    can_decode_ahead = False

    def __init__(
        self,
        cameras: int,
        factor: float,
        watched: Sequence[int],
        partitions: int = 4,
        pass_seconds: float = 0.0,
    ) -> None:
        self.now = 0.0
        self.figures = OverloadFigures()
        self.cameras = frozenset[str]()
        self.plan = MemoryPlan()
        self._names = [f"camera-{n}" for n in range(cameras)]
        self._cost = factor * WINDOW / cameras
        self._pass_seconds = pass_seconds
        self._appended_count = 0
        self._last_read: dict[str, float] = {}
        self.log = MemoryLog(partitions, now=lambda: BEGIN + timedelta(seconds=self.now))
        for n in watched:
            opened = replace(an_incident(), camera=self._names[n])
            self.log.append(INCIDENTS, opened.camera, encode_incident(opened))
        self._worker = AnalyzerWorker(self.log, self, lambda _: None, lambda: self.now)  # type: ignore[arg-type]

    def step_all(self, windows: Sequence[Window]) -> list[WindowAnswers]:
        self.now += self._pass_seconds + self._cost * len(windows)
        self._append_due_windows()
        for window in windows:
            self._record(window)
        return [WindowAnswers(window=window) for window in windows]

    def restore(self, windows: Sequence[Window]) -> list[None]:
        """Remember nothing: every part begins empty."""
        return [None] * len(windows)

    def restore_finding(self, finding: Finding) -> None:
        """Remember nothing."""

    def forget_after(self, instant: datetime) -> None:
        """Remember nothing."""

    def run(self, seconds: float) -> OverloadFigures:
        stop = Event()
        while self.now < seconds:
            self._append_due_windows()
            if not self._worker.run_once(stop):
                self.now += 0.5
            waiting = sum(len(queue.pending()) for queue in self._worker._queues.values())
            self.figures.max_waiting = max(self.figures.max_waiting, waiting)
            self.figures.kilobytes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        self._measure_unexplained()
        return self.figures

    def _append_due_windows(self) -> None:
        """Append what the cameras have cut by now, each a little later than the one before."""
        while True:
            nth, number = divmod(self._appended_count, len(self._names))
            end = (nth + 1) * WINDOW + number * WINDOW / len(self._names)
            if end > self.now:
                return
            self._appended_count += 1
            start = BEGIN + nth * WINDOW_LENGTH
            stills = tuple(
                Still(at=start + n * WINDOW_LENGTH / 4, jpeg=b"still", width=8, height=8)
                for n in range(4)
            )
            name = self._names[number]
            clock = WindowClock(source=ClockSource.RECEIVED, offset=0.0)
            window = Window(camera=name, stills=stills, clock=clock, after_gap=False)
            self.log.append(WINDOWS, name, encode_window(window))
            self.figures.windows += 1
            self.figures.appended[name] += 1

    def _record(self, window: Window) -> None:
        figures, camera = self.figures, window.camera
        nth = round((window.start - BEGIN) / WINDOW_LENGTH)
        figures.lags.append(figures.appended[camera] - nth - 1)
        figures.analysed[camera] += 1
        figures.gaps.append(self.now - self._last_read.get(camera, 0.0))
        self._last_read[camera] = self.now

    def _measure_unexplained(self) -> None:
        """Hold the ledger's claims against the windows that are no longer waiting."""
        rows, ends = defaultdict[str, list[CoverageInterval]](list), dict[str, datetime]()
        for partition in self.log.partitions(COVERAGE):
            for entry in self.log.read(partition, 0, limit=10**6):
                claim = decode_claim(entry.value)
                if claim.start is not None:
                    row = CoverageInterval(
                        camera=claim.camera, start=claim.start, end=claim.end, state=claim.state
                    )
                    rows[claim.camera].append(row)
                    ends[claim.camera] = max(claim.end, ends.get(claim.camera, BEGIN))
        for camera, end in ends.items():
            holes = uncovered_spans(merge_intervals(rows[camera]), TimeSpan(start=BEGIN, end=end))
            self.figures.unexplained += sum((h.end - h.start).total_seconds() for h in holes)
        assert {row.state for each in rows.values() for row in each} <= {
            CoverageState.ANALYSED,
            CoverageState.SHED,
        }


class NeverShedding(AnalysisLoad):
    """Takes everything in order, whatever comes."""

    def update(self) -> bool:
        return False


def without_shedding(run: OverloadSimulation) -> OverloadSimulation:
    run._worker._load = NeverShedding()
    return run
