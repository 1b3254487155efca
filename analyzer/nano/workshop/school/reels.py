"""Rendered scenes for training: JPEGs, labels and events, stored on disk.

    python -m analyzer.nano.workshop.school.reels --folder .nano --many 2000

renders ahead on all cores; training renders missing reels.
"""

import argparse
import io
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Self

import av
import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image
from rich.progress import track

from analyzer.nano.workshop.renderer.camera import ASPECT
from analyzer.nano.workshop.renderer.events import EventKind, SceneEvent
from analyzer.nano.workshop.renderer.photographs import Photographs
from analyzer.nano.workshop.scenes import RenderedScene, random_scene

SECONDS = 64
"""Stills of a reel, one a second."""
RATE = 0.6
LABELS = {
    "person": 4.0,
    "standing": 6.0,
    "running": 12.0,
    "sitting": 15.0,
    "lying": 20.0,
    "fighting": 20.0,
    "intruder": 20.0,
    "crowd": 8.0,
    "vehicle": 8.0,
    "against": 15.0,
    "bag": 15.0,
    "abandoned": 20.0,
    "fire": 15.0,
}
"""The labels of places in the picture, and the weight of their presence over absence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reel:
    """One scene: a JPEG a second, marks (M, 4: still, label, x and y as shares), people, events."""

    jpegs: tuple[bytes, ...]
    marks_M4: np.ndarray
    counts_N: np.ndarray
    events: tuple[SceneEvent, ...]

    def people(self, t: float) -> int:
        """Return how many people can be seen."""
        return int(self.counts_N[min(int(t), len(self.counts_N) - 1)])

    def write(self, path: Path) -> None:
        """Write the reel to a file, which is there whole or not at all."""
        kinds = list(EventKind)
        part = path.with_suffix(".part.npz")
        np.savez(
            part,
            jpegs=np.frombuffer(b"".join(self.jpegs), np.uint8),
            sizes=np.array([len(jpeg) for jpeg in self.jpegs]),
            marks=self.marks_M4,
            counts=self.counts_N,
            events=np.array([(kinds.index(e.kind), e.start, e.end, e.x, e.y) for e in self.events]),
        )
        part.rename(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of `write`."""
        with np.load(path) as held:
            ends = np.cumsum(held["sizes"])
            whole = held["jpegs"].tobytes()
            jpegs = tuple(
                whole[end - size : end] for end, size in zip(ends, held["sizes"], strict=True)
            )
            rows = held["events"].reshape(-1, 5).tolist()
            return cls(
                jpegs=jpegs, marks_M4=held["marks"], counts_N=held["counts"], events=_events(rows)
            )


def _events(rows: list[list[float]]) -> tuple[SceneEvent, ...]:
    kinds = list(EventKind)
    return tuple(
        SceneEvent(kind=kinds[int(kind)], start=start, end=end, x=x, y=y)
        for kind, start, end, x, y in rows
    )


def outline_of(scene: RenderedScene, seconds: int) -> Reel:
    """Return the facts of a scene, without its pictures."""
    labels = list(LABELS)
    marks = [
        (t, labels.index(mark.label), mark.x / ASPECT, mark.y)
        for t in range(seconds)
        for mark in scene.marks(t)
        if 0 < mark.x < ASPECT and 0 < mark.y < 1
    ]
    counts = np.array([scene.people(t) for t in range(seconds)])
    table = np.array(marks, np.float32).reshape(-1, 4)
    return Reel(jpegs=(), marks_M4=table, counts_N=counts, events=scene.events)


def render_reel(seed: int, seconds: int = SECONDS) -> Reel:
    """Return the reel of a seed; a third of them went through H.264."""
    r = default_rng((seed, 1))
    scene = random_scene(seed, seconds, rate=RATE, photographs=_photographs())
    height = int(r.choice([128, 192], p=[0.9, 0.1]))
    pictures = [scene.picture(t, int(height * ASPECT), height) for t in range(seconds)]
    if r.random() < 0.33:
        pictures = through_h264(pictures, crf=int(r.integers(22, 37)))
    known = outline_of(scene, seconds)
    return Reel(
        jpegs=tuple(_jpeg(picture, r) for picture in pictures),
        marks_M4=known.marks_M4,
        counts_N=known.counts_N,
        events=known.events,
    )


def _jpeg(picture: np.ndarray, r: Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=int(r.uniform(60, 96)))
    return file.getvalue()


def through_h264(pictures: Sequence[np.ndarray], crf: int) -> list[np.ndarray]:
    """Return pictures as they come out of a real encoder and decoder."""
    encoder = av.VideoCodecContext.create("libx264", "w")
    encoder.height, encoder.width = pictures[0].shape[:2]
    encoder.pix_fmt, encoder.framerate, encoder.time_base = "yuv420p", Fraction(1), Fraction(1)
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": str(crf), "g": "25"}
    decoder = av.VideoCodecContext.create("h264", "r")
    packets = []
    for n, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        frame.pts = n
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return [frame.to_ndarray(format="rgb24") for frame in frames]


@cache
def _photographs() -> Photographs | None:
    return Photographs.installed()


def load_or_render(folder: Path, seed: int) -> Reel:
    """Return the reel of a seed, from the folder if it is there."""
    path = folder / f"{seed:08d}.npz"
    if not path.exists():
        render_reel(seed).write(path)
    return Reel.read(path)


def _render_ahead(folder: Path, seed: int) -> int:
    load_or_render(folder, seed)
    return seed


def main() -> None:
    """Render ahead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--many", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    options = parser.parse_args()
    folder: Path = options.folder / "reels"
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first, options.first + options.many)
    with multiprocessing.Pool(options.workers) as pool:
        rendered = pool.imap(partial(_render_ahead, folder), seeds)
        for _ in track(rendered, "rendering", total=len(seeds)):
            pass


if __name__ == "__main__":
    main()
