"""How long after the end of a window its finding is there, with many cameras on one analyzer.

The whole path in real time: an RTSP server, and `longwatch run` with a process per camera that
decodes and cuts, and one analyzer with the model that ships. The cameras start together, so
their windows end together: the worst case for whoever comes last. Only windows with a full
memory behind them count. One camera alone, in the same run, is what the time is compared with.

`--stream small` is the demo's picture: a clean scene, 384x256 at 5 frames a second. `--stream
real` is what a camera sends: 640x480 at 10 frames a second with sensor noise, which makes stills
larger and dearer to decode. The film is encoded once and as long as a run. GStreamer's server
(`tests/kit/ingest/rtsp_server.py`) sends it from one pipeline, which only packs it, to all clients.

    python tests/bench/cameras.py [--stream real] [--cameras 8 32] [--windows 6]
"""

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

# Before this folder, in which a file would stand for a package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from analyzer.nano.workshop.clips import FPS, HEIGHT, WIDTH
from analyzer.nano.workshop.renderer.camera import ASPECT
from analyzer.nano.workshop.scenes import RenderedScene, demo_scene
from analyzer.nano.workshop.video import write_video
from bench.rtsp_film_server import serving
from deploy.config.data_dir import LOG_FILE
from deploy.logs.setup import LoggingConfig, configure_logging
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import FINDINGS
from storage.records.wire import decode_finding

WINDOW, HORIZON = 16, 64
START = 60
"""Seconds that many cameras take to connect."""
SILENT = "fell silent"
"""What the log says of a camera that sends nothing more."""
SITE = """\
questions:
  anything: {{ask: "Is anything unusual happening?", every: {window}s}}
model: {{name: {model}}}
memory: {{horizon: {horizon}s}}
cameras:
"""


def measure(cameras: int, windows: int, model: str, url: str) -> list[float]:
    """Return the seconds from the end of each window to its finding.

    Prints how often a camera fell silent: the server or the machine was too slow for them.
    """
    with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder:
        site = Path(folder) / "site.yaml"
        lines = [f"  c{n}: {{url: {url!r}}}\n" for n in range(cameras)]
        head = SITE.format(window=WINDOW, model=model, horizon=HORIZON)
        site.write_text(head + "".join(lines))
        output, data = Path(folder) / "said", Path(folder) / "data"
        command = [sys.executable, "-m", "deploy", "run", "-c", str(site)]
        with (
            output.open("wb") as stderr,
            subprocess.Popen(command, stdout=stderr, stderr=stderr) as longwatch,
        ):
            try:
                while not (data / LOG_FILE).exists() and longwatch.poll() is None:
                    time.sleep(0.5)
                return watch(data, cameras * (windows + HORIZON // WINDOW))
            finally:
                print(f"{cameras} cameras: fell silent {output.read_text().count(SILENT)} times")
                longwatch.terminate()


def watch(data: Path, number: int) -> list[float]:
    """Wait for so many findings; return the delays of those with a full memory."""
    delays: list[float] = []
    with closing(SqliteLog(data / LOG_FILE)) as log:
        offsets = dict.fromkeys(log.partitions(FINDINGS), 0)
        while sum(offsets.values()) < number:
            time.sleep(0.5)
            entries = [
                entry for partition, at in offsets.items() for entry in log.read(partition, at)
            ]
            for entry in entries:
                offsets[entry.topic] = entry.offset + 1
                finding = decode_finding(entry.value)
                if finding.memory_span >= HORIZON - WINDOW:
                    delays.append((entry.at - finding.end).total_seconds())
    return delays


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchStream:
    """What a camera sends; `noise` is that of its sensor, in levels of 255."""

    width: int
    height: int
    fps: int
    noise: float = 0.0


STREAMS = {
    "small": BenchStream(width=WIDTH, height=HEIGHT, fps=FPS),
    "real": BenchStream(width=640, height=480, fps=10, noise=6.0),
}


class NoisyScene:
    """What a camera with this sensor sees of a scene, as narrow as its picture is."""

    def __init__(self, scene: RenderedScene, noise: float) -> None:
        self._scene = replace(scene, sensor=replace(scene.sensor, noise=noise)) if noise else scene

    def picture(self, t: float, width: int, height: int) -> np.ndarray:
        """Return the picture at `t` seconds: uint8 (height, width, 3)."""
        return self._scene.picture(t, max(width, int(height * ASPECT)), height)[:, :width]


@contextmanager
def rtsp_server(stream: BenchStream, seconds: float) -> Iterator[str]:
    """Film a scene, serve it, and give its url; it begins anew once nobody watches any more."""
    with tempfile.TemporaryDirectory(prefix="longwatch-stream-") as folder:
        path = Path(folder) / "scene.h264"
        size = {"fps": stream.fps, "width": stream.width, "height": stream.height}
        scene = NoisyScene(demo_scene(seconds, True), stream.noise)
        write_video(scene, path, seconds=seconds, **size)  # type: ignore[arg-type]  # it has `picture`
        with serving(path, stream.fps) as url:
            yield url


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
    configure_logging(LoggingConfig(level=logging.WARNING))
    seconds = START + WINDOW * options.windows + HORIZON
    with rtsp_server(STREAMS[options.stream], float(seconds)) as url:
        alone = measure(1, options.windows, options.model, url)
        for cameras in options.cameras:
            together = measure(cameras, options.windows, options.model, url)
            report(alone, together, cameras, options.stream)


if __name__ == "__main__":
    main()
