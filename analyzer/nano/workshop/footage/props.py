"""Bags, marked zones and fire, drawn into footage.

For measuring only (see `real.py`): nothing here may be taught from. Lengths on the ground are
heights of a person, `a` and `b` along the sides of a zone.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw, ImageFilter

from analyzer.nano.workshop.footage.overlays import Canvas, FootageCrop, H, Luggage, W
from analyzer.nano.workshop.footage.street import WIDTH, HeightModel

FOCAL = 1.1 * WIDTH
"""The assumed focal length: with it, squares on the ground look square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageBag:
    """A bag on the ground from a time on."""

    luggage: Luggage
    x: float
    y: float
    start: float

    def at(self, t: float) -> tuple[float, float] | None:
        """Return its position."""
        return (self.x, self.y) if t >= self.start else None

    def draw(self, canvas: Canvas, t: float) -> None:
        """Draw it with its shadow."""
        self.luggage.draw_at(canvas, self.x, self.y)


def random_luggage(r: Generator) -> Luggage:
    """Return a rucksack, a suitcase or a holdall."""
    wide, high, tall, bend = [(60, 84, 0.33, 3), (62, 92, 0.4, 7), (104, 56, 0.24, 4)][
        r.integers(3)
    ]
    v, u = np.mgrid[:120, :120].astype(np.float32)
    dx, dy = (u - 60) / (wide / 2), (v - 118 + high / 2) / (high / 2)
    inside = np.clip((1 - np.abs(dx) ** bend - np.abs(dy) ** bend) * 6, 0, 1)
    colours = [(28, 28, 32), (38, 46, 70), (90, 30, 28), (64, 66, 48), (96, 72, 48)]
    colour = np.array(colours[r.integers(5)], np.float32) * r.uniform(0.8, 1.5)
    shade = 1.1 - 0.35 * dy - 0.22 * dx + r.normal(0, 0.06, v.shape)
    shade *= np.where(np.abs(dy - r.uniform(-0.3, 0.3)) < 0.05, 0.55, 1)  # a seam
    shade *= np.where((np.abs(dx) < 0.6) & (np.abs(dy - 0.45) < 0.32), 1.18, 1)  # a pocket
    rgba = np.dstack([np.clip(colour * shade[..., None], 0, 255), inside * 255])
    bag = Image.fromarray(rgba.astype(np.uint8), "RGBA")
    handle = Image.new("RGBA", bag.size)
    top, strap = 118 - high, tuple(int(c) for c in colour * 0.7)
    box = [60 - wide * 0.22, top - 14, 60 + wide * 0.22, top + 14]
    ImageDraw.Draw(handle).arc(box, 180, 360, fill=(*strap, 255), width=5)
    whole = Image.alpha_composite(handle, bag).filter(ImageFilter.GaussianBlur(1))
    return Luggage(rgba=whole.crop(whole.getchannel("A").getbbox()), tall=tall)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintedZone:
    """A rectangle painted on the ground: hatched, worn, its middle at a place of the footage."""

    x: float
    y: float
    angle: float
    half_a: float
    half_b: float
    paint: tuple[float, float, float]
    opacity: float
    stripes: float
    seed: int

    def local(
        self, heights: HeightModel, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a and b of places of the footage."""
        across, ahead = on_ground(heights, x, y)
        across0, ahead0 = on_ground(heights, np.array(self.x), np.array(self.y))
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        dx, dz = across - across0, ahead - ahead0
        return cos * dx + sin * dz, cos * dz - sin * dx

    def footage_point(self, heights: HeightModel, a: float, b: float) -> tuple[float, float]:
        """Return the pixel of the footage for the ground coordinates a and b."""
        across, ahead = on_ground(heights, np.array(self.x), np.array(self.y))
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return in_picture(
            heights, float(across) + cos * a - sin * b, float(ahead) + sin * a + cos * b
        )

    def contains(
        self, heights: HeightModel, x: np.ndarray, y: np.ndarray, margin: float = 0
    ) -> np.ndarray:
        """Return which places of the footage are in the zone, or nearer to it than `margin`."""
        a, b = self.local(heights, x, y)
        return (np.abs(a) < self.half_a + margin) & (np.abs(b) < self.half_b + margin)

    @lru_cache(maxsize=4)  # noqa: B019  (a few pictures, of values)
    def alpha(self, heights: HeightModel, view: FootageCrop) -> np.ndarray:
        """Return how much of the paint is on each pixel of a canvas (H, W)."""
        v, u = np.mgrid[: 2 * H, : 2 * W] + 0.5
        y = np.maximum(v / 2 / view.scale + view.top, heights.horizon + 20)
        a, b = self.local(heights, u / 2 / view.scale + view.left, y)
        inset = np.minimum(self.half_a - np.abs(a), self.half_b - np.abs(b))
        hatched = (a + b) / self.stripes % 1 < 0.42
        painted = np.where((inset < 0.11) | hatched, 1.0, 0.22) * (inset > 0)
        worn = default_rng(self.seed).uniform(0.6, 1, (H // 4, W // 4)).astype(np.float32)
        wear = Image.fromarray(worn).resize((2 * W, 2 * H), Image.Resampling.BICUBIC)
        picture = Image.fromarray((painted * wear * 255).astype(np.uint8)).reduce(2)
        soft = picture.filter(ImageFilter.GaussianBlur(0.6))
        return np.asarray(soft, np.float32) / 255 * self.opacity

    def draw(self, canvas: Canvas) -> None:
        """Paint the ground, under everybody."""
        alpha_HW = self.alpha(canvas.heights, canvas.view)
        light_HW1 = canvas.rgb_HW3.mean(axis=-1, keepdims=True)
        paint_HW3 = np.array(self.paint, np.float32) * (0.55 + light_HW1 / 260)
        canvas.composite(paint_HW3, alpha_HW, 0, 0, 0.0)


def random_zone(r: Generator, x: float, y: float) -> PaintedZone:
    """Return a zone about a place of the footage."""
    paints = [(215, 190, 40), (200, 50, 40), (215, 215, 215)]
    red, green, blue = paints[r.integers(3)]
    return PaintedZone(
        x=x,
        y=y,
        angle=float(r.uniform(0, np.pi)),
        half_a=float(r.uniform(0.6, 1.5)),
        half_b=float(r.uniform(0.9, 2.0)),
        paint=(red, green, blue),
        opacity=float(r.uniform(0.55, 0.85)),
        stripes=float(r.uniform(0.4, 0.7)),
        seed=int(r.integers(1 << 30)),
    )


def on_ground(heights: HeightModel, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far right and how far ahead of the camera places of the footage are."""
    tall = heights.slope * (y - heights.horizon)
    return (x - WIDTH / 2) / tall, FOCAL / tall


def in_picture(heights: HeightModel, across: float, ahead: float) -> tuple[float, float]:
    """Return the pixel of the footage for a place on the ground."""
    tall = FOCAL / ahead
    return WIDTH / 2 + across * tall, heights.horizon + tall / heights.slope


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageFire:
    """Flames that grow from a time on, with smoke and a glow around them.

    They are `glare` times as bright as by day: a darker camera shows flames no darker.
    """

    x: float
    y: float
    start: float
    size: float
    grows: float
    wind: float
    glare: float
    seed: int

    def at(self, t: float) -> tuple[float, float] | None:
        """Return the position of the fire."""
        return (self.x, self.y) if t >= self.start else None

    def draw(self, canvas: Canvas, t: float) -> None:
        """Draw the scorched ground, the glow, the smoke and then the flames."""
        r = default_rng((self.seed, int(t * 10)))
        grown = self.size * min(1.0, 0.45 + (t - self.start) / self.grows)
        size = grown * canvas.person_height(self.y)
        canvas.shadow(self.x, self.y, 0.4 * grown, 0.1 * grown, 0.7)
        x, y = canvas.view.to_canvas(self.x, self.y)
        self._glow(canvas, x, y - 0.3 * size, 1.3 * size, r.uniform(0.2, 0.32) * self.glare)
        self._smoke(canvas, r, x, y, size)
        self._flames(canvas, r, x, y, size)

    def _glow(self, canvas: Canvas, x: float, y: float, wide: float, share: float) -> None:
        one = (np.array([v]) for v in (x, y, wide, 0.7 * wide, share))
        near_HW1 = puffs(*one)[..., None]
        canvas.rgb_HW3[:] *= 1 + near_HW1 * np.array([1.0, 0.45, 0.1], np.float32)

    def _smoke(self, canvas: Canvas, r: Generator, x: float, y: float, size: float) -> None:
        age = r.uniform(0.05, 1, 160) ** 0.8
        drift = self.wind * age**1.4 + 0.1 * np.sin(5 * age + r.uniform(0, 7)) * age
        xs = x + size * (drift + r.normal(0, 0.06 + 0.26 * age))
        ys = y - size * (0.35 + 2.3 * age + r.normal(0, 0.1, 160))
        wide = size * (0.05 + 0.17 * age) * r.uniform(0.6, 1.3, 160)
        density = puffs(xs, ys, wide, 0.8 * wide, (1.1 - age) * r.uniform(0.2, 1, 160))
        alpha_HW = 0.88 * (1 - np.exp(-0.7 * density))
        billows = _noise(r, 24)[..., None]
        light = canvas.rgb_HW3.mean() / 100
        grey_HW3 = (74 - 30 * alpha_HW[..., None] + 55 * billows) * (0.5 + 0.5 * light)
        canvas.composite(grey_HW3, alpha_HW, 0, 0, self.y)

    def _flames(self, canvas: Canvas, r: Generator, x: float, y: float, size: float) -> None:
        tongues, parts = 22, 18
        base = np.clip(r.normal(0, 0.19, tongues), -0.42, 0.42)
        peak = (1.05 - (base / 0.5) ** 2) * r.uniform(0.2, 1, tongues) ** 0.8
        up = r.uniform(0, 1, (tongues, parts))
        bend = np.sin(5 * up + r.uniform(0, 7, (tongues, 1))) * 0.06 + self.wind * 0.25 * up
        xs = x + size * (base[:, None] * (1 - 0.45 * up) + bend * up)
        ys = y - size * (up * peak[:, None] + r.normal(0.02, 0.02, (tongues, parts)))
        thick = np.maximum(size * 0.05 * (1 - 0.8 * up) * r.uniform(0.5, 1.3, (tongues, 1)), 0.55)
        weight = r.uniform(0.25, 0.8, (tongues, 1)) * (1.1 - 0.6 * up)
        heat_HW = puffs(xs.ravel(), ys.ravel(), thick.ravel(), 2 * thick.ravel(), weight.ravel())
        heat_HW *= 0.55 + 0.9 * _noise(r, 64)
        alpha_HW = 0.95 * (1 - np.exp(-1.15 * np.maximum(heat_HW - 0.06, 0)))
        stops = np.array([0, 0.4, 1.1, 2.4, 5.5])
        ramp = [[170, 60, 20], [215, 82, 18], [242, 124, 30], [255, 178, 66], [255, 236, 165]]
        colour = [np.interp(heat_HW, stops, np.array(ramp, float)[:, c]) for c in range(3)]
        canvas.composite(np.stack(colour, axis=-1) * self.glare, alpha_HW, 0, 0, self.y)


def _noise(r: Generator, rows: int) -> np.ndarray:
    """Return smooth noise between 0 and 1 (H, W)."""
    coarse = r.random((rows, rows * W // H)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((W, H), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth), 0, 1)


def puffs(
    xs: np.ndarray, ys: np.ndarray, wide: np.ndarray, high: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Return the sum of soft blobs on a canvas (H, W)."""
    v_H, u_W = np.arange(H, dtype=np.float32), np.arange(W, dtype=np.float32)
    x_P1, y_P1, wide_P1, high_P1 = (v.astype(np.float32)[:, None] for v in (xs, ys, wide, high))
    down_PH = np.exp(-(((v_H - y_P1) / high_P1) ** 2)) * weight.astype(np.float32)[:, None]
    return down_PH.T @ np.exp(-(((u_W - x_P1) / wide_P1) ** 2))
