"""What watching one camera costs: the product against bare loops over the same real RTSP stream.

GStreamer's server (`tests/kit/ingest/rtsp_server.py`) sends a noisy scene. Three ways take turns,
each in its own process, after some seconds in which streams prove what they are:

- `product`: a CameraWorker with its log in a file;
- `all`: a bare loop of PyAV that decodes all frames, and makes a still of the first in each second;
- `keyframes`: one that decodes keyframes alone, and makes a still of each.

Stills are the same: one a second, 640 wide. What is measured is CPU time of the whole process, so
that a machine which does other things as well gives ratios that are usable. What the first seconds
of the product cost is printed beside it: all is decoded until a stream has proved what it is.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from ingest.camera import Camera
from ingest.pictures.stills import StillSize, encode_still
from ingest.worker import CameraWorker
from kit.ingest.coded_video import add_video_stream
from storage.log.sqlite.log import SqliteLog

WAYS = ("product", "all", "keyframes")
FRAMES = 100
OPENED = {"rtsp_transport": "tcp", "fpsprobesize": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuStream:
    """What a camera sends; the product may take `most` times as much CPU as a bare loop."""

    codec: str
    size: tuple[int, int]
    rate: int
    gop: int
    bits: str
    against: str
    most: float


HD, SD = (1920, 1080), (640, 480)
STREAMS = {
    "hd-h264-1s": CpuStream(
        codec="h264", size=HD, rate=25, gop=25, bits="4M", against="keyframes", most=1.3
    ),
    "hd-h264-2s": CpuStream(
        codec="h264", size=HD, rate=25, gop=50, bits="4M", against="all", most=0.65
    ),
    "hd-h265-1s": CpuStream(
        codec="h265", size=HD, rate=25, gop=25, bits="3M", against="keyframes", most=1.3
    ),
    "hd-h265-2s": CpuStream(
        codec="h265", size=HD, rate=25, gop=50, bits="3M", against="all", most=0.65
    ),
    "sd-h264-1s": CpuStream(
        codec="h264", size=SD, rate=10, gop=10, bits="700k", against="all", most=0.9
    ),
    "sd-h265-1s": CpuStream(
        codec="h265", size=SD, rate=10, gop=10, bits="500k", against="all", most=0.9
    ),
}


def write_film(path: Path, stream: CpuStream) -> None:
    """Encode a scene that moves a little, with the noise of a sensor."""
    draw = np.random.default_rng(0)
    width, height = stream.size
    scene = draw.integers(40, 200, (height // 8, width // 8), np.uint8)
    scene = scene.repeat(8, 0).repeat(8, 1).astype(np.int16)
    noise = [draw.normal(0, 2, scene.shape).astype(np.int16) for _ in range(5)]
    x265 = f"keyint={stream.gop}:min-keyint={stream.gop}:scenecut=0:bframes=0:log-level=0"
    name, form, options = {
        "h264": ("libx264", "h264", {"g": str(stream.gop), "bf": "0", "sc_threshold": "0"}),
        "h265": ("libx265", "hevc", {"x265-params": f"{x265}:repeat-headers=1"}),
    }[stream.codec]
    with av.open(path, "w", format=form) as container:
        options |= {"preset": "superfast", "b": stream.bits}
        video = add_video_stream(container, name, stream.rate, options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for number in range(FRAMES):
            grey = scene.copy()
            left = number * 8 % (width // 2)
            grey[height // 3 : height // 2, left : left + width // 8] = 220
            grey += np.roll(noise[number % len(noise)], number, 1)
            picture = VideoFrame.from_ndarray(np.clip(grey, 0, 255).astype(np.uint8), format="gray")
            container.mux(video.encode(picture.reformat(format="yuv420p")))
        container.mux(video.encode())


@contextmanager
def serve_stream(stream: CpuStream) -> Iterator[str]:
    """Serve a stream, and give its url."""
    from bench.rtsp_film_server import (
        serving,  # the processes that are measured do not see this folder
    )

    with tempfile.TemporaryDirectory(prefix="longwatch-stream-") as folder:
        film = Path(folder) / f"film.{stream.codec}"
        write_film(film, stream)
        with serving(film, stream.rate) as url:
            yield url


def work(way: str, url: str) -> None:
    """Watch a camera in one of the ways, for ever."""
    camera = Camera(name="dock", url=url)
    if way == "product":
        with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder:
            log = SqliteLog(Path(folder) / "log.db")
            CameraWorker(camera, log, lambda _: None).run(threading.Event())
    size, last = StillSize(camera), float("-inf")
    with av.open(url, options=OPENED) as container:
        video = container.streams.video[0]
        video.codec_context.thread_count = 1
        for packet in container.demux(video):
            if way == "keyframes" and not packet.is_keyframe:
                continue
            for picture in packet.decode():
                if way == "keyframes" or (picture.time or 0.0) - last >= 1 / camera.fps - 1e-3:
                    last = picture.time or 0.0
                    encode_still(picture, camera, size.update(picture, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuCost:
    """CPU seconds for a minute of watching: in the first seconds, and behind them."""

    first: float
    steady: float


def cpu_seconds(seconds: float) -> float:
    """Return how much CPU a minute takes, measured over some seconds."""
    cpu, began = time.process_time(), time.monotonic()
    time.sleep(seconds)
    return 60 * (time.process_time() - cpu) / (time.monotonic() - began)


def print_cost(way: str, url: str, warm: float, seconds: float) -> None:
    """Print what a minute of watching costs, at first and steadily; end this process."""
    threading.Thread(target=work, args=(way, url), daemon=True).start()
    sys.stdout.write(f"{cpu_seconds(warm):.4f} {cpu_seconds(seconds):.4f}\n")
    sys.stdout.flush()
    os._exit(0)


def measure_cost(way: str, url: str, warm: float, seconds: float) -> CpuCost:
    """Return what a minute of watching costs in a process of its own."""
    command = [sys.executable, "-P", __file__, way, url, str(warm), str(seconds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    first, steady = done.stdout.split()[-2:]
    return CpuCost(first=float(first), steady=float(steady))


def measure(stream: CpuStream, rounds: int, warm: float, seconds: float) -> dict[str, CpuCost]:
    """Return the median of each way, which take turns."""
    ways = ["product", *(way for way in WAYS[1:] if way in (stream.against, "all"))]
    costs = dict[str, list[CpuCost]]({way: [] for way in ways})
    with serve_stream(stream) as url:
        for _ in range(rounds):
            for way in ways:
                costs[way].append(
                    measure_cost(way, url, warm if way == "product" else 3.0, seconds)
                )
    return {
        way: CpuCost(
            first=statistics.median(cost.first for cost in each),
            steady=statistics.median(cost.steady for cost in each),
        )
        for way, each in costs.items()
    }


def report(names: Sequence[str], rounds: int, warm: float, seconds: float) -> bool:
    """Print the ratios of some streams; return whether none is above what it may be."""
    holds = True
    for name in names:
        stream = STREAMS[name]
        costs = measure(stream, rounds, warm, seconds)
        product = costs["product"].steady
        ratio = product / costs[stream.against].steady
        holds &= ratio <= stream.most
        each = " ".join(f"{way}={cost.steady:.2f}" for way, cost in costs.items())
        load = os.getloadavg()[0]
        print(
            f"{name}: {each} CPU-s a minute; product/{stream.against} {ratio:.2f}"
            f" (at most {stream.most}), product/all {product / costs['all'].steady:.2f};"
            f" the first {warm:.0f} s at {costs['product'].first:.2f}; load {load:.1f}",
            flush=True,
        )
    return holds


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand."""
    parser.add_argument("--streams", nargs="*", default=list(STREAMS), choices=list(STREAMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=float, default=15.0, help="seconds before it is measured")
    parser.add_argument("--seconds", type=float, default=20.0)


if __name__ == "__main__":
    print_cost(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
