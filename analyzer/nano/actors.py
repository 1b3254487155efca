"""Those who move in a rendered scene: where they are at a time, and how they are drawn.

Lengths are in picture heights, times in seconds of the scene.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.random import Generator, default_rng
from PIL import ImageDraw

Paint = tuple[int, int, int]
Span = tuple[float, float]
NEVER: Span = (np.inf, -np.inf)


class Actor(Protocol):
    """Somebody or something that is not part of the place."""

    def present(self, t: float) -> bool:
        """Say whether it can be seen."""
        ...

    def at(self, t: float) -> tuple[float, float]:
        """Return where it touches the ground."""
        ...

    def mark(self, t: float, horizon: float) -> tuple[str, float, float]:
        """Return its label and its middle."""
        ...

    def draw(self, draw: ImageDraw.ImageDraw, t: float, H: int, horizon: float) -> None:
        """Draw it into a picture of height `H` pixels."""
        ...


def colour(r: Generator, low: float, high: float, *, spread: float | None = None) -> Paint:
    """Return a colour; with `spread`, a grey of that much tint."""
    if spread is None:
        red, green, blue = r.uniform(low, high, 3)
    else:
        red, green, blue = np.clip(r.uniform(low, high) + r.uniform(-spread, spread, 3), 0, 255)
    return int(red), int(green), int(blue)


def person_height(y: float, horizon: float) -> float:
    """Return how tall a person is whose feet are at `y`."""
    return 0.17 + 0.23 * (y - horizon) / (1 - horizon)


def _within(t: float, span: Span) -> bool:
    return span[0] <= t <= span[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody on a path of (time, x, y), who may lie, hit, or carry a bag meanwhile."""

    times: np.ndarray
    xs: np.ndarray
    ys: np.ndarray
    body: Paint
    legs: Paint
    skin: Paint
    stature: float
    pace: float
    lies: Span
    hits: Span
    carries: Span
    faces: int

    @classmethod
    def dressed(
        cls,
        r: Generator,
        times: Sequence[float] | np.ndarray,
        xs: Sequence[float] | np.ndarray,
        ys: Sequence[float] | np.ndarray,
        *,
        lies: Span | None = None,
        hits: Span | None = None,
        carries: Span | None = None,
        faces: int = 1,
    ) -> Self:
        """Return a person in random clothes."""
        tone = r.uniform(0.45, 1)
        return cls(
            times=np.asarray(times, float),
            xs=np.asarray(xs, float),
            ys=np.asarray(ys, float),
            body=colour(r, 15, 245),
            legs=colour(r, 15, 200),
            skin=(int(215 * tone), int(170 * tone), int(140 * tone)),
            stature=r.uniform(0.88, 1.12),
            pace=r.uniform(4, 8),
            lies=lies or NEVER,
            hits=hits or NEVER,
            carries=carries or NEVER,
            faces=faces,
        )

    def present(self, t: float) -> bool:
        return bool(self.times[0] <= t <= self.times[-1])

    def at(self, t: float) -> tuple[float, float]:
        return float(np.interp(t, self.times, self.xs)), float(np.interp(t, self.times, self.ys))

    def mark(self, t: float, horizon: float) -> tuple[str, float, float]:
        x, y = self.at(t)
        if _within(t, self.lies):
            return "lying", x, y - 0.01
        height = person_height(y, horizon)
        return ("hitting" if _within(t, self.hits) else "person"), x, y - height / 2

    def draw(self, draw: ImageDraw.ImageDraw, t: float, H: int, horizon: float) -> None:
        x, y = self.at(t)
        s = person_height(y, horizon) * self.stature * H
        x, y = x * H, y * H
        draw.ellipse([x - 0.22 * s, y - 0.04 * s, x + 0.22 * s, y + 0.03 * s], fill=(35, 35, 35))
        if _within(t, self.lies):
            self._lying(draw, x, y, s)
        else:
            self._upright(draw, t, x, y, s)

    def _lying(self, draw: ImageDraw.ImageDraw, x: float, y: float, s: float) -> None:
        draw.rectangle([x + 0.08 * s, y - 0.17 * s, x + 0.5 * s, y - 0.01 * s], fill=self.legs)
        draw.rectangle([x - 0.36 * s, y - 0.22 * s, x + 0.1 * s, y], fill=self.body)
        draw.ellipse([x - 0.55 * s, y - 0.21 * s, x - 0.36 * s, y - 0.02 * s], fill=self.skin)

    def _upright(self, draw: ImageDraw.ImageDraw, t: float, x: float, y: float, s: float) -> None:
        moving = abs(self.at(t + 0.2)[0] - self.at(t - 0.2)[0]) > 0.01
        stride = 0.15 * s * np.sin(self.pace * t) if moving else 0.05 * s
        thick = max(1, int(0.11 * s))
        hip = y - 0.46 * s
        draw.line([x, hip, x - stride, y], fill=self.legs, width=thick)
        draw.line([x, hip, x + stride, y], fill=self.legs, width=thick)
        draw.rectangle([x - 0.13 * s, y - 0.82 * s, x + 0.13 * s, y - 0.42 * s], fill=self.body)
        draw.ellipse([x - 0.09 * s, y - s, x + 0.09 * s, y - 0.82 * s], fill=self.skin)
        if _within(t, self.hits):
            reach, up = self.faces * 0.4 * s, 0.25 * s * np.sin(7 * t + self.pace)
            shoulder = y - 0.74 * s
            draw.line([x, shoulder, x + reach, shoulder - up], fill=self.skin, width=thick)
        if _within(t, self.carries):
            box = [x + 0.14 * s, y - 0.44 * s, x + 0.4 * s, y - 0.18 * s]
            draw.rectangle(box, fill=(40, 30, 25))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vehicle:
    """A car that crosses the road once."""

    start: float
    end: float
    x0: float
    x1: float
    y: float
    length: float
    paint: Paint

    @classmethod
    def crossing(
        cls, r: Generator, start: float, road: float, *, forward: bool, aspect: float
    ) -> Self:
        """Return a car that enters at `start`, in the road's direction or against it."""
        length = r.uniform(0.26, 0.38)
        x0, x1 = (-length, aspect) if forward else (aspect, -length)
        return cls(
            start=start,
            end=start + (aspect + length) / r.uniform(0.14, 0.3),
            x0=x0,
            x1=x1,
            y=(road + 1) / 2 + 0.05,
            length=length,
            paint=colour(r, 20, 240),
        )

    def present(self, t: float) -> bool:
        return self.start <= t <= self.end

    def at(self, t: float) -> tuple[float, float]:
        x = self.x0 + (self.x1 - self.x0) * (t - self.start) / (self.end - self.start)
        return x, self.y

    def mark(self, t: float, horizon: float) -> tuple[str, float, float]:
        x, y = self.at(t)
        return ("vehicle" if self.x1 > self.x0 else "against"), x + self.length / 2, y - 0.06

    def draw(self, draw: ImageDraw.ImageDraw, t: float, H: int, horizon: float) -> None:
        x, y = self.at(t)
        x, y, n = x * H, y * H, self.length * H
        forward = 1 if self.x1 > self.x0 else -1
        glass = tuple(v // 2 + 40 for v in self.paint)
        cabin = sorted((x + n * (0.5 - 0.34 * forward), x + n * (0.5 + 0.18 * forward)))
        draw.rectangle([x, y - 0.11 * H, x + n, y - 0.02 * H], fill=self.paint)
        draw.rectangle([cabin[0], y - 0.18 * H, cabin[1], y - 0.1 * H], fill=glass)
        for wheel in (0.2, 0.8):
            middle = x + wheel * n
            draw.ellipse(
                [middle - 0.03 * H, y - 0.05 * H, middle + 0.03 * H, y + 0.01 * H],
                fill=(15, 15, 15),
            )
        lamp = x + n if forward > 0 else x
        draw.ellipse(
            [lamp - 0.02 * H, y - 0.09 * H, lamp + 0.02 * H, y - 0.05 * H], fill=(250, 245, 200)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bag:
    """Luggage standing on the ground."""

    x: float
    y: float
    start: float
    end: float
    paint: Paint

    def present(self, t: float) -> bool:
        return self.start <= t <= self.end

    def at(self, t: float) -> tuple[float, float]:
        return self.x, self.y

    def mark(self, t: float, horizon: float) -> tuple[str, float, float]:
        return "bag", self.x, self.y - 0.02

    def draw(self, draw: ImageDraw.ImageDraw, t: float, H: int, horizon: float) -> None:
        s = person_height(self.y, horizon) * H
        x, y = self.x * H, self.y * H
        draw.rectangle([x - 0.19 * s, y - 0.32 * s, x + 0.19 * s, y], fill=self.paint)
        left, right, top, strap = x - 0.07 * s, x + 0.07 * s, y - 0.32 * s, y - 0.42 * s
        handle = [left, top, left, strap, right, strap, right, top]
        draw.line(handle, fill=self.paint, width=max(1, int(0.03 * s)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fire:
    """Flames that grow, with smoke above."""

    x: float
    y: float
    start: float
    end: float
    size: float
    seed: int

    def present(self, t: float) -> bool:
        return self.start <= t <= self.end

    def at(self, t: float) -> tuple[float, float]:
        return self.x, self.y

    def mark(self, t: float, horizon: float) -> tuple[str, float, float]:
        return "fire", self.x, self.y - 0.06

    def draw(self, draw: ImageDraw.ImageDraw, t: float, H: int, horizon: float) -> None:
        r = default_rng((self.seed, int(t * 8)))
        grown = min(1.0, 0.35 + 0.1 * (t - self.start)) * self.size
        x, y, s = self.x * H, self.y * H, grown * H
        for puff in range(4):
            radius = (0.05 + 0.035 * puff) * s
            px, py = x + r.normal(0, 0.02) * s, y - (0.17 + 0.08 * puff) * s
            grey = int(r.uniform(70, 110))
            draw.ellipse(
                [px - radius, py - radius * 0.6, px + radius, py + radius * 0.6], fill=(grey,) * 3
            )
        for _ in range(6):
            fx, tip, half = x + r.normal(0, 0.04) * s, r.uniform(0.07, 0.22) * s, 0.04 * s
            flame = (255, int(r.uniform(90, 210)), int(r.uniform(0, 60)))
            draw.polygon(
                [(fx - half, y), (fx + half, y), (fx + r.normal(0, 0.015) * s, y - tip)], fill=flame
            )
