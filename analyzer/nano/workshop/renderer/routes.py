"""Routes of people: in from outside, straight, around obstacles."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from analyzer.nano.workshop.renderer.camera import ASPECT
from analyzer.nano.workshop.renderer.path import Path, TimedPoint
from analyzer.nano.workshop.renderer.places import ScenePlace

GroundPoint = tuple[float, float]
"""X and Z in metres."""


def random_edge_point(r: Generator, place: ScenePlace) -> GroundPoint:
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
        found = place.camera.ground_point(x, y)
        if found is not None and found[1] > 0.3:
            return found
    return (-8.0, 8.0)


def is_clear(place: ScenePlace, a: GroundPoint, b: GroundPoint, *, road: bool) -> bool:
    """Return whether the straight line between two points is free."""
    share = np.linspace(0, 1, 14)
    X, Z = a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share
    if place.zone is not None and place.zone.contains(X, Z, 0.5).any():
        return False
    left, right = place.sides
    if (place.wall < Z).any() or (left > X).any() or (right < X).any():
        # Whoever comes through a wall must do so outside of the picture.
        return False
    return road or not any(place.is_on_road(float(x), float(z)) for x, z in zip(X, Z, strict=True))


def reachable_edge_point(r: Generator, place: ScenePlace, spot: GroundPoint) -> GroundPoint:
    """Return a point outside of the picture from which one may walk straight to a spot."""
    for tried in range(40):
        outside = random_edge_point(r, place)
        if is_clear(place, outside, spot, road=tried > 15):
            break
    return outside


def distance(a: GroundPoint, b: GroundPoint) -> float:
    """Return the distance of two points in metres."""
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


def visiting_path(
    r: Generator, place: ScenePlace, spot: GroundPoint, stops: Sequence[TimedPoint]
) -> Path:
    """Return a path from outside to about a spot, through the points there, and away again."""
    come, leave = reachable_edge_point(r, place, spot), reachable_edge_point(r, place, spot)
    first, last = stops[0], stops[-1]
    come_after = distance(come, first[1:]) / r.uniform(1.0, 1.6)
    leave_after = distance(leave, last[1:]) / r.uniform(1.0, 1.6)
    return Path.through([(first[0] - come_after, *come), *stops, (last[0] + leave_after, *leave)])


def staying_path(
    r: Generator, place: ScenePlace, spot: GroundPoint, start: float, end: float
) -> Path:
    """Return a path from outside to a spot, with a stay there, and away again."""
    return visiting_path(r, place, spot, [(start, *spot), (end, *spot)])
