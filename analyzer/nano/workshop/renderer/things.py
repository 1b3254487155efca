"""Things: boxes, bags and vehicles. Lengths are metres, times seconds of the scene."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.random import Generator
from PIL import Image

from analyzer.nano.workshop.renderer import body
from analyzer.nano.workshop.renderer.actors import Mark, TimedLabel, random_colour
from analyzer.nano.workshop.renderer.camera import PinholeCamera
from analyzer.nano.workshop.renderer.path import Mover, Path
from analyzer.nano.workshop.renderer.stage import (
    NEUTRAL_SHADE,
    DrawingStage,
    Paint,
    Patch,
    around,
    darker,
)
from analyzer.nano.workshop.renderer.textures import PhotographSource, cloth


@dataclass(frozen=True, slots=True)
class Box:
    """A box on the ground or above it, turned by a heading."""

    X: float
    Z: float
    heading: float
    width: float
    tall: float
    length: float
    base: float = 0.0

    def corners(self) -> np.ndarray:
        """Return (8, 3): the lower four around, then the upper four; the first two are in front."""
        w, n = self.width / 2, self.length / 2
        flat = np.array([[w, 0, n], [-w, 0, n], [-w, 0, -n], [w, 0, -n]])
        around = body.turned(flat, self.heading) + (self.X, self.base, self.Z)
        return np.concatenate([around, around + (0, self.tall, 0)])

    def draw(self, patch: Patch, stage: DrawingStage, paint: Paint, *, roof: float = 1.15) -> None:
        """Fill the faces from the farthest to the nearest, shaded by their direction."""
        corners = self.corners()
        pixels, depth = stage.pixels(corners), stage.camera.project(corners)[:, 2]
        for nth in sorted(range(5), key=lambda nth: -depth[_FACES[nth]].mean()):
            light = roof if nth == 4 else 0.72 + 0.12 * np.cos(self.heading + nth * np.pi / 2 + 0.6)
            patch.face(pixels[_FACES[nth]], darker(paint, light))

    def shadow(self, stage: DrawingStage) -> None:
        """Throw the shadow of the box."""
        corners = self.corners()
        along_X, along_Z = stage.sun_XZ
        ground = corners + np.outer(corners[:, 1], (along_X, 0, along_Z))
        ground[:, 1] = 0
        points = stage.pixels(ground)
        stage.pen.polygon([(float(x), float(y)) for x, y in around(points[[0, 1, 2, 3]])], fill=255)
        for a, b in ((0, 1), (1, 2), (2, 3), (3, 0)):
            side = points[[a, b, b + 4, a + 4]]
            stage.pen.polygon([(float(x), float(y)) for x, y in side], fill=255)


_FACES = [[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [4, 5, 6, 7]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bag:
    """Luggage standing on the ground."""

    X: float
    Z: float
    start: float
    end: float
    size: tuple[float, float, float]
    paint: Paint
    heading: float
    garment: Image.Image
    alone: TimedLabel | None = None

    @classmethod
    def random(
        cls,
        r: Generator,
        photographs: PhotographSource | None,
        X: float,
        Z: float,
        start: float,
        end: float,
    ) -> Self:
        """Return a bag, a rucksack or a suitcase."""
        return cls(
            X=X,
            Z=Z,
            start=start,
            end=end,
            size=(
                float(r.uniform(0.35, 0.6)),
                float(r.uniform(0.35, 0.75)),
                float(r.uniform(0.22, 0.4)),
            ),
            paint=random_colour(r, 1.4),
            heading=float(r.uniform(0, np.pi)),
            garment=cloth(r, photographs),
        )

    def at(self, t: float) -> tuple[float, float]:
        return self.X, self.Z

    def marks(self, t: float, camera: PinholeCamera) -> list[Mark]:
        x, y = camera.picture_point(self.X, self.Z, self.size[1] / 2)
        alone = [Mark("abandoned", x, y)] if self.alone and self.alone.is_active(t) else []
        return [Mark("bag", x, y), *alone]

    def shade(self, stage: DrawingStage) -> None:
        self._box.shadow(stage)

    @property
    def _box(self) -> Box:
        return Box(self.X, self.Z, self.heading, *self.size)

    def draw(self, stage: DrawingStage) -> None:
        box = self._box
        patch = Patch(stage.pixels(box.corners()), 1.0)
        box.draw(patch, stage, self.paint)
        patch.paste(stage, self.garment)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vehicle(Mover):
    """A car, a van or a lorry on a path."""

    paint: Paint
    size: tuple[float, float, float]
    cabin: tuple[float, float, float]
    against: bool = False
    lamps: bool = False
    garment: Image.Image

    @classmethod
    def random(cls, r: Generator, path: Path, *, against: bool, lamps: bool) -> Self:
        """Return a vehicle; `cabin` is its height, start and end (fractions)."""
        van = r.random() < 0.25
        size = (r.uniform(1.7, 1.95), r.uniform(0.75, 0.95), r.uniform(3.7, 4.8))
        cabin = (r.uniform(0.5, 0.65), r.uniform(-0.48, -0.3), r.uniform(0.1, 0.28))
        if van:
            size = (r.uniform(1.9, 2.2), r.uniform(0.9, 1.1), r.uniform(4.8, 6.5))
            cabin = (r.uniform(0.9, 1.4), -0.5, r.uniform(0.3, 0.45))
        shade = (
            np.clip(r.normal(NEUTRAL_SHADE, 8, (5, 9, 1)), 90, 166).repeat(3, 2).astype(np.uint8)
        )
        return cls(
            path=path,
            paint=random_colour(r, r.choice([0.4, 1.5])),
            size=tuple(map(float, size)),  # type: ignore[arg-type]
            cabin=tuple(map(float, cabin)),  # type: ignore[arg-type]
            against=against,
            lamps=lamps,
            garment=Image.fromarray(shade),
        )

    def marks(self, t: float, camera: PinholeCamera) -> list[Mark]:
        x, y = camera.picture_point(*self.at(t), 0.7)
        return [Mark("vehicle", x, y), *([Mark("against", x, y)] if self.against else [])]

    def shade(self, stage: DrawingStage) -> None:
        self._hull(stage.t).shadow(stage)

    def _hull(self, t: float) -> Box:
        return Box(*self.at(t), self.path.heading(t), *self.size, 0.25)

    def draw(self, stage: DrawingStage) -> None:
        X, Z = self.at(stage.t)
        heading = self.path.heading(stage.t)
        width, tall, length = self.size
        hull = self._hull(stage.t)
        high, back, front = self.cabin
        middle, ahead = (back + front) / 2 * length, np.array([np.sin(heading), np.cos(heading)])
        x, z = np.array([X, Z]) + ahead * middle
        cabin = Box(x, z, heading, width * 0.88, high, (front - back) * length, tall + 0.25)
        corners = np.concatenate([hull.corners(), cabin.corners()])
        patch = Patch(stage.pixels(corners), 3.0)
        metre = stage.camera.scale(X, Z) * stage.height
        self._wheels(patch, stage, hull, metre)
        hull.draw(patch, stage, self.paint)
        cabin.draw(patch, stage, darker(self.paint, 0.45), roof=2.3)
        self._lights(patch, stage, hull, metre)
        # An exposure of a fiftieth of a second.
        patch.paste(stage, self.garment, blur=0.01 * metre * self.path.speed(stage.t))

    def _wheels(self, patch: Patch, stage: DrawingStage, hull: Box, metre: float) -> None:
        below = hull.corners()[:4]
        middle = below.mean(0)
        for corner in stage.pixels(
            middle + (below - middle) * (0.95, 0, 0.95) * 0.75 + (0, 0.06, 0)
        ):
            patch.disc(corner, 0.3 * metre, 0.32 * metre, (14, 14, 15))

    def _lights(self, patch: Patch, stage: DrawingStage, hull: Box, metre: float) -> None:
        corners = hull.corners()
        seen = stage.camera.project(corners)
        for ends, paint, glow in (
            (slice(0, 2), (250, 244, 210), 1.0),
            (slice(2, 4), (170, 20, 15), 0.4),
        ):
            other = slice(2, 4) if ends.start == 0 else slice(0, 2)
            if seen[ends, 2].mean() > seen[other, 2].mean() + 0.3:
                continue
            for at in seen[ends, :2] * stage.height - (0, 0.45 * metre):
                patch.disc(at, 0.13 * metre, 0.1 * metre, paint)
                if self.lamps:
                    stage.shine(at, 0.35 * metre * glow, np.array(paint) * 1.5 * glow)
