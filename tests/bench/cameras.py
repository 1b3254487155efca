"""How long after the end of a window its finding is there, with many cameras on one analyzer.

The whole path in real time: an RTSP server, and `longwatch run` with a process per camera that
decodes and cuts, and one analyzer with the model that ships. The cameras start together, so
their windows end together: the worst case for whoever comes last. Only windows with a full
memory behind them count. One camera alone, in the same run, is what the time is compared with.

`--stream small` is the demo's camera: a clean scene, 384x256 at 5 frames a second. `--stream
real` is what a camera sends: 640x480 at 10 frames a second with sensor noise, which makes stills
larger and dearer to decode. The film is as long as a run: where it begins anew for many cameras
at once, the server is late for all of them.

    python tests/bench/cameras.py [--stream real] [--cameras 8 32] [--windows 6]
"""

import argparse
import asyncio
import logging
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from analyzer.nano.film import film
from analyzer.nano.scenes import ASPECT, Scene, demo_scene
from deploy import camera_server
from deploy.daemon import Role
from deploy.data import LOG_FILE
from deploy.logs import Logging, configure
from deploy.supervisor import Supervisor
from storage.log import FINDINGS
from storage.sqlite_log import SqliteLog
from storage.wire import decode_finding

WINDOW, HORIZON = 16, 64
START = 60
"""Seconds that many cameras take to connect."""
WIDTH, HEIGHT, FPS = 640, 480, 10
FILMING = 300.0
NOISE = 6.0
"""Levels of 255, as a camera has in the evening."""
SITE = """\
questions:
  anything: {{ask: "Is anything unusual happening?", every: {window}s}}
model: {{name: {model}}}
memory: {{horizon: {horizon}s}}
cameras:
"""


def measure(cameras: int, windows: int, model: str, url: str) -> list[float]:
    """Return the seconds from the end of each window to its finding."""
    with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder:
        site = Path(folder) / "site.yaml"
        lines = [f"  c{n}: {{url: {url!r}}}\n" for n in range(cameras)]
        head = SITE.format(window=WINDOW, model=model, horizon=HORIZON)
        site.write_text(head + "".join(lines))
        command = [sys.executable, "-m", "deploy.cli", "run", "-c", site]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as longwatch:
            try:
                data = Path(folder) / "data"
                while not (data / LOG_FILE).exists() and longwatch.poll() is None:
                    time.sleep(0.5)
                return watch(data, cameras * (windows + HORIZON // WINDOW))
            finally:
                longwatch.terminate()


def watch(data: Path, number: int) -> list[float]:
    """Wait for so many findings; return the delays of those with a full memory."""
    delays: list[float] = []
    with closing(SqliteLog(data / LOG_FILE)) as log:
        positions = dict.fromkeys(log.parts(FINDINGS), 0)
        while sum(positions.values()) < number:
            time.sleep(0.5)
            entries = [entry for part, at in positions.items() for entry in log.read(part, at)]
            for entry in entries:
                positions[entry.topic] = entry.position + 1
                finding = decode_finding(entry.value)
                if finding.memory_span >= HORIZON - WINDOW:
                    delays.append((entry.at - finding.end).total_seconds())
    return delays


class Camera:
    """What a camera with a noisy sensor sees of a scene, as narrow as its picture is."""

    def __init__(self, scene: Scene) -> None:
        self._scene = replace(scene, sensor=replace(scene.sensor, noise=NOISE))

    def picture(self, t: float, width: int, height: int) -> np.ndarray:
        return self._scene.picture(t, int(height * ASPECT), height)[:, :width]


def serve_real(
    *,
    port: int,
    seconds: float,
    anomaly: bool,
    stop: threading.Event,
    promise: Callable[[float], None],
) -> None:
    """Film a scene under noise as a camera does, then serve it until `stop`."""
    promise(FILMING)
    camera = Camera(demo_scene(seconds, anomaly))
    with tempfile.TemporaryDirectory(prefix="longwatch-stream-") as folder:
        path = Path(folder) / camera_server.FILM
        film(camera, path, seconds=seconds, fps=FPS, width=WIDTH, height=HEIGHT)
        asyncio.run(camera_server._serve(folder, port, stop, promise))


STREAMS = {"small": camera_server.serve, "real": serve_real}


@contextmanager
def rtsp_server(stream: str, seconds: float) -> Iterator[str]:
    """Serve a stream, and give its url; it begins anew for each camera that connects."""
    with socket.create_server((camera_server.HOST, 0)) as free:
        port = int(free.getsockname()[1])
    arguments = {"port": port, "seconds": seconds, "anomaly": True}
    logs = Logging(level=logging.WARNING)
    role = Role(name="server", work=STREAMS[stream], arguments=arguments, logging=logs)
    supervisor = Supervisor([role])
    supervisor.tend()
    try:
        yield camera_server.url_of(port)
    finally:
        supervisor.end()


def p95(delays: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(delays, n=20, method="inclusive")[-1]


def report(alone: Sequence[float], together: Sequence[float], cameras: int, stream: str) -> None:
    for number, delays in ((1, alone), (cameras, together)):
        print(f"{number} cameras: {len(delays)} windows, worst {max(delays):.2f}s")
    print(
        f"p95={p95(together):.2f}s cameras={cameras} p50={statistics.median(together):.2f}s"
        f" one_camera_p95={p95(alone):.2f}s ratio={p95(together) / p95(alone):.2f}"
        f" windows={len(together)} stream={stream}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cameras", type=int, nargs="+", default=[8])
    parser.add_argument("--windows", type=int, default=6, help="per camera, with a full memory")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--stream", choices=STREAMS, default="small")
    options = parser.parse_args()
    configure(Logging(level=logging.WARNING))
    seconds = START + WINDOW * options.windows + HORIZON
    with rtsp_server(options.stream, float(seconds)) as url:
        alone = measure(1, options.windows, options.model, url)
        for cameras in options.cameras:
            together = measure(cameras, options.windows, options.model, url)
            report(alone, together, cameras, options.stream)


if __name__ == "__main__":
    main()
