"""A `longwatch run` on a real camera, to be hurt in every way, and its ledger at the end."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import av
import numpy as np

from deploy.config.data_dir import LOG_FILE
from kit.deploy.command import LONGWATCH, ROOT, longwatch
from kit.ingest.fixtures import FPS, GStreamerServer
from kit.storage.fixtures import fill_disk
from kit.waiting import wait_for
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import WINDOWS

SITE = """\
cameras:
  dock: {{url: {url}, fps: 2, window: 4s}}
questions:
  anything: {{ask: "Is anything unusual happening?", every: 4s}}
model: {{name: {model}, device: cpu}}
data: {data}
"""
READ_TIMEOUT = 300.0
"""Seconds that it may take to start, and to read what waits."""


def write_clip(path: Path, kind: str, seconds: int) -> Path:
    """Encode a yard as a sensor sees it: alive, stuck, or with something before the lens."""
    draw = np.random.default_rng(5)
    view = np.kron(draw.integers(40, 210, (12, 16)), np.ones((20, 20)))
    stuck = view + draw.normal(0, 3, view.shape)
    with av.open(path, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(FPS), "qp": "20"}
        for _ in range(seconds * FPS):
            alive = view + draw.normal(0, 3, view.shape)
            light = {"alive": alive, "frozen": stuck, "covered": alive * 0 + 6}[kind]
            picture = np.repeat(np.clip(light, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@dataclass
class CoverageRun:
    """The running roles, found by what they log; `hurt` does one thing to them or the camera."""

    folder: Path
    disk: Path
    model: Path
    rng: random.Random
    clips: dict[str, Path] = field(default_factory=dict)
    injected: list[str] = field(default_factory=list)
    kills: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def log_lines(self) -> Iterator[dict[str, Any]]:
        for line in (self.folder / "said").read_text().splitlines():
            with suppress(ValueError):
                yield json.loads(line)

    @contextmanager
    def running(self) -> Iterator[None]:
        self.clips = {
            kind: write_clip(self.folder / f"{kind}.h264", kind, 60 if kind == "alive" else 4)
            for kind in ("alive", "frozen", "covered")
        }
        self.server = GStreamerServer(clip=self.clips["alive"])
        self.data = self.disk / "data"
        self.site = self.folder / "site.yaml"
        site = SITE.format(url=self.server.url, model=self.model, data=self.data)
        self.site.write_text(site)
        with self.server:
            self.start()
            try:
                yield
            finally:
                self.end(signal.SIGTERM)

    def start(self) -> None:
        with (self.folder / "said").open("wb") as stderr:
            command = [*LONGWATCH, "run", "-c", str(self.site)]
            self._process = subprocess.Popen(command, stderr=stderr, cwd=ROOT)
        wait_for(lambda: self.pids("alerts") and self.pids("camera-dock"), READ_TIMEOUT)

    def end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(READ_TIMEOUT)
        pids = [pid for role in ("alerts", "analyzer", "camera-dock") for pid in self.pids(role)]
        wait_for(lambda: not any(map(is_alive, pids)), READ_TIMEOUT)

    def pids(self, role: str) -> list[int]:
        assert self._process is not None
        started = [line for line in self.log_lines if line.get("event") == "process started"]
        return [line["pid"] for line in started if line["process"] == role][-1:]

    def kill(self, role: str) -> None:
        for pid in self.pids(role):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.kills += 1

    def signal(self, role: str, number: signal.Signals) -> None:
        """Send a signal to a role, once it is there: it may have been killed just now."""
        wait_for(lambda: any(map(is_alive, self.pids(role))), READ_TIMEOUT)
        os.kill(self.pids(role)[0], number)

    def sleep_between(self, least: float, most: float) -> None:
        time.sleep(self.rng.uniform(least, most))

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        return {
            "ingest killed": lambda: self.kill("camera-dock"),
            "analyzer killed": lambda: self.kill("analyzer"),
            "alerts killed": lambda: self.kill("alerts"),
            "everything killed": self._kill_all,
            "camera stops": self._stop_camera,
            "camera hangs": self._hang_camera,
            "camera freezes": lambda: self._show("frozen", 40),
            "camera covered": lambda: self._show("covered", 25),
            "log trimmed": self._trim,
            "window damaged": self._damage,
            "disk full": self._fill,
        }

    def inject(self, way: str) -> None:
        self.injected.append(way)
        self.faults[way]()

    def read_coverage(self) -> dict[str, Any]:
        """Let all that waits be read and folded, then reckon."""
        with closing(SqliteLog(self.data / LOG_FILE)) as log:
            partition = log.partition_for(WINDOWS, "dock")
            end = log.end_offset(partition) + 1
            wait_for(lambda: log.committed("analyzer", partition) >= end, READ_TIMEOUT)
        result = longwatch("coverage", "dock", "--data", self.data, "--json")
        assert result.returncode == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def _kill_all(self) -> None:
        self.end(signal.SIGKILL)
        self.kills += 1
        self.sleep_between(1, 6)
        self.start()

    def _stop_camera(self) -> None:
        self.server.kill()
        self.sleep_between(5, 15)
        self.server.start()

    def _hang_camera(self) -> None:
        self.server.signal(signal.SIGSTOP)
        self.sleep_between(8, 15)
        self.server.signal(signal.SIGCONT)

    def _show(self, kind: str, seconds: float) -> None:
        for clip, shown in ((self.clips[kind], seconds), (self.clips["alive"], 0.0)):
            self.server.kill()
            self.server.clip = clip
            self.server.start()
            time.sleep(shown)

    def _trim(self) -> None:
        self.signal("analyzer", signal.SIGSTOP)
        self.sleep_between(9, 14)
        with closing(SqliteLog(self.data / LOG_FILE)) as log:
            log.trim(WINDOWS, keep_bytes=0, keep_for=timedelta(days=1))
        self.kill("analyzer")

    def _damage(self) -> None:
        self.signal("analyzer", signal.SIGSTOP)
        self.sleep_between(5, 6)
        with closing(sqlite3.connect(self.data / LOG_FILE, timeout=10)) as log, log:
            log.execute(
                "UPDATE entries SET value = x'00' WHERE rowid ="
                " (SELECT max(rowid) FROM entries WHERE topic LIKE 'windows%')"
            )
        self.signal("analyzer", signal.SIGCONT)

    def _fill(self) -> None:
        ballast = fill_disk(self.disk)
        self.sleep_between(10, 15)
        ballast.unlink()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def run_with_faults(run: CoverageRun, seconds: float) -> dict[str, Any]:
    """Hurt a run in every way, in random order, again and again, and return its ledger."""
    began, ways = time.monotonic(), list[str]()
    with run.running():
        run.sleep_between(8, 12)
        while not run.injected or ways or time.monotonic() - began < seconds:
            if not ways:
                ways = run.rng.sample(sorted(run.faults), len(run.faults))
            run.inject(ways.pop())
            run.sleep_between(3, 8)
        return run.read_coverage()
