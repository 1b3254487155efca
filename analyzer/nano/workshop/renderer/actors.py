"""The protocol of everything that moves in a rendered scene.

Lengths are metres, times seconds of the scene.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.random import Generator

from analyzer.nano.workshop.renderer.camera import PinholeCamera
from analyzer.nano.workshop.renderer.stage import DrawingStage, Paint


@dataclass(frozen=True, slots=True)
class TimedLabel:
    """A pose or a label of an actor during a span."""

    label: str
    start: float
    end: float

    def is_active(self, t: float) -> bool:
        """Return whether a time is in the span."""
        return self.start <= t < self.end


@dataclass(frozen=True, slots=True)
class Mark:
    """A label and its place in the picture, in picture heights."""

    label: str
    x: float
    y: float


class SceneActor(Protocol):
    """A person or object that is not part of the place."""

    @property
    def start(self) -> float:
        """Return when it comes."""
        ...

    @property
    def end(self) -> float:
        """Return when it is gone."""
        ...

    def at(self, t: float) -> tuple[float, float]:
        """Return X and Z of its point on the ground."""
        ...

    def marks(self, t: float, camera: PinholeCamera) -> list[Mark]:
        """Return its labels in the picture."""
        ...

    def shade(self, stage: DrawingStage) -> None:
        """Throw its shadow on the ground."""
        ...

    def draw(self, stage: DrawingStage) -> None:
        """Draw it."""
        ...


def random_colour(r: Generator, shape: float = 1.0) -> Paint:
    """Return a colour, mostly of little saturation; a larger shape makes dark ones commoner."""
    value = 12 + 235 * r.random() ** shape
    tint = r.normal(0, 1, 3)
    tint *= r.choice([0.04, 0.12, 0.35])
    red, green, blue = np.clip(value * (1 + tint), 6, 250)
    return int(red), int(green), int(blue)
