"""A small world in which anything may die at any instant: one camera, the roles, a log.

The roles are the real ones, but for the decoder and the model; the log is one in memory that
may be full, lose its oldest entries, hold damaged bytes, and end whoever uses it. Time is
virtual: a second is a still.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from threading import Event

import numpy as np
from av.video.frame import VideoFrame
from sqlalchemy import Engine
from structlog.testing import capture_logs

from alerts.intake.coverage_writer import CoverageWriter
from alerts.intake.cursor import LogCursor
from alerts.intake.log_availability import LogAvailability
from alerts.worker import BATCH
from analyzer.kv.budget import MemoryPlan
from analyzer.questions.answers import WindowAnswers
from analyzer.worker import GROUP, AnalyzerWorker
from ingest.camera import Camera
from ingest.frames import Frame
from ingest.recording.recorder import Recorder
from ingest.timing.host_clock import HostClock
from storage.db.alert_store import AlertStore
from storage.errors import StorageFull
from storage.log.log import LogPage
from storage.log.memory_log import MemoryLog
from storage.records.claims import covered_span, decode_claim
from storage.records.records import CoverageInterval, Finding, TimeSpan, Window
from storage.records.topics import COVERAGE, WINDOWS

START = datetime(2026, 11, 22, 8, tzinfo=UTC)
FOREVER = timedelta(days=10_000)
FRESH_VIEWS = 61
CAMERA = Camera(name="dock", url="rtsp://10.0.0.21/sub", stills_per_window=4)


class ProcessKilled(BaseException):
    """The process ends here, as by SIGKILL."""


class FaultyLog(MemoryLog):
    """A log that ends whoever uses it at the `fuse`-th use from now, and may be full."""

    def __init__(self) -> None:
        super().__init__()
        self.uses_left = -1
        self.is_full = False
        self.first_claimed: datetime | None = None

    def append(self, topic: str, key: str, *values: bytes) -> int:
        self._count_use()
        if self.is_full:
            raise StorageFull("log.db")
        position = super().append(topic, key, *values)
        if topic == COVERAGE and self.first_claimed is None:
            starts = [claim.start for claim in map(decode_claim, values) if claim.start]
            self.first_claimed = min(starts, default=None)
        self._count_use()
        return position

    def read(
        self, partition: str, offset: int, limit: int = 100, key: str | None = None
    ) -> LogPage:
        self._count_use()
        return super().read(partition, offset, limit, key)

    def commit(self, group: str, partition: str, offset: int) -> None:
        self._count_use()
        if self.is_full:
            raise StorageFull("log.db")
        super().commit(group, partition, offset)

    def damage_last(self, topic: str) -> None:
        entries = self._partitions[topic].entries
        if entries:
            entries[-1] = entries[-1]._replace(value=b"damaged")

    def _count_use(self) -> None:
        self.uses_left -= 1
        if self.uses_left == 0:
            raise ProcessKilled


class StubWatcher:
    """Stands for the model: reads every window, finds nothing, and keeps what it read."""

    can_decode_ahead = False

    def __init__(self, spans_read: list[TimeSpan]) -> None:
        self.spans_read = spans_read
        self.plan = MemoryPlan()
        self.cameras = frozenset[str]()

    def step_all(self, windows: Sequence[Window]) -> list[WindowAnswers]:
        self.spans_read.extend(map(covered_span, windows))
        return [WindowAnswers(window=window) for window in windows]

    def restore(self, windows: Sequence[Window]) -> list[None]:
        return [None] * len(windows)

    def restore_finding(self, finding: Finding) -> None:
        pass

    def forget_after(self, instant: datetime) -> None:
        pass


class CoverageSimulation:
    """`step` lives through one second; the booleans are what the world does to it."""

    def __init__(self, engine: Engine, rng: random.Random) -> None:
        self.now = 0
        self.rng = rng
        self.log = FaultyLog()
        self.store = AlertStore(engine)
        self.camera, self.has_power = "up", True
        self.spans_read: list[TimeSpan] = []
        self.changes: list[CoverageInterval] = []
        self.kills = 0
        self._ingest: Recorder | None = None
        self._analyzer: AnalyzerWorker | None = None
        self._keeper: tuple[CoverageWriter, LogCursor] | None = None
        self._was_down = False
        self._pictures = list(_pictures())

    @property
    def at(self) -> datetime:
        return START + timedelta(seconds=self.now)

    def kill(self, role: str) -> None:
        setattr(self, f"_{role}", None)
        self.kills += 1

    def step(
        self, fuses: dict[str, int], *, analyzes: bool = True, writes_coverage: bool = True
    ) -> None:
        """Let the roles work for a second; one with a fuse is ended at that use of the log."""
        self.now += 1
        self._run_role("ingest", fuses, self._ingest_step)
        if analyzes:
            self._run_role("analyzer", fuses, self._analyzer_step)
        if writes_coverage:
            self._run_role("keeper", fuses, self._keeper_step)

    def sweep(self) -> None:
        CoverageWriter(self.log, self.store).sweep(self.at)

    def trim(self, keep: int) -> None:
        """Drop all but the last so many windows."""
        entries = self.log.read(WINDOWS, self.log.end_offset(WINDOWS) - keep, limit=keep)
        size = sum(len(entry.value) for entry in entries)
        self.log.trim(WINDOWS, keep_bytes=size, keep_for=FOREVER)

    def trim_claims(self) -> None:
        self.log.trim(COVERAGE, keep_bytes=0, keep_for=FOREVER)

    def run_for(self, seconds: int, *, analyzes: bool = True, writes_coverage: bool = True) -> None:
        for _ in range(seconds):
            self.step({}, analyzes=analyzes, writes_coverage=writes_coverage)

    def _run_role(self, role: str, fuses: dict[str, int], step: Callable[[], None]) -> None:
        self.log.uses_left = fuses.get(role, -1)
        try:
            with capture_logs():
                step()
        except ProcessKilled:
            self.kill(role)
        except StorageFull:
            pass
        finally:
            self.log.uses_left = -1

    def _ingest_step(self) -> None:
        if not self.has_power:
            return
        if self._ingest is None:
            host = HostClock(wall=self._seconds, steady=self._seconds)
            self._ingest = Recorder(CAMERA, self.log, host)
            return
        self._ingest.tick()
        if self.camera == "down":
            self._was_down = True
            if self.now % 5 == 0:
                self._ingest.record_loss("it fell silent")
            return
        if self._was_down:
            self._ingest.start_connection()
        self._was_down = False
        self._ingest.record(self._frame())

    def _seconds(self) -> float:
        return self.at.timestamp()

    def _frame(self) -> Frame:
        kind = {"frozen": 0, "covered": -1}.get(self.camera, 1 + self.now % FRESH_VIEWS)
        arrived = self._seconds() + self.rng.uniform(-0.04, 0.04)
        return Frame(
            picture=self._pictures[kind], pts=None, arrived=arrived, waited=True, is_keyframe=True
        )

    def _analyzer_step(self) -> None:
        if self._analyzer is None:
            watcher = StubWatcher(self.spans_read)
            analyzer = AnalyzerWorker(self.log, watcher, lambda _: None)  # type: ignore[arg-type]
            analyzer.rebalance()
            self._analyzer = analyzer
            return
        stop = Event()
        if self.log.is_full:
            stop.set()  # it waits for space; here it is ended instead
            self.kill("analyzer")
            return
        self._analyzer.run_once(stop)

    def _keeper_step(self) -> None:
        if self._keeper is None:
            keeper = CoverageWriter(self.log, self.store, lambda _, c: self.changes.extend(c))
            self._keeper = keeper, LogCursor(self.log, self.store, LogAvailability())
        keeper, reading = self._keeper
        while pages := reading.read(BATCH):
            batch = keeper.decode(pages)
            assert batch is not None
            with reading.transaction(pages) as transaction:
                keeper.write(transaction, pages, batch)

    def run_until_window(self) -> None:
        """Go on until no still is in hand."""
        before = self.log.end_offset(WINDOWS)
        while self.log.end_offset(WINDOWS) == before:
            self.run_for(1)

    def settle(self) -> None:
        """Let all be well until everything in the log is read, answered and folded."""
        self.camera, self.has_power, self.log.is_full = "up", True, False
        self.run_for(20)
        while self.log.committed(GROUP, WINDOWS) < self.log.end_offset(WINDOWS):
            self.step({})
        self.step({})


def _pictures() -> Iterator[VideoFrame]:
    """Yield a picture that stands for a stuck one, FRESH with other noise, and a dark one."""
    draw = np.random.default_rng(3)
    view = np.kron(draw.integers(30, 220, (6, 8)), np.ones((8, 8)))
    views = [view + draw.normal(0, 4, view.shape) for _ in range(1 + FRESH_VIEWS)]
    for picture in [*views, np.full(view.shape, 5)]:
        grey = np.clip(picture, 0, 255).astype(np.uint8)
        frame = VideoFrame.from_ndarray(grey, format="gray")
        frame.key_frame = True  # type: ignore[misc]  # PyAV lets it be set
        yield frame
