"""Cameras that break in every way, watched for as long as it takes to lose them many times.

    PYTHONPATH=.:tests python -m kit.chaos.camera_soak --cameras 8 --reconnects 200 [--seed 1]

Each camera is watched by the real CameraWorker in a process of its own, and all of them write one
log. Printed are the seconds that the ledger does not explain, the seconds in each state, and what
the processes hold in memory and in file descriptors: in the second quarter of the run, and in the
last one. The cameras are small, and of two sizes.
"""

import argparse
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from ingest.camera import Camera
from ingest.worker import CameraWorker
from kit.coverage.folded import fold_coverage, seconds_in, seconds_unexplained, span
from kit.ingest.clips import CODECS, write_elementary
from kit.ingest.rtsp_camera import AccessUnit, RtspCamera, read_access_units
from kit.waiting import wait_for
from storage.log.sqlite.log import SqliteLog
from storage.records.records import CoverageState

FPS, STILLS = 2.0, 4
CLAIM_DELAY = 2 * STILLS / FPS
"""Seconds that may still wait to be told: two windows."""
SIZES = ((64, 48), (96, 64))
_MAX_WAIT = 40.0
"""Seconds after which a camera that stood still is let go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """What a process holds at an instant of the run; memory in bytes."""

    at: float
    memory: int
    descriptors: int


@dataclass(slots=True, kw_only=True)
class WatchedCamera:
    """A camera, the process that watches it, and what was seen of both."""

    camera: RtspCamera
    process: "subprocess.Popen[bytes]"
    samples: list[ProcessSample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def connections(self) -> int:
        return sum(each.method == "PLAY" and each.status == 200 for each in self.camera.requests)

    def sample(self) -> None:
        folder = Path(f"/proc/{self.process.pid}")
        pages = int((folder / "statm").read_text(encoding="ascii").split()[1])
        self.samples.append(
            ProcessSample(
                at=time.monotonic(),
                memory=pages * os.sysconf("SC_PAGE_SIZE"),
                descriptors=sum(1 for _ in (folder / "fd").iterdir()),
            )
        )

    def quarter(self, number: int) -> list[ProcessSample]:
        """Return the samples of a quarter of the run, from 0 on."""
        size = len(self.samples) // 4
        return self.samples[number * size : (number + 1) * size]

    def growth(self) -> float:
        """Return by which part the memory grew from the second quarter to the last."""
        early, late = (
            statistics.median(each.memory for each in self.quarter(number)) for number in (1, 3)
        )
        return late / early - 1

    def more_descriptors(self) -> int:
        """Return how many descriptors more were open at the least, in the last quarter."""
        early, late = (min(each.descriptors for each in self.quarter(n)) for n in (1, 3))
        return late - early


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakFigures:
    """What came of a run."""

    seconds: float
    reconnects: int
    unexplained: float
    states: dict[CoverageState, float]
    growth: float
    memory: int
    more_descriptors: int
    faults: dict[str, int]

    def __str__(self) -> str:
        states = " ".join(f"{state}={seconds:.0f}" for state, seconds in self.states.items())
        faults = " ".join(f"{name}={count}" for name, count in self.faults.items())
        return (
            f"seconds={self.seconds:.0f} reconnects={self.reconnects}"
            f" unexplained={self.unexplained:.3f}\nfaults: {faults}\ncamera-seconds: {states}\n"
            f"memory={self.memory / 2**20:.1f} MiB growth={self.growth:+.1%}"
            f" more_descriptors={self.more_descriptors}"
        )


class FaultInjector(threading.Thread):
    """Break one camera again and again, until `stop` is set."""

    def __init__(self, watched: WatchedCamera, clips: list[list[AccessUnit]], seed: str) -> None:
        super().__init__(daemon=True)
        self._camera_state = watched
        self._camera = watched.camera
        self._clips = clips
        self._rng = random.Random(seed)
        self.stop = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop.wait(self._rng.uniform(3, 8)):
                fault = self._rng.choice(FAULTS)
                self._camera_state.faults.append(fault.__name__.strip("_"))
                fault(self)
        except BaseException as failure:  # noqa: BLE001  # raised by the main thread
            self.failure = failure

    def _kill(self) -> None:
        self._camera.kill()
        self.stop.wait(self._rng.uniform(0.2, 4))
        self._camera.start()

    def _stop(self) -> None:
        """Hang until its reader has left, or for a few seconds only."""
        self._camera.hang()
        self.stop.wait(self._rng.choice((2, 5, 15)))
        self._camera.is_hung = False

    def _half_open(self) -> None:
        """Send nothing more on what is connected, and serve whoever comes anew."""
        with self._camera._lock:
            readers = list(self._camera._readers)
        known = self._camera_state.connections
        for reader in readers:
            reader._lock.acquire()
        self._until(lambda: self._camera_state.connections > known)
        for reader in readers:
            reader._lock.release()

    def _stall(self) -> None:
        length = self._rng.uniform(3, 6)
        self._camera.stall(length)
        self.stop.wait(length)

    def _resize(self) -> None:
        self._camera.access_units = self._rng.choice(self._clips)

    def _restamp(self) -> None:
        self._camera.habits.stamp = self._rng.choice(self._stamps())

    def _close(self) -> None:
        """Break the connections alone."""
        with self._camera._lock:
            readers = list(self._camera._readers)
        for reader in readers:
            reader.close()

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _MAX_WAIT
        while not condition() and time.monotonic() < deadline and not self.stop.wait(0.1):
            pass

    def _stamps(self) -> list[Callable[[int, float], float] | None]:
        rng = random.Random(self._rng.random())
        offset, rate = rng.uniform(0, 40_000), rng.choice((0.4, 0.6, 0.84, 1.2))
        return [
            None,
            lambda _, at: offset + at,
            lambda _, at: rate * at,
            lambda _number, _at: 1.0,
            lambda _, at: at + (rng.uniform(-30, 30) if rng.random() < 0.1 else 0),
            lambda number, at: at - number % 3 * 0.3,
            lambda _, at: at % 10,
            lambda _number, _at: rng.uniform(0, 40_000),
        ]


FAULTS = (
    FaultInjector._kill,
    FaultInjector._kill,
    FaultInjector._close,
    FaultInjector._stop,
    FaultInjector._half_open,
    FaultInjector._stall,
    FaultInjector._resize,
    FaultInjector._restamp,
)


def soak(cameras: int, reconnects: int, seed: int, limit: float = 7200.0) -> SoakFigures:
    """Watch cameras until so many reconnects were seen, or `limit` seconds have passed."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        clips = [
            write_elementary(folder / f"{size[0]}.h264", CODECS["h264"], size=size)
            for size in SIZES
        ]
        log = folder / "log.db"
        SqliteLog(log).close()
        watched = [
            stack.enter_context(_watching(f"camera-{number}", clips[number % 2], log))
            for number in range(cameras)
        ]
        wait_for(lambda: all(each.connections for each in watched), 60.0)
        began = time.time()
        units = [read_access_units(clip) for clip in clips]
        reconnected = _live(watched, units, reconnects, seed, began + limit)
        ended = time.time()
        stack.close()
        return _figures(watched, log, began, ended, reconnected)


def _live(
    watched: list[WatchedCamera],
    clips: list[list[AccessUnit]],
    reconnects: int,
    seed: int,
    limit: float,
) -> int:
    """Break the cameras until so many reconnects were seen; return how many there were."""
    injectors = [
        FaultInjector(each, clips, f"{seed} {number}") for number, each in enumerate(watched)
    ]
    for injector in injectors:
        injector.start()
    while (reconnected := sum(each.connections - 1 for each in watched)) < reconnects:
        for each in watched:
            each.sample()
        for injector in injectors:
            if injector.failure is not None:
                raise injector.failure
        if time.time() > limit:
            break
        time.sleep(1)
    for injector in injectors:
        injector.stop.set()
    for injector in injectors:
        injector.join()
    return reconnected


def _figures(
    watched: list[WatchedCamera], log: Path, began: float, ended: float, reconnects: int
) -> SoakFigures:
    within = span(began, ended - CLAIM_DELAY)
    states: dict[CoverageState, float] = {}
    missing = 0.0
    with closing(SqliteLog(log)) as read:
        for number in range(len(watched)):
            rows = fold_coverage(read, f"camera-{number}")
            missing += seconds_unexplained(rows, within)
            for state, seconds in seconds_in(rows, within).items():
                states[state] = states.get(state, 0.0) + seconds
    faults: dict[str, int] = {}
    for fault in (fault for each in watched for fault in each.faults):
        faults[fault] = faults.get(fault, 0) + 1
    return SoakFigures(
        seconds=ended - began,
        reconnects=reconnects,
        unexplained=missing,
        states=states,
        growth=max(each.growth() for each in watched),
        memory=max(each.samples[-1].memory for each in watched),
        more_descriptors=max(each.more_descriptors() for each in watched),
        faults=faults,
    )


@contextmanager
def _watching(name: str, clip: Path, log: Path) -> Iterator[WatchedCamera]:
    tests = Path(__file__).parents[2]
    paths = [str(tests.parent), str(tests)]
    with RtspCamera(clip, fps=5.0) as camera:
        process = subprocess.Popen(
            [sys.executable, "-m", "kit.chaos.camera_soak", "--watch", name, camera.url, str(log)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,  # which ends with this process
        )
        try:
            yield WatchedCamera(camera=camera, process=process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        if process.returncode:
            raise ChildProcessError(f"the process of {name} ended: {process.returncode}")


def watch(name: str, url: str, log: str) -> None:
    """Watch one camera until SIGTERM, or until whoever started this has gone."""
    level = logging.WARNING if os.environ.get("SOAK_LOGS") else logging.CRITICAL
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_at_the_end_of_input, args=(stop,), daemon=True).start()
    camera = Camera(name=name, url=url, fps=FPS, stills_per_window=STILLS)
    with closing(SqliteLog(Path(log))) as opened:
        CameraWorker(camera, opened, lambda _: None).run(stop)


def _at_the_end_of_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--reconnects", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--watch", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        watch(*arguments.watch)
        return
    print(f"seed={arguments.seed}", flush=True)
    print(soak(arguments.cameras, arguments.reconnects, arguments.seed))


if __name__ == "__main__":
    main()
