"""Footage of a fixed camera, separated into background and people.

For measuring only (see `real.py`), never for training. Lengths are pixels of `WIDTH` x `HEIGHT`,
times are seconds, and there are `RATE` stills per second. N counts stills; H and W are those of
the small pictures, `COARSE` times smaller, in which people are detected.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import av
import numpy as np
from PIL import Image, ImageChops, ImageDraw

WIDTH, HEIGHT = 576, 432
RATE = 2
COARSE = 2
FOREGROUND_DIFFERENCE = 20
"""The difference from the background above which a small pixel shows a person."""
SHADOW_RATIO = 0.7
"""A pixel of the background's tint and at least this share of its brightness is a shadow."""
OCCLUDERS = (
    (290, ((320, 60), (325, 292)), 7),
    (290, ((321, 151), (321, 183)), 26),
    (360, ((380, 252), (379, 290), (346, 352)), 3),
    (360, ((379, 290), (392, 360)), 3),
)
"""The objects in vtest.avi that hide people, a lamp post and a tripod: foot, line, thickness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A connected component of a small picture: a mask and its upper left corner."""

    left: int
    top: int
    mask_HW: np.ndarray

    @property
    def foot(self) -> tuple[float, float]:
        """Return its point on the ground."""
        tall, wide = self.mask_HW.shape
        return (self.left + wide / 2) * COARSE, float(self.top + tall) * COARSE

    @property
    def height(self) -> float:
        """Return how tall it is."""
        return float(self.mask_HW.shape[0] * COARSE)

    def is_upright(self) -> bool:
        """Return whether it has the shape of one whole, upright person."""
        tall, wide = self.mask_HW.shape
        bottom, right = self.top + tall, self.left + wide
        inside = self.left > 1 and right < WIDTH // COARSE - 1 and bottom < HEIGHT // COARSE - 1
        filled = self.mask_HW.sum() / tall**2
        return inside and tall > 8 and 0.2 < wide / tall < 0.62 and 0.12 < filled < 0.32


@dataclass(frozen=True, slots=True, kw_only=True)
class HeightModel:
    """The height of people whose feet are at y: `slope` x (y - `horizon`)."""

    slope: float
    horizon: float

    @classmethod
    def of(cls, blobs: list[Blob]) -> Self:
        """Fit the law to people, without outliers."""
        y, tall = np.array([(blob.foot[1], blob.height) for blob in blobs]).T
        kept = np.ones(len(y), bool)
        for _ in range(5):
            slope, offset = np.polyfit(y[kept], tall[kept], 1)
            kept = np.abs(tall / (slope * y + offset) - 1) < 0.18
        return cls(slope=float(slope), horizon=float(-offset / slope))

    def height_at(self, y: float) -> float:
        """Return how tall a person is whose feet are at `y`."""
        return max(self.slope * (y - self.horizon), 4.0)

    def is_person(self, blob: Blob) -> bool:
        """Return whether a blob is one person, by the size of people at its place."""
        return blob.is_upright() and abs(blob.height / self.height_at(blob.foot[1]) - 1) < 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """The stills, the foreground of each, and the size of people."""

    stills: tuple[Image.Image, ...]
    background: Image.Image
    usual_difference: Image.Image
    """How far each pixel mostly is from the background: tape in the wind, leaves."""
    blobs: tuple[tuple[Blob, ...], ...]
    heights: HeightModel
    occluders_HW: np.ndarray
    """For each pixel, y of the foot of an object that hides people, else 0."""

    @classmethod
    def load(cls, video: Path) -> Self:
        """Decode a video and take it apart."""
        stills = decode(video)
        some = np.stack([np.asarray(still) for still in stills[::5]])
        background = Image.fromarray(np.median(some, axis=0).astype(np.uint8))
        small = background.reduce(COARSE)
        far_NHW = np.stack([distance(still.reduce(COARSE), small) for still in stills])
        usual_HW = np.percentile(far_NHW[::4], 70, axis=0).astype(np.uint8)
        blobs = tuple(
            tuple(blobs_of(far > FOREGROUND_DIFFERENCE + 3 * usual_HW)) for far in far_NHW
        )
        law = HeightModel.of([blob for found in blobs for blob in found if blob.is_upright()])
        return cls(
            stills=stills,
            background=background,
            usual_difference=Image.fromarray(usual_HW).resize((WIDTH, HEIGHT)),
            blobs=blobs,
            heights=law,
            occluders_HW=draw_occluders(),
        )

    def unoccluded(self, still: int) -> list[Blob]:
        """Return the people in a still who are not hidden."""
        return [
            b for b in self.blobs[still] if self.heights.is_person(b) and not self._is_occluded(b)
        ]

    def _is_occluded(self, blob: Blob) -> bool:
        tall, wide = blob.mask_HW.shape
        part = self.occluders_HW[blob.top : blob.top + tall, blob.left : blob.left + wide]
        return bool((part > blob.foot[1]).any())

    def feet_HW(self, still: int) -> np.ndarray:
        """Return for each pixel y of the feet of the person there; 0 for none."""
        feet = self.occluders_HW.copy()
        for blob in sorted(self.blobs[still], key=lambda blob: blob.foot[1]):
            tall, wide = blob.mask_HW.shape
            part = feet[blob.top : blob.top + tall, blob.left : blob.left + wide]
            part[blob.mask_HW] = blob.foot[1]
        return feet


def draw_occluders() -> np.ndarray:
    """Draw the objects that hide people (H, W)."""
    picture = Image.new("F", (WIDTH, HEIGHT))
    for foot, line, thickness in OCCLUDERS:
        ImageDraw.Draw(picture).line(line, fill=foot, width=thickness)
    return np.asarray(picture).reshape(HEIGHT // COARSE, COARSE, -1, COARSE).max(axis=(1, 3))


def decode(video: Path) -> tuple[Image.Image, ...]:
    """Return the stills of a video."""
    stills: list[Image.Image] = []
    with av.open(str(video)) as container:
        for frame in container.decode(container.streams.video[0]):
            if frame.time is not None and frame.time * RATE >= len(stills):
                stills.append(frame.to_image(width=WIDTH, height=HEIGHT))
    return tuple(stills)


def distance(still: Image.Image, background: Image.Image) -> np.ndarray:
    """Return by how much pixels differ from the background (H, W), shadows not counted."""
    red, green, blue = ImageChops.difference(still, background).split()
    far = np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue)).copy()
    light, behind = (np.asarray(p, np.float32).transpose(2, 0, 1) + 4 for p in (still, background))
    red_HW, green_HW, blue_HW = light / behind
    low_HW = np.minimum(np.minimum(red_HW, green_HW), blue_HW)
    high_HW = np.maximum(np.maximum(red_HW, green_HW), blue_HW)
    far[(high_HW - low_HW < 0.12) & (low_HW > SHADOW_RATIO - 0.05) & (high_HW < 1.08)] = 0
    return far


def blobs_of(mask_HW: np.ndarray) -> Iterator[Blob]:
    """Yield the connected components of a mask, with pixel gaps closed and specks removed."""
    grown_HW = count_neighbours(count_neighbours(mask_HW) > 4) > 0
    labels_HW = label(count_neighbours(grown_HW) == 9)
    ys, xs = np.nonzero(labels_HW)
    names = labels_HW[ys, xs]
    order = np.argsort(names, kind="stable")
    for some in np.split(order, np.nonzero(np.diff(names[order]))[0] + 1):
        if len(some) < 20:
            continue
        y, x = ys[some], xs[some]
        mask = np.zeros((y.max() - y.min() + 1, x.max() - x.min() + 1), bool)
        mask[y - y.min(), x - x.min()] = True
        yield Blob(left=int(x.min()), top=int(y.min()), mask_HW=mask)


def count_neighbours(mask_HW: np.ndarray) -> np.ndarray:
    """Count for each pixel how many of the nine around it are in a mask."""
    wide = np.pad(mask_HW.astype(np.uint8), 1, mode="edge")
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


def label(mask_HW: np.ndarray) -> np.ndarray:
    """Number the connected parts of a mask from 1 on, by the runs of its rows."""
    edges = np.diff(np.pad(mask_HW.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    root = list(range(len(rows)))

    def find(n: int) -> int:
        while root[n] != n:
            root[n] = n = root[root[n]]
        return n

    first = np.searchsorted(rows, np.arange(mask_HW.shape[0] + 1)).tolist()
    for (begin, split), (_, end) in pairwise(pairwise(first)):
        above, below = begin, split
        while above < split and below < end:
            if starts[above] <= ends[below] and starts[below] <= ends[above]:
                root[find(below)] = find(above)
            if ends[above] < ends[below]:
                above += 1
            else:
                below += 1
    labels_HW = np.zeros(mask_HW.shape, np.int32)
    for n, (row, start, end) in enumerate(zip(rows, starts, ends, strict=True)):
        labels_HW[row, start:end] = find(n) + 1
    return labels_HW
