"""Surfaces: photographs if they are installed, else noise and patterns."""

from typing import Literal, Protocol

import numpy as np
from numpy.random import Generator
from PIL import Image

from analyzer.nano.workshop.renderer.stage import NEUTRAL_SHADE

Surface = Literal["ground", "wall", "cloth", "view"]
SIDE = 192
"""Pixels of a tile."""


class PhotographSource(Protocol):
    """A bank of photographs, from which parts are taken."""

    def crop(self, r: Generator, kind: Surface, height: int, width: int) -> np.ndarray:
        """Return a random part (height, width, 3) of a random photograph of that kind."""
        ...


def tile(r: Generator, kind: Surface, photographs: PhotographSource | None) -> np.ndarray:
    """Return a surface (SIDE, SIDE, 3) in 0..255, float32; half of them photographs, if any."""
    if photographs is not None and r.random() < 0.7:
        return photographs.crop(r, kind, SIDE, SIDE).astype(np.float32)
    base = np.clip(r.uniform(40, 215) + r.normal(0, 12, 3), 15, 245).astype(np.float32)
    surface = base + clouds(r, SIDE, SIDE, r.uniform(0, 22))[..., None]
    if kind in {"ground", "wall"} and r.random() < 0.6:
        surface *= joints(r)[..., None]
    surface += r.normal(0, r.uniform(0, 9), (SIDE, SIDE, 1))
    return np.clip(surface, 0, 255).astype(np.float32)


def clouds(r: Generator, height: int, width: int, deviation: float) -> np.ndarray:
    """Return smooth noise of several sizes (height, width), float32."""
    total = np.zeros((height, width), np.float32)
    for rows in (3, 7, 17, 40):
        coarse = r.normal(0, deviation / 2, (rows, rows * width // height + 1)).astype(np.float32)
        total += np.asarray(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        )
    return total


def joints(r: Generator) -> np.ndarray:
    """Return the joints of bricks, tiles or boards (SIDE, SIDE), to multiply with."""
    down, across = r.integers(6, 40), r.integers(6, 80)
    v, u = np.mgrid[:SIDE, :SIDE]
    shifted = u + (v // down % 2) * (across // 2 if r.random() < 0.6 else 0)
    dark = (v % down < 2) | (shifted % across < 2)
    stones = r.uniform(0.85, 1.15, (SIDE // 6 + 1, SIDE // 6 + 15))
    shade = stones[v // down, shifted // across]
    return np.where(dark, r.uniform(0.55, 1.3), shade).astype(np.float32)


def cloth(r: Generator, photographs: PhotographSource | None) -> Image.Image:
    """Return the shading of a garment: a small picture; `NEUTRAL_SHADE` changes no colour."""
    if photographs is not None and r.random() < 0.6:
        part = photographs.crop(r, "cloth", 24, 12).astype(np.float32)
        shade = part / max(part.mean(), 20)
    else:
        shade = 1 + clouds(r, 24, 12, r.uniform(0, 0.25))[..., None].repeat(3, 2)
        if r.random() < 0.3:
            stripes = np.arange(24) // r.integers(2, 5) % 2
            shade *= np.where(stripes, r.uniform(0.6, 1.4), 1)[:, None, None]
    return Image.fromarray((np.clip(shade, 0.35, 1.8) * NEUTRAL_SHADE).astype(np.uint8))
