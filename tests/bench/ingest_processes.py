"""What the processes of cameras cost: their memory, and how long many take to connect.

`longwatch ingest` watches a real RTSP stream, from GStreamer's server
(`tests/kit/ingest/rtsp_server.py`), which sends it from one pipeline to all. Three ways to
start a camera's process take turns:

- `forked`: the product's, from a fork server that has loaded what cameras share;
- `spawned`: where none can be forked, a new Python that loads what a camera uses;
- `before`: a new Python that loads the command line as well, as it was before the fork server.

    python tests/bench/ingest.py memory [--stream hd] [--cameras 8] [--ways forked before]
    python tests/bench/ingest.py start [--cameras 64] [--ways forked before]

Memory is PSS: what a process has for itself, and its part of what it shares with others. Measure
on a machine that does nothing else: `start` goes by the clock.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np

from bench.rtsp_film_server import serving
from deploy.config.data_dir import LOG_FILE
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import WINDOWS

NO_FORK = "import os; del os.pidfd_open\n"
WAYS = {
    "forked": ["-m", "deploy"],
    "spawned": ["-c", NO_FORK + "from deploy.__main__ import main; main()"],
    "before": [
        "-c",
        NO_FORK + "import runpy; runpy.run_module('deploy', None, '__main__', True)",
    ],
}
PATIENCE = 180.0
"""Seconds for all cameras to connect, and for each to make a window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStream:
    """What a camera sends, and how much memory its process may have, in MB of PSS."""

    width: int
    height: int
    fps: int
    most: float
    cameras: int


STREAMS = {
    "small": ProcessStream(width=320, height=240, fps=5, most=32, cameras=16),
    "sd": ProcessStream(width=640, height=480, fps=10, most=32, cameras=16),
    "hd": ProcessStream(width=1920, height=1080, fps=25, most=45, cameras=8),
}


def write_film(path: Path, stream: ProcessStream) -> None:
    """Encode two seconds of a textured scene with the noise of a sensor; a keyframe a second."""
    random = np.random.default_rng(0)
    coarse = random.integers(40, 200, (stream.height // 8, stream.width // 8), np.uint8)
    scene = coarse.repeat(8, 0).repeat(8, 1).astype(np.int16)
    with av.open(path, "w", format="h264") as container:
        video = container.add_stream("libx264", rate=stream.fps)
        video.width, video.height, video.pix_fmt = stream.width, stream.height, "yuv420p"
        video.options = {"preset": "veryfast", "bf": "0", "g": str(stream.fps), "crf": "28"}
        for number in range(2 * stream.fps):
            noise = random.normal(0, 3, scene.shape)
            grey = np.clip(np.roll(scene, number * 2, 1) + noise, 0, 255).astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(grey, format="gray")
            container.mux(video.encode(picture.reformat(format="yuv420p")))
        container.mux(video.encode())


@contextmanager
def camera_of(stream: ProcessStream) -> Iterator[str]:
    """Serve a stream, and give its url."""
    with tempfile.TemporaryDirectory(prefix="longwatch-stream-") as folder:
        film = Path(folder) / "film.h264"
        write_film(film, stream)
        with serving(film, stream.fps) as url:
            yield url


class IngestProcesses:
    """A running `longwatch ingest` with a number of cameras on one stream."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]", cameras: int) -> None:
        self._folder, self._cameras = folder, cameras
        self.process = process
        self.started = datetime.now(UTC)

    def lines(self, event: str) -> list[dict[str, str]]:
        """Return the lines of its log with this event."""
        output = (self._folder / "said").read_text().splitlines()
        return [line for line in map(json.loads, output) if line["event"] == event]

    def connected(self) -> list[float]:
        """Return the seconds from the start until each camera was connected first."""
        first: dict[str, str] = {}
        for line in self.lines("camera connected"):
            first.setdefault(line["camera"], line["timestamp"])
        return sorted(
            (datetime.fromisoformat(at) - self.started).total_seconds() for at in first.values()
        )

    def pids(self) -> dict[str, int]:
        """Return the processes of the cameras."""
        return {line["process"]: int(line["pid"]) for line in self.lines("process started")}

    def wait_until_connected(self) -> None:
        self._wait(lambda: len(self.connected()))

    def wait_until_recorded(self) -> None:
        """Wait until there are as many windows as cameras, which all began together."""
        with closing(SqliteLog(self._folder / "data" / LOG_FILE)) as log:
            self._wait(lambda: sum(map(log.end_offset, log.partitions(WINDOWS))))

    def _wait(self, count: Callable[[], int]) -> None:
        deadline = time.monotonic() + PATIENCE
        while (done := count()) < self._cameras:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit(f"only {done} of {self._cameras} cameras: the machine is too busy")
            time.sleep(0.25)


@contextmanager
def ingesting(way: str, url: str, cameras: int) -> Iterator[IngestProcesses]:
    """Run `longwatch ingest`, its processes started in one of WAYS."""
    with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as name:
        folder = Path(name)
        lines = "".join(f"  c{n}: {{url: '{url}'}}\n" for n in range(cameras))
        ask = "questions: {any: {ask: 'Is anybody there?', every: 16s}}\n"
        (folder / "site.yaml").write_text(f"{ask}cameras:\n{lines}data: {folder / 'data'}\n")
        command = [sys.executable, *WAYS[way], "ingest", "-c", str(folder / "site.yaml")]
        with (
            (folder / "said").open("wb") as stderr,
            subprocess.Popen(command, stdout=stderr, stderr=stderr) as process,
        ):
            try:
                yield IngestProcesses(folder, process, cameras)
            finally:
                process.terminate()


def memory_of(pid: int) -> tuple[float, float]:
    """Return the PSS of a process, and what of it is its own alone, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kib["Pss"] / 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def memory(way: str, stream: ProcessStream, url: str, cameras: int) -> float:
    """Print the memory of cameras that have made a window; return the PSS of one, in MB."""
    with ingesting(way, url, cameras) as ingest:
        ingest.wait_until_connected()
        ingest.wait_until_recorded()
        found = [memory_of(pid) for pid in ingest.pids().values()]
    pss, own = (statistics.fmean(values) for values in zip(*found, strict=True))
    largest = max(each for each, _ in found)
    print(
        f"{way:8} {pss:6.1f} MB PSS a camera ({own:.1f} its own), the largest {largest:.1f};"
        f" the limit is {stream.most:.0f}"
    )
    return pss


def start(way: str, stream: ProcessStream, url: str, cameras: int) -> float:
    """Print how long cameras take to connect; return when the last was, in seconds."""
    with ingesting(way, url, cameras) as ingest:
        ingest.wait_until_connected()
        seconds, used = ingest.connected(), sum(map(cpu_of, ingest.pids().values()))
    print(
        f"{way:8} first {seconds[0]:5.1f} s, last {seconds[-1]:5.1f} s;"
        f" {used / cameras:.2f} s of CPU a camera until then"
    )
    return seconds[-1]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommands `memory` and `start`."""
    parser.add_argument("--stream", choices=STREAMS)
    parser.add_argument("--cameras", type=int)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["forked", "before"])


def report(what: str, options: argparse.Namespace) -> None:
    """Print what the ways to start a process cost, and the ratio of the first to the others."""
    measure = {"memory": memory, "start": start}[what]
    stream = STREAMS[options.stream or {"memory": "sd", "start": "small"}[what]]
    cameras = options.cameras or {"memory": stream.cameras, "start": 64}[what]
    print(f"{cameras} cameras, {stream.width}x{stream.height} at {stream.fps} a second")
    with camera_of(stream) as url:
        found = {way: measure(way, stream, url, cameras) for way in options.ways}
    first, *others = found
    for other in others:
        print(f"{first} / {other}: {found[first] / found[other]:.2f}")
