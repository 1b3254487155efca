"""More windows than can be read, in virtual time: the real worker, a model that takes its time."""

import resource
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Event

from storage_fixtures import an_incident

from analyzer.answers import WindowAnswers
from analyzer.plan import MemoryPlan
from analyzer.shedding import Load
from analyzer.worker import AnalyzerWorker
from storage.claims import decode_claim, merged, unexplained
from storage.log import COVERAGE, INCIDENTS, WINDOWS
from storage.memory_log import MemoryLog
from storage.records import (
    Clock,
    ClockSource,
    Coverage,
    CoverageState,
    Finding,
    Span,
    Still,
    Window,
)
from storage.wire import encode_incident, encode_window

BEGIN = datetime(2026, 11, 23, 8, tzinfo=UTC)
WINDOW = 8.0
STEP = timedelta(seconds=WINDOW)


@dataclass(slots=True)
class Figures:
    """What became of the windows; lags in windows, times in seconds."""

    windows: int = 0
    analysed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    appended: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lags: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    unexplained: float = 0.0
    most_held: int = 0
    kilobytes: list[int] = field(default_factory=list)

    def lag(self, share: float) -> int:
        return sorted(self.lags)[int(share * (len(self.lags) - 1))]

    def covered(self, camera: str) -> float:
        return self.analysed[camera] / self.appended[camera]


class Overload:
    """Cameras whose windows take `factor` times as long to read as they last.

    `each_pass` seconds come on top, however many windows are read together.
    """

    decodes_ahead = False

    def __init__(
        self,
        cameras: int,
        factor: float,
        watched: Sequence[int],
        parts: int = 4,
        each_pass: float = 0.0,
    ) -> None:
        self.now = 0.0
        self.figures = Figures()
        self.cameras = frozenset[str]()
        self.plan = MemoryPlan()
        self._names = [f"camera-{n}" for n in range(cameras)]
        self._cost = factor * WINDOW / cameras
        self._each_pass = each_pass
        self._cut = 0
        self._last: dict[str, float] = {}
        self.log = MemoryLog(parts, now=lambda: BEGIN + timedelta(seconds=self.now))
        for n in watched:
            opened = replace(an_incident(), camera=self._names[n])
            self.log.append(INCIDENTS, opened.camera, encode_incident(opened))
        self._worker = AnalyzerWorker(self.log, self, lambda _: None, lambda: self.now)  # type: ignore[arg-type]

    def step_all(self, windows: Sequence[Window]) -> list[WindowAnswers]:
        self.now += self._each_pass + self._cost * len(windows)
        self._cut_windows()
        for window in windows:
            self._note(window)
        return [WindowAnswers(window=window) for window in windows]

    def rehearse(self, windows: Sequence[Window]) -> list[None]:
        """Remember nothing: every part begins empty."""
        return [None] * len(windows)

    def recall(self, finding: Finding) -> None:
        """Remember nothing."""

    def forget_after(self, instant: datetime) -> None:
        """Remember nothing."""

    def live(self, seconds: float) -> Figures:
        stop = Event()
        while self.now < seconds:
            self._cut_windows()
            if not self._worker.run_once(stop):
                self.now += 0.5
            held = sum(len(queue.waiting()) for queue in self._worker._queues.values())
            self.figures.most_held = max(self.figures.most_held, held)
            self.figures.kilobytes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        self._reckon()
        return self.figures

    def _cut_windows(self) -> None:
        """Append what the cameras have cut by now, each a little later than the one before."""
        while True:
            nth, number = divmod(self._cut, len(self._names))
            end = (nth + 1) * WINDOW + number * WINDOW / len(self._names)
            if end > self.now:
                return
            self._cut += 1
            start = BEGIN + nth * STEP
            stills = tuple(
                Still(at=start + n * STEP / 4, jpeg=b"still", width=8, height=8) for n in range(4)
            )
            name = self._names[number]
            clock = Clock(source=ClockSource.RECEIVED, offset=0.0)
            window = Window(camera=name, stills=stills, clock=clock, after_gap=False)
            self.log.append(WINDOWS, name, encode_window(window))
            self.figures.windows += 1
            self.figures.appended[name] += 1

    def _note(self, window: Window) -> None:
        figures, camera = self.figures, window.camera
        nth = round((window.start - BEGIN) / STEP)
        figures.lags.append(figures.appended[camera] - nth - 1)
        figures.analysed[camera] += 1
        figures.gaps.append(self.now - self._last.get(camera, 0.0))
        self._last[camera] = self.now

    def _reckon(self) -> None:
        """Hold the ledger's claims against the windows that are no longer waiting."""
        rows, ends = defaultdict[str, list[Coverage]](list), dict[str, datetime]()
        for part in self.log.parts(COVERAGE):
            for entry in self.log.read(part, 0, limit=10**6):
                claim = decode_claim(entry.value)
                if claim.start is not None:
                    row = Coverage(
                        camera=claim.camera, start=claim.start, end=claim.end, state=claim.state
                    )
                    rows[claim.camera].append(row)
                    ends[claim.camera] = max(claim.end, ends.get(claim.camera, BEGIN))
        for camera, end in ends.items():
            holes = unexplained(merged(rows[camera]), Span(start=BEGIN, end=end))
            self.figures.unexplained += sum((h.end - h.start).total_seconds() for h in holes)
        assert {row.state for each in rows.values() for row in each} <= {
            CoverageState.ANALYSED,
            CoverageState.SHED,
        }


class Calm(Load):
    """Takes everything in order, whatever comes."""

    def judge(self) -> bool:
        return False


def without_shedding(run: Overload) -> Overload:
    run._worker._load = Calm()
    return run
