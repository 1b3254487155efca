"""The roles of one machine with windows of a real size, run as processes, and what they wrote."""

import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path

from PIL import Image

from ingest.camera import Camera
from ingest.pictures.stills import Jpeg
from ingest.recording.claim_sender import ClaimSender
from ingest.recording.coverage import CoverageTracker
from ingest.recording.recorder import Recorder
from ingest.timing.host_clock import HostClock
from ingest.windows import Shot
from storage.log.log import Log
from storage.log.sqlite.log import PARTITIONS, SqliteLog
from storage.records.records import ClockSource, Still, Window, WindowClock
from storage.records.topics import WINDOWS
from storage.records.wire import encode_window

STILLS = 16
SPAWN_CONTEXT = multiprocessing.get_context("spawn")
SITE = """\
cameras:
{cameras}
questions:
  bag: {{ask: "Is there a bag that nobody carries?"}}
rules: [{{name: bag-left, when: bag, above: 0.8}}]
model: {{name: nano, device: cpu}}
data: {data}
"""
ANALYZER = "analyzer"
IN_FLIGHT = 16
"""Windows that may wait for the analyzer, so that it never sheds."""
CALLS = "fdatasync,fsync,write,pwrite64,pwritev"
_CALL = re.compile(r"(\w+)\(\d+<([^>]*)>.*\) = (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCounts:
    """What was written to files, by their name: syncs and bytes."""

    syncs: dict[str, int]
    bytes: dict[str, int]


def stills(count: int = STILLS, kilobytes: int = 50) -> list[bytes]:
    """Return different pictures of noise, each of about so many kilobytes."""
    rng, found = random.Random(7), list[bytes]()
    side = int((kilobytes * 1000 / 0.75) ** 0.5) // 8 * 8
    for _ in range(count):
        file = BytesIO()
        noise = Image.frombytes("L", (side, side), rng.randbytes(side * side))
        noise.convert("RGB").save(file, "JPEG", quality=88)
        found.append(file.getvalue())
    return found


def windows(camera: str, count: int, jpegs: Sequence[bytes]) -> list[Window]:
    """Return windows that follow each other, the last of which ends about now."""
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=count * STILLS)
    clock = WindowClock(source=ClockSource.RECEIVED, offset=0.0)
    found = []
    for n in range(count):
        at = begin + timedelta(seconds=n * STILLS)
        taken = tuple(
            Still(at=at + timedelta(seconds=k), width=256, height=256, jpeg=jpeg)
            for k, jpeg in enumerate(jpegs)
        )
        found.append(Window(camera=camera, clock=clock, after_gap=n == 0, stills=taken))
    return found


def run_camera(data: Path, name: str, pace: float, count: int, ready: Event, go: Event) -> None:
    """Be the process of a camera: so many windows, one in `pace` seconds."""
    log = SqliteLog(data / "log.db", partitions=PARTITIONS)
    camera = Camera(name=name, url="rtsp://127.0.0.1/x")
    recorder = Recorder(camera, log, HostClock(steady=time.time))
    batches = [list(map(shot_of, window.stills)) for window in windows(name, count, stills())]
    ready.set()
    go.wait()
    for shots in batches:
        recorder._write_window(shots)
        time.sleep(pace)
    log.close()


def shot_of(still: Still) -> Shot:
    jpeg = Jpeg(data=still.jpeg, width=still.width, height=still.height)
    return Shot(at=still.at.timestamp(), jpeg=jpeg)


def run_fast_cameras(data: Path, names: Sequence[str], count: int, ready: Event, go: Event) -> None:
    """Be a process that appends windows and claims of cameras as fast as they are analysed.

    Windows differ in their times only, and are encoded before: the log alone is measured.
    """
    log = SqliteLog(data / "log.db", partitions=PARTITIONS)
    yesterday = time.time() - 86_400
    trackers = {name: CoverageTracker(name, yesterday, period=1.0, deadline=60.0) for name in names}
    claim_sender, jpegs = ClaimSender(log), stills()
    batches = list(zip(*(windows(name, count, jpegs) for name in names), strict=True))
    ready.set()
    go.wait()
    for together in batches:
        for window in together:
            covered, before = trackers[window.camera].cover_window(window)
            append_window(log, claim_sender, covered, before, trackers[window.camera])
        while pending_windows(log, names) > IN_FLIGHT:
            time.sleep(0.002)
    log.close()


def append_window(
    log: Log, claim_sender: ClaimSender, window: Window, before: list, tracker: CoverageTracker
) -> None:  # type: ignore[type-arg]
    """Append a window and its claims as the ingest does."""
    claim_sender.append(window, before, tracker.waiting_claims(window))


def pending_windows(log: Log, names: Sequence[str]) -> int:
    """Return how many windows of cameras wait for the analyzer."""
    partitions = {log.partition_for(WINDOWS, name) for name in names}
    return sum(
        log.end_offset(partition) - log.committed(ANALYZER, partition) for partition in partitions
    )


def analyze(data: Path, ready: Event, stop: Event) -> None:
    """Be the analyzer until `stop`, with a model that costs nothing."""
    from kit.deploy.stub_analyzer import run  # loads torch, which no other role does

    run(SqliteLog(data / "log.db", partitions=PARTITIONS), ready, stop)


def alert(data: Path, cameras: Sequence[str], ready: Event, stop: Event) -> None:
    """Be the alerts role until `stop`."""
    import logging

    from deploy.config.settings_file import read_settings
    from deploy.logs import setup
    from deploy.runtime.role_builder import build_alert_role

    file = data / "site.yaml"
    lines = "\n".join(f"  {name}: {{url: rtsp://127.0.0.1/x}}" for name in cameras)
    file.write_text(SITE.format(cameras=lines, data=data))
    role = build_alert_role(read_settings(file), logging.ERROR)
    setup.configure_logging(role.logging, role.name)
    ready.set()
    role.run(stop, lambda _: None)  # type: ignore[arg-type]


def start_role(work: Callable[..., None], *arguments: object) -> tuple[SpawnProcess, Event]:
    """Start a process of a role; return it and what it sets when it is ready."""
    ready = SPAWN_CONTEXT.Event()
    process = SPAWN_CONTEXT.Process(target=work, args=(*arguments[:-1], ready, arguments[-1]))
    process.start()
    return process, ready


def run_system(data: Path, cameras: int, count: int, pace: float, idle: float) -> None:
    """Run all roles; write to standard output when windows began and ended, and idling ended."""
    go, stop = SPAWN_CONTEXT.Event(), SPAWN_CONTEXT.Event()
    SqliteLog(data / "log.db", partitions=PARTITIONS).close()
    names = [f"camera-{n}" for n in range(cameras)]
    roles = [start_role(analyze, data, stop), start_role(alert, data, names, stop)]
    watching = [start_role(run_camera, data, name, pace, count, go) for name in names]
    for _, ready in (*roles, *watching):
        ready.wait(60)
    time.sleep(3)
    marks = [time.time()]
    go.set()
    for process, _ in watching:
        process.join()
    time.sleep(1)
    marks.append(time.time())
    time.sleep(idle)
    marks.append(time.time())
    stop.set()
    for process, _ in roles:
        process.join()
    print(json.dumps(marks), flush=True)


def trace_system(
    data: Path, cameras: int, count: int, pace: float, idle: float
) -> list[WriteCounts]:
    """Return what the system wrote while windows came, and while none did."""
    strace = shutil.which("strace")
    if strace is None:
        raise FileNotFoundError("install strace: system calls are counted by it")
    trace = data.parent / "trace"
    numbers = map(str, (cameras, count, pace, idle))
    command = [strace, "-f", "-y", "-ttt", "--seccomp-bpf", "-qq", "-s", "0", "-o", str(trace)]
    run = subprocess.run(
        [
            *(*command, "-e", f"trace={CALLS}"),
            *(sys.executable, "-m", "kit.deploy.disk_writes", str(data), *numbers),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    began, ended, idled = json.loads(run.stdout.splitlines()[-1])
    lines = trace.read_text(errors="replace").splitlines()
    return [count_writes(lines, data, *span) for span in ((began, ended), (ended, idled))]


def count_writes(lines: Sequence[str], data: Path, began: float, ended: float) -> WriteCounts:
    """Return what lines of a trace say was written below a folder from one instant to another."""
    syncs, size = defaultdict[str, int](int), defaultdict[str, int](int)
    pending: dict[str, str] = {}
    for line in lines:
        process, at, call = line.split(None, 2)
        if call.endswith("<unfinished ...>"):
            pending[process] = call.removesuffix("<unfinished ...>")
            continue
        if call.startswith("<..."):
            call = pending.pop(process, "") + call.partition("resumed>")[2]
        found = _CALL.search(call)
        if found is None or not began <= float(at) < ended:
            continue
        name, file, result = found[1], found[2], int(found[3])
        if file.startswith(f"{data}/"):
            file = Path(file).name
            if "sync" in name:
                syncs[file] += 1
            else:
                size[file] += result
    return WriteCounts(syncs=dict(syncs), bytes=dict(size))


def measure_rate(data: Path, processes: int, cameras: int, count: int) -> tuple[float, int]:
    """Return windows a second through one log and its analyzer, and the largest WAL in bytes."""
    go, stop = SPAWN_CONTEXT.Event(), SPAWN_CONTEXT.Event()
    log = SqliteLog(data / "log.db", partitions=PARTITIONS)
    names = [f"camera-{n}" for n in range(processes * cameras)]
    shares = [names[n::processes] for n in range(processes)]
    analyzer, ready = start_role(analyze, data, stop)
    watching = [start_role(run_fast_cameras, data, membership, count, go) for membership in shares]
    for is_ready in (ready, *(each for _, each in watching)):
        is_ready.wait(60)
    began, largest = time.perf_counter(), 0
    go.set()
    while pending_windows(log, names) or any(process.is_alive() for process, _ in watching):
        if not analyzer.is_alive():
            raise RuntimeError("the analyzer ended")
        largest = max(largest, (data / "log.db-wal").stat().st_size)
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    stop.set()
    analyzer.join()
    log.close()
    return len(names) * count / seconds, largest


def encoded_size() -> int:
    """Return the bytes of one window."""
    (window,) = windows("camera-0", 1, stills())
    return len(encode_window(replace(window, covers=None)))


if __name__ == "__main__":
    data, cameras, count, pace, idle = sys.argv[1:]
    run_system(Path(data), int(cameras), int(count), float(pace), float(idle))
