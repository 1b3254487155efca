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
from ingest_plan import Outage, Pause, Plan, Sent, Slow, Stall
from PIL import Image
from structlog.testing import capture_logs

from ingest.attendance import EVERY
from ingest.camera import Camera
from ingest.errors import CameraLost
from ingest.frames import Frame, NoPicture, Sight
from ingest.host_clock import HostClock
from ingest.worker import CameraWorker
from storage.claims import Claim, decode_claim
from storage.log import COVERAGE, WINDOWS
from storage.memory_log import MemoryLog
from storage.records import Window
from storage.wire import decode_window

_SIDE, _CELL = 32, 8
_BITS = (_SIDE // _CELL) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A picture that was given to the worker: when it was taken, sent, and read."""

    frame: Sent
    came: float
    read: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A claim or a window, and when it was appended."""

    what: Claim | Window
    at: float
    host: float
    era: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A step of the host's clock that was followed: true time, the clock before it, the step."""

    at: float
    before: float
    by: float


class Ended(BaseException):
    """The simulated time is over."""


class WatchedClock(HostClock):
    """The host's clock, and each step that it followed."""

    def __init__(self, world: "World") -> None:
        self.followed: list[Followed] = []
        self._world = world
        super().__init__(lambda: world.plan.host.at(world.now), lambda: world.now)

    def follow(self, step: float) -> None:
        self.followed.append(Followed(at=self.steady(), before=self.now(), by=step))
        self._world.until += min(step, 0.0)
        super().follow(step)


class World:
    """`run` lives through a plan; what was told, shown and lost is kept for the judge."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.now = 0.0
        self.chance = random.Random(plan.seed)
        self.clock = WatchedClock(self)
        self.told: list[Told] = []
        self.shown: list[Shown] = []
        self.lost: list[float] = []
        self.connected: list[float] = []
        self.behind: list[tuple[float, float]] = []
        """At each tick: true time, and the seconds by which the ledger was behind it."""
        self.unlike: list[tuple[float, float]] = []
        """At each tick: true time, and the seconds by which the clock differed from the wall."""
        self.logged: list[str] = []
        self._pauses = [each for each in plan.periods if isinstance(each, Pause)]
        self._tick_at = EVERY
        self.until = self.clock.now()
        self.worker = CameraWorker(
            plan.camera, RecordingLog(self), lambda _: None, self.clock, self._open
        )

    def run(self) -> Self:
        random.seed(self.plan.seed)  # of the backoff
        with capture_logs() as logged:
            try:
                self.worker.watch(Stop(self))
            except Ended:
                self.worker.recorder.close()
        self.logged = [f"{line['event']} {line.get('reason', '')}" for line in logged]
        return self

    def pass_until(self, then: float) -> None:
        """Let time pass; the process may be stopped meanwhile, and ticks while it is not."""
        while True:
            pause = self._pauses[0] if self._pauses else None
            if pause is not None and pause.start <= min(then, self._tick_at):
                self._pauses.pop(0)
                self.now = max(self.now, pause.end)
                self._tick_at = max(self._tick_at, self.now + pause.notices_after)
            elif self._tick_at <= then:
                self.now = max(self.now, self._tick_at)
                self._tick()
            else:
                break
        self.now = max(self.now, then)
        if self.now >= self.plan.seconds:
            raise Ended

    def _tick(self) -> None:
        """Do as `Ticker` does."""
        self.worker.recorder.tick()
        self._tick_at = self.now + EVERY
        self.behind.append((self.now, self.clock.now() - self.until))
        self.unlike.append((self.now, self.plan.host.at(self.now) - self.clock.now()))

    def take(self, topic: str, value: bytes) -> None:
        """Keep what is appended to the log."""
        if topic == COVERAGE:
            claim = decode_claim(value)
            if claim.state in {"frozen", "covered", "moved"}:
                return
            self.until = max(self.until, claim.end.timestamp())
            self._keep(claim)
        elif topic == WINDOWS:
            self._keep(decode_window(value))

    def _keep(self, what: Claim | Window) -> None:
        self.told.append(
            Told(what=what, at=self.now, host=self.clock.at(0.0), era=len(self.clock.followed))
        )

    def _open(self, camera: Camera) -> "SimulatedStream":
        self.pass_until(self.now + self.plan.connects_in)
        for each in self.plan.periods:
            if each.start <= self.now < each.end and isinstance(each, Outage):
                self.lose("nothing answers")
            if each.start <= self.now < each.end and isinstance(each, Stall):
                self.pass_until(self.now + 5.0)
                self.lose("it does not answer")
        self.connected.append(self.now)
        return SimulatedStream(self)

    def lose(self, reason: str) -> None:
        self.lost.append(self.now)
        raise CameraLost(self.plan.camera.name, reason)


class RecordingLog(MemoryLog):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def append(self, topic: str, key: str, *values: bytes) -> int:
        for value in values:
            self._world.take(topic, value)
        return super().append(topic, key, *values)


class Stop(Event):
    """A `stop` whose waits let simulated time pass."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def wait(self, timeout: float | None = None) -> bool:
        self._world.pass_until(self._world.now + (timeout or 0.0))
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """A frame that the network delivered, and when; `is_whole` says that it can be decoded."""

    frame: Sent
    at: float
    is_whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was read of the network, and when; `waited` says that it was not there yet."""

    came: Came
    at: float
    waited: bool


class SimulatedStream:
    """One connection to the simulated camera."""

    codec, width, height = "h264", _SIDE, _SIDE

    def __init__(self, world: World) -> None:
        self._world = world
        self._plan = world.plan
        self._skips = False
        self._ends = self._end()
        self._reports: tuple[float, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def skip(self) -> None:
        self._skips = True

    def frames(self) -> Iterator[Sight]:
        world = self._world
        came = self._came()
        while True:
            for each in self._read(came):
                if each.came.is_whole:
                    yield self._frame(each)
                else:
                    yield NoPicture(arrived=each.at, reason="a keyframe is awaited")
                world.pass_until(world.now + self._cost())

    def _read(self, came: Iterator[Came]) -> list[Read]:
        """Return what the next read gives: one frame, or where we skip what is newest."""
        kept: list[Read] = []
        while True:
            each = next(came, None)
            waited = self._wait(each)
            assert each is not None  # the world ends before the frames do
            if each.frame.is_key or not self._skips:
                kept.clear()
            kept.append(Read(came=each, at=self._world.now, waited=waited))
            if waited or not self._skips:
                self._skips = False
                return kept

    def _wait(self, each: Came | None) -> bool:
        """Wait for a frame; the connection may end before it comes."""
        world, patience = self._world, self._plan.camera.patience
        at = self._plan.seconds if each is None else each.at
        if at <= world.now:
            return False
        ends, is_told = self._ends
        gives_up = world.now + patience
        if is_told and ends < min(at, gives_up):
            world.pass_until(ends)
            world.lose("the stream ended")
        if gives_up < at:
            world.pass_until(gives_up)
            if each is None or each.at > world.now:
                world.lose("it fell silent")
        world.pass_until(at)
        return True

    def _end(self) -> tuple[float, bool]:
        away = [e for e in self._plan.periods if isinstance(e, Outage) and e.end > self._world.now]
        first = min(away, key=lambda each: each.start, default=None)
        return (float("inf"), False) if first is None else (first.start, first.is_told)

    def _came(self) -> Iterator[Came]:
        """Yield what the network delivers on this connection, in order."""
        now, sent, last = self._world.now, self._plan.sent, 0.0
        first = bisect_left(sent, now, key=lambda frame: frame.true)
        if self._plan.burst:
            keys = (n for n in range(first - 1, -1, -1) if sent[n].is_key)
            first = next((n for n in keys if sent[n].true > now - 10), first)
        is_whole = False
        for frame in sent[first:]:
            if frame.true < now:
                last += self._plan.burst_step
            at = self._delivered(max(frame.true, now), last)
            if at >= self._ends[0]:
                return
            if at == float("-inf"):
                is_whole = False
                continue
            last = at
            is_whole = is_whole or frame.is_key
            yield Came(frame=frame, at=at, is_whole=is_whole)

    def _delivered(self, at: float, last: float) -> float:
        """Return when a frame comes; -inf where it is lost."""
        at = max(last, at + self._plan.delay + self._world.chance.random() * self._plan.jitter)
        for each in self._plan.periods:
            if not each.start <= at < each.end:
                continue
            if isinstance(each, Stall):
                if each.loses:
                    return float("-inf")
                at = each.end
            if isinstance(each, Pause) and at > each.start + each.kept:
                return float("-inf")
        return at

    def _cost(self) -> float:
        now = self._world.now
        slow = [e for e in self._plan.periods if isinstance(e, Slow) and e.start <= now < e.end]
        return slow[0].factor * self._plan.interval if slow else 0.001

    def _frame(self, read: Read) -> Frame:
        frame = read.came.frame
        self._world.shown.append(Shown(frame=frame, came=read.came.at, read=read.at))
        return Frame(
            picture=picture_of(frame.number),
            pts=frame.pts,
            arrived=read.at,
            waited=read.waited,
            camera_time=self._camera_time(frame),
        )

    def _camera_time(self, frame: Sent) -> float | None:
        """Say what the camera's clock said, by a sender report each 5 s."""
        wall = self._plan.camera_wall
        if wall is None or frame.pts is None:
            return None
        is_due = self._reports is None or frame.true - self._reports[0] >= 5.0
        if is_due and (frame.is_exact or self._plan.stamps != "odd ones"):
            self._reports = (frame.true, wall.at(frame.true) - frame.pts)
        return None if self._reports is None else self._reports[1] + frame.pts


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
