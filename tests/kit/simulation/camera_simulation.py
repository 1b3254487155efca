"""A simulated camera, network, host clock and process around the real CameraWorker.

One thread, no sleeping: reading the stream and `stop.wait` let simulated time pass. True time is
the steady clock of the simulation, in seconds from 0. The number of each frame is coded in its
pixels, so that the truth about a still is found from its JPEG.
"""

import io
import random
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from threading import Event
from typing import Self

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image
from structlog.testing import capture_logs

from ingest.camera import Camera
from ingest.errors import CameraLost
from ingest.frames import Frame, NoPicture, StreamItem
from ingest.timing.host_clock import HostClock
from ingest.timing.process_pauses import TICK_SECONDS
from ingest.worker import CameraWorker
from kit.simulation.camera_plan import (
    CameraOutage,
    CameraPlan,
    NetworkStall,
    PausedProcess,
    SentFrame,
    SlowMachine,
)
from storage.log.memory_log import MemoryLog
from storage.records.claims import Claim, decode_claim
from storage.records.records import Window
from storage.records.topics import COVERAGE, WINDOWS
from storage.records.wire import decode_window

_SIDE, _CELL = 32, 8
_BITS = (_SIDE // _CELL) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFrame:
    """A picture that was given to the worker: when it was taken, sent, and read."""

    frame: SentFrame
    delivered: float
    read: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendedRecord:
    """A claim or a window, and when it was appended."""

    record: Claim | Window
    at: float
    host: float
    era: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedStep:
    """A step of the host's clock that was followed: true time, the clock before it, the step."""

    at: float
    before: float
    by: float


class SimulationOver(BaseException):
    """The simulated time is over."""


class RecordingClock(HostClock):
    """The host's clock, and each step that it followed."""

    def __init__(self, simulation: "CameraSimulation") -> None:
        self.followed: list[FollowedStep] = []
        self._simulation = simulation
        super().__init__(lambda: simulation.plan.host.at(simulation.now), lambda: simulation.now)

    def apply_step(self, step: float) -> None:
        self.followed.append(FollowedStep(at=self.steady(), before=self.now(), by=step))
        self._simulation.claimed_until += min(step, 0.0)
        super().apply_step(step)


class CameraSimulation:
    """`run` lives through a plan; what was told, shown and lost is kept for the judge."""

    def __init__(self, plan: CameraPlan) -> None:
        self.plan = plan
        self.now = 0.0
        self.rng = random.Random(plan.seed)
        self.clock = RecordingClock(self)
        self.appended: list[AppendedRecord] = []
        self.shown_frames: list[ShownFrame] = []
        self.losses: list[float] = []
        self.connections: list[float] = []
        self.ledger_lags: list[tuple[float, float]] = []
        """At each tick: true time, and the seconds by which the ledger was behind it."""
        self.clock_errors: list[tuple[float, float]] = []
        """At each tick: true time, and the seconds by which the clock differed from the wall."""
        self.log_lines: list[str] = []
        self._pauses = [each for each in plan.periods if isinstance(each, PausedProcess)]
        self._tick_at = TICK_SECONDS
        self.claimed_until = self.clock.now()
        self.worker = CameraWorker(
            plan.camera, RecordingLog(self), lambda _: None, self.clock, self._open
        )

    def run(self) -> Self:
        random.seed(self.plan.seed)  # of the backoff
        with capture_logs() as logged:
            try:
                self.worker.watch(SimulatedStop(self))
            except SimulationOver:
                self.worker.recorder.close()
        self.log_lines = [f"{line['event']} {line.get('reason', '')}" for line in logged]
        return self

    def advance_to(self, then: float) -> None:
        """Let time pass; the process may be stopped meanwhile, and ticks while it is not."""
        while True:
            pause = self._pauses[0] if self._pauses else None
            if pause is not None and pause.start <= min(then, self._tick_at):
                self._pauses.pop(0)
                self.now = max(self.now, pause.end)
                self._tick_at = max(self._tick_at, self.now + pause.tick_delay)
            elif self._tick_at <= then:
                self.now = max(self.now, self._tick_at)
                self._tick()
            else:
                break
        self.now = max(self.now, then)
        if self.now >= self.plan.seconds:
            raise SimulationOver

    def _tick(self) -> None:
        """Do as `Ticker` does."""
        self.worker.recorder.tick()
        self._tick_at = self.now + TICK_SECONDS
        self.ledger_lags.append((self.now, self.clock.now() - self.claimed_until))
        self.clock_errors.append((self.now, self.plan.host.at(self.now) - self.clock.now()))

    def record(self, topic: str, value: bytes) -> None:
        """Keep what is appended to the log."""
        if topic == COVERAGE:
            claim = decode_claim(value)
            if claim.state in {"frozen", "covered", "moved"}:
                return
            self.claimed_until = max(self.claimed_until, claim.end.timestamp())
            self._append(claim)
        elif topic == WINDOWS:
            self._append(decode_window(value))

    def _append(self, record: Claim | Window) -> None:
        self.appended.append(
            AppendedRecord(
                record=record, at=self.now, host=self.clock.at(0.0), era=len(self.clock.followed)
            )
        )

    def _open(self, camera: Camera) -> "SimulatedStream":
        self.advance_to(self.now + self.plan.connect_seconds)
        for each in self.plan.periods:
            if each.start <= self.now < each.end and isinstance(each, CameraOutage):
                self.lose_camera("nothing answers")
            if each.start <= self.now < each.end and isinstance(each, NetworkStall):
                self.advance_to(self.now + 5.0)
                self.lose_camera("it does not answer")
        self.connections.append(self.now)
        return SimulatedStream(self)

    def lose_camera(self, reason: str) -> None:
        self.losses.append(self.now)
        raise CameraLost(self.plan.camera.name, reason)


class RecordingLog(MemoryLog):
    def __init__(self, simulation: CameraSimulation) -> None:
        super().__init__()
        self._simulation = simulation

    def append(self, topic: str, key: str, *values: bytes) -> int:
        for value in values:
            self._simulation.record(topic, value)
        return super().append(topic, key, *values)


class SimulatedStop(Event):
    """A `stop` whose waits let simulated time pass."""

    def __init__(self, simulation: CameraSimulation) -> None:
        super().__init__()
        self._simulation = simulation

    def wait(self, timeout: float | None = None) -> bool:
        self._simulation.advance_to(self._simulation.now + (timeout or 0.0))
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredFrame:
    """A frame that the network delivered, and when; `is_whole` says that it can be decoded."""

    frame: SentFrame
    at: float
    is_whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFrame:
    """What was read of the network, and when; `waited` says that it was not there yet."""

    delivered: DeliveredFrame
    at: float
    waited: bool


class SimulatedStream:
    """One connection to the simulated camera."""

    codec, width, height = "h264", _SIDE, _SIDE
    rotation, pixel_aspect = 0, 1.0

    def __init__(self, simulation: CameraSimulation) -> None:
        self._simulation = simulation
        self._plan = simulation.plan
        self._skips = False
        self._ends = self._end()
        self._last_report: tuple[float, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def skip(self) -> None:
        self._skips = True

    def frames(self) -> Iterator[StreamItem]:
        world = self._simulation
        came = self._deliveries()
        while True:
            for each in self._next_frames(came):
                if each.delivered.is_whole:
                    yield self._frame(each)
                else:
                    yield NoPicture(arrived=each.at, reason="a keyframe is awaited")
                world.advance_to(world.now + self._processing_seconds())

    def _next_frames(self, came: Iterator[DeliveredFrame]) -> list[ReadFrame]:
        """Return what the next read gives: one frame, or where we skip what is newest."""
        kept: list[ReadFrame] = []
        while True:
            each = next(came, None)
            waited = self._wait(each)
            assert each is not None  # the world ends before the frames do
            if each.frame.is_key or not self._skips:
                kept.clear()
            kept.append(ReadFrame(delivered=each, at=self._simulation.now, waited=waited))
            if waited or not self._skips:
                self._skips = False
                return kept

    def _wait(self, each: DeliveredFrame | None) -> bool:
        """Wait for a frame; the connection may end before it comes."""
        world, patience = self._simulation, self._plan.camera.stall_timeout
        at = self._plan.seconds if each is None else each.at
        if at <= world.now:
            return False
        ends, is_told = self._ends
        gives_up = world.now + patience
        if is_told and ends < min(at, gives_up):
            world.advance_to(ends)
            world.lose_camera("the stream ended")
        if gives_up < at:
            world.advance_to(gives_up)
            if each is None or each.at > world.now:
                world.lose_camera("it fell silent")
        world.advance_to(at)
        return True

    def _end(self) -> tuple[float, bool]:
        away = [
            e
            for e in self._plan.periods
            if isinstance(e, CameraOutage) and e.end > self._simulation.now
        ]
        first = min(away, key=lambda each: each.start, default=None)
        return (float("inf"), False) if first is None else (first.start, first.is_announced)

    def _deliveries(self) -> Iterator[DeliveredFrame]:
        """Yield what the network delivers on this connection, in order."""
        now, sent, last = self._simulation.now, self._plan.frames, 0.0
        first = bisect_left(sent, now, key=lambda frame: frame.true_time)
        if self._plan.burst:
            keys = (n for n in range(first - 1, -1, -1) if sent[n].is_key)
            first = next((n for n in keys if sent[n].true_time > now - 10), first)
        is_whole = False
        for frame in sent[first:]:
            if frame.true_time < now:
                last += self._plan.burst_step
            at = self._delivered(max(frame.true_time, now), last)
            if at >= self._ends[0]:
                return
            if at == float("-inf"):
                is_whole = False
                continue
            last = at
            is_whole = is_whole or frame.is_key
            yield DeliveredFrame(frame=frame, at=at, is_whole=is_whole)

    def _delivered(self, at: float, last: float) -> float:
        """Return when a frame comes; -inf where it is lost."""
        at = max(last, at + self._plan.delay + self._simulation.rng.random() * self._plan.jitter)
        for each in self._plan.periods:
            if not each.start <= at < each.end:
                continue
            if isinstance(each, NetworkStall):
                if each.drops_frames:
                    return float("-inf")
                at = each.end
            if isinstance(each, PausedProcess) and at > each.start + each.buffered_seconds:
                return float("-inf")
        return at

    def _processing_seconds(self) -> float:
        now = self._simulation.now
        slow = [
            e for e in self._plan.periods if isinstance(e, SlowMachine) and e.start <= now < e.end
        ]
        return slow[0].factor * self._plan.interval if slow else 0.001

    def _frame(self, read: ReadFrame) -> Frame:
        frame = read.delivered.frame
        self._simulation.shown_frames.append(
            ShownFrame(frame=frame, delivered=read.delivered.at, read=read.at)
        )
        return Frame(
            picture=picture_of(frame.number),
            pts=frame.pts,
            arrived=read.at,
            waited=read.waited,
            camera_time=self._camera_time(frame),
        )

    def _camera_time(self, frame: SentFrame) -> float | None:
        """Say what the camera's clock said, by a sender report each 5 s."""
        wall = self._plan.camera_wall
        if wall is None or frame.pts is None:
            return None
        is_due = self._last_report is None or frame.true_time - self._last_report[0] >= 5.0
        if is_due and (frame.is_exact or self._plan.stamps != "odd ones"):
            self._last_report = (frame.true_time, wall.at(frame.true_time) - frame.pts)
        return None if self._last_report is None else self._last_report[1] + frame.pts


def number_of(jpeg: bytes) -> int:
    """Return the number of the frame that a still shows."""
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))
    half = _CELL // 2
    bits = pixels[half::_CELL, half::_CELL].ravel() > 128
    return int(np.dot(bits, 1 << np.arange(_BITS)))


@lru_cache(maxsize=8192)
def picture_of(number: int) -> VideoFrame:
    """Return a picture with the number of a frame in its pixels."""
    bits = (number >> np.arange(_BITS)) & 1
    cells = (bits * 192 + 32).astype(np.uint8).reshape(_SIDE // _CELL, -1)
    luma = np.kron(cells, np.ones((_CELL, _CELL), dtype=np.uint8))
    return VideoFrame.from_ndarray(np.repeat(luma[..., None], 3, axis=2), format="rgb24")
