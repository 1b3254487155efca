"""How long after the end of a window its finding is there, with many cameras on one analyzer.

The whole path in real time: an RTSP server, and `longwatch run` with a process per camera that
decodes and cuts, and one analyzer with the model that ships. The cameras start together, so
their windows end together: the worst case for whoever comes last. Only windows with a full
memory behind them count. One camera alone, in the same run, is what the time is compared with.
"""

import argparse
import logging
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from deploy import camera_server
from deploy.daemon import Role
from deploy.data import LOG_FILE
from deploy.logs import Logging, configure
from deploy.supervisor import Supervisor
from storage.log import FINDINGS
from storage.sqlite_log import SqliteLog
from storage.wire import decode_finding

WINDOW, HORIZON, SCENE = 16, 64, 120
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


@contextmanager
def rtsp_server() -> Iterator[str]:
    """Serve a scene, and give its url."""
    with socket.create_server((camera_server.HOST, 0)) as free:
        port = int(free.getsockname()[1])
    scene = {"port": port, "seconds": float(SCENE), "anomaly": True}
    logs = Logging(level=logging.WARNING)
    role = Role(name="server", work=camera_server.serve, arguments=scene, logging=logs)
    supervisor = Supervisor([role])
    supervisor.tend()
    try:
        yield camera_server.url_of(port)
    finally:
        supervisor.end()


def p95(delays: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(delays, n=20, method="inclusive")[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--windows", type=int, default=6, help="per camera, with a full memory")
    parser.add_argument("--model", default="nano")
    options = parser.parse_args()
    configure(Logging(level=logging.WARNING))
    with rtsp_server() as url:
        alone = measure(1, options.windows, options.model, url)
        together = measure(options.cameras, options.windows, options.model, url)
    for name, delays in ((1, alone), (options.cameras, together)):
        print(f"{name} cameras: {len(delays)} windows, worst {max(delays):.2f}s")
    print(
        f"p95={p95(together):.2f}s cameras={options.cameras} p50={statistics.median(together):.2f}s"
        f" one_camera_p95={p95(alone):.2f}s ratio={p95(together) / p95(alone):.2f}"
        f" windows={len(together)}"
    )


if __name__ == "__main__":
    main()
