"""A fixed camera over flat ground: a pinhole, somewhat above, tilted down.

World lengths are metres: X to the right, Y up, Z ahead of the point below the camera. Picture
lengths are picture heights: x runs from 0 to `ASPECT`, y from 0 (top) to 1.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.random import Generator

ASPECT = 1.5
PERSON_HEIGHT = 1.72
"""Metres."""
MIN_DEPTH = 0.3
"""Metres; points nearer or behind the camera are projected as if at this distance."""
TALLEST_PERSON, SMALLEST_PERSON = 0.5, 0.1
"""The largest and smallest height of people in the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinholeCamera:
    """A camera by its height (metres), downward tilt (radians) and focal length."""

    height: float
    tilt: float
    focal: float

    @classmethod
    def random(cls, r: Generator, *, highest: float = 9.0) -> Self:
        """Return a camera that shows people neither too small nor too large."""
        while True:
            camera = cls(
                height=float(r.uniform(2.4, highest)),
                tilt=float(r.uniform(0.12, 0.85)),
                focal=float(r.uniform(0.75, 2.0)),
            )
            middle, near = (
                camera.ground_point(ASPECT / 2, 0.6),
                camera.ground_point(ASPECT / 2, 0.98),
            )
            if middle is None or near is None:
                continue
            tall, tallest = camera.person_height(*middle), camera.person_height(*near)
            if 0.13 < tall < 0.36 and tallest < 1.3 * TALLEST_PERSON and near[1] > 1:
                return camera

    def project(self, world_P3: np.ndarray) -> np.ndarray:
        """Return (P, 3): x and y in the picture, and the depth in metres, of (P, 3) points."""
        below, ahead = self.height - world_P3[:, 1], world_P3[:, 2]
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        seen = np.empty((len(world_P3), 3))
        depth = np.maximum(ahead * cos + below * sin, MIN_DEPTH, out=seen[:, 2])
        seen[:, 0] = ASPECT / 2 + self.focal * world_P3[:, 0] / depth
        seen[:, 1] = 0.5 + self.focal * (below * cos - ahead * sin) / depth
        return seen

    def picture_point(self, X: float, Z: float, Y: float = 0.0) -> tuple[float, float]:
        """Return the picture coordinates of a point."""
        below, cos, sin = self.height - Y, math.cos(self.tilt), math.sin(self.tilt)
        depth = max(Z * cos + below * sin, MIN_DEPTH)
        down = below * cos - Z * sin
        return ASPECT / 2 + self.focal * X / depth, 0.5 + self.focal * down / depth

    def scale(self, X: float, Z: float) -> float:
        """Return how long a metre is at a place on the ground, in picture heights."""
        depth = Z * math.cos(self.tilt) + self.height * math.sin(self.tilt)
        return self.focal / max(depth, MIN_DEPTH)

    def person_height(self, X: float, Z: float) -> float:
        """Return the height in the picture of a person at a point."""
        return self.picture_point(X, Z)[1] - self.picture_point(X, Z, PERSON_HEIGHT)[1]

    def rays(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the directions (..., 3) of points of the picture."""
        across, down = (x - ASPECT / 2) / self.focal, (y - 0.5) / self.focal
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        return np.stack([across, -sin - down * cos, cos - down * sin], axis=-1)

    def ground_point(self, x: float, y: float) -> tuple[float, float] | None:
        """Return X and Z of the ground at a point of the picture, None above the horizon."""
        X, Y, Z = self.rays(np.array(x), np.array(y))
        if Y > -1e-3:
            return None
        return float(-X / Y * self.height), float(-Z / Y * self.height)

    @property
    def farthest_y(self) -> float:
        """Return how high up in the picture (y) the feet of people may be."""
        for y in np.arange(0.02, 0.9, 0.02):
            place = self.ground_point(ASPECT / 2, float(y))
            if place is not None and self.person_height(*place) > SMALLEST_PERSON:
                return float(y)
        return 0.9
