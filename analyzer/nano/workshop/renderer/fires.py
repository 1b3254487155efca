"""Fires: flames that flicker, smoke that rises. Lengths are metres, times seconds of the scene."""

from dataclasses import dataclass

import numpy as np
from numpy.random import default_rng

from analyzer.nano.workshop.renderer.actors import Mark
from analyzer.nano.workshop.renderer.camera import PinholeCamera
from analyzer.nano.workshop.renderer.stage import DrawingStage, Patch


@dataclass(frozen=True, slots=True, kw_only=True)
class Fire:
    """Flames that grow and flicker, with smoke above, or smoke alone."""

    X: float
    Z: float
    start: float
    end: float
    size: float
    seed: int
    flames: bool
    smoke: float

    def at(self, t: float) -> tuple[float, float]:
        return self.X, self.Z

    def marks(self, t: float, camera: PinholeCamera) -> list[Mark]:
        up = 0.5 * self.size if self.flames else 1.2 * self.size
        return [Mark("fire", *camera.picture_point(self.X, self.Z, up * self._grown(t)))]

    def shade(self, stage: DrawingStage) -> None:
        stage.puddle(self.X, self.Z, 0.2 * self.size)

    def _grown(self, t: float) -> float:
        return float(np.clip(0.35 + 0.12 * (t - self.start), 0.35, 1))

    def draw(self, stage: DrawingStage) -> None:
        grown = self._grown(stage.t) * self.size
        metre = stage.camera.scale(self.X, self.Z) * stage.height * grown
        (foot,) = stage.pixels(np.array([[self.X, 0, self.Z]]))
        self._rise(stage, foot, metre)
        if not self.flames:
            return
        r = default_rng((self.seed, int(stage.t * 12)))
        stage.shine(
            foot - (0, 0.3 * metre), 1.6 * metre, np.array([70, 34, 8]) * r.uniform(0.6, 1.1)
        )
        for _ in range(14):
            up = r.uniform(0, 1) ** 1.5
            at = foot + (r.normal(0, 0.22 * (1.1 - up)) * metre, -up * metre)
            heat = np.array([255, 190 - 120 * up, 90 - 85 * up]) * r.uniform(0.35, 0.8)
            stage.shine(at, (0.2 - 0.13 * up) * metre, heat)

    def _rise(self, stage: DrawingStage, foot: np.ndarray, metre: float) -> None:
        """Draw puffs, each of which rises, grows and fades."""
        r = default_rng(self.seed)
        drift, grey = r.normal(0, 0.25), r.uniform(30, 190)
        for _ in range(int(14 * self.smoke)):
            age = (stage.t * r.uniform(0.16, 0.26) + r.random()) % 1
            width = (0.25 + 0.6 * age) * metre
            sway = drift * age * 3 + 0.15 * np.sin(5 * r.random() + 2 * stage.t)
            at = foot + (sway * metre, -(0.5 + 2.4 * age) * metre)
            patch = Patch(at[None] + [[-width, -width], [width, width]], 0)
            patch.cloud(stage, grey * r.uniform(0.8, 1.2), 0.55 * (1 - age) * min(1, self.smoke))
