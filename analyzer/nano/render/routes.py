"""How people get about a place: in from outside, straight, around what is not for them."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from analyzer.nano.render.camera import ASPECT
from analyzer.nano.render.path import Path, Point
from analyzer.nano.render.places import Place

Spot = tuple[float, float]
"""X and Z in metres."""


def edge(r: Generator, place: Place) -> Spot:
    """Return a point on the ground just outside of the picture, or far away."""
    for _ in range(20):
        side, y = r.random(), r.uniform(place.far + 0.03, 0.98)
        if side < 0.42:
            x = -0.12
        elif side < 0.84:
            x = ASPECT + 0.12
        elif side < 0.94:
            x, y = r.uniform(0, ASPECT), 1.3
        else:
            x, y = r.uniform(0, ASPECT), place.far
        found = place.camera.ground(x, y)
        if found is not None and found[1] > 0.3:
            return found
    return (-8.0, 8.0)


def clear(place: Place, a: Spot, b: Spot, *, road: bool) -> bool:
    """Say whether one may walk straight from one point to another."""
    share = np.linspace(0, 1, 14)
    X, Z = a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share
    if place.zone is not None and place.zone.holds(X, Z, 0.5).any():
        return False
    left, right = place.sides
    if (place.wall < Z).any() or (left > X).any() or (right < X).any():
        # Whoever comes through a wall must do so outside of the picture.
        return False
    return road or not any(place.on_road(float(x), float(z)) for x, z in zip(X, Z, strict=True))


def to_edge(r: Generator, place: Place, spot: Spot) -> Spot:
    """Return a point outside of the picture from which one may walk straight to a spot."""
    for tried in range(40):
        outside = edge(r, place)
        if clear(place, outside, spot, road=tried > 15):
            break
    return outside


def apart(a: Spot, b: Spot) -> float:
    """Return how many metres lie between two points."""
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


def visit(r: Generator, place: Place, spot: Spot, there: Sequence[Point]) -> Path:
    """Return a path from outside to about a spot, through the points there, and away again."""
    come, leave = to_edge(r, place, spot), to_edge(r, place, spot)
    first, last = there[0], there[-1]
    come_after = apart(come, first[1:]) / r.uniform(1.0, 1.6)
    leave_after = apart(leave, last[1:]) / r.uniform(1.0, 1.6)
    return Path.through([(first[0] - come_after, *come), *there, (last[0] + leave_after, *leave)])


def stay(r: Generator, place: Place, spot: Spot, start: float, end: float) -> Path:
    """Return a path from outside to a spot, where it stays for a while, and away again."""
    return visit(r, place, spot, [(start, *spot), (end, *spot)])
