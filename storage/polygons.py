"""Areas of a camera's picture as polygons: masks and zones.

A point is (x, y) in fractions of the picture's width and height, from the upper left corner.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]
MIN_POINTS, MAX_POINTS = 3, 32
"""The number of corners of a polygon."""
MIN_AREA = 1e-4
"""The smallest fraction of the picture that a polygon encloses: a hundredth of each side."""
_EPSILON = 1e-9
"""Three points with a smaller triangle are on one line: coordinates are rounded."""


def check_polygon(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Return the corners of a polygon; raise ValueError, with what to do, if invalid."""
    if not MIN_POINTS <= len(points) <= MAX_POINTS:
        raise ValueError(f"has {len(points)} points: write {MIN_POINTS} to {MAX_POINTS} as [x, y]")
    outside = [point for point in points if not all(0 <= each <= 1 for each in point)]
    if outside:
        x, y = outside[0]
        raise ValueError(
            f"[{x:g}, {y:g}] is outside of the picture: x and y are shares of its width and"
            " height, 0 to 1"
        )
    if len(set(points)) < len(points):
        raise ValueError("names a point twice: write each corner once, the first one not again")
    if _is_self_intersecting(points):
        raise ValueError("its lines cross or touch: write the corners in order around the area")
    if area(points) < MIN_AREA:
        raise ValueError(f"encloses less than {MIN_AREA:.2%} of the picture: make it larger")
    return points


def area(points: Sequence[Point]) -> float:
    """Return the fraction of the picture that a polygon encloses."""
    sides = pairwise([*points, points[0]])
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in sides)) / 2


def _is_self_intersecting(points: Sequence[Point]) -> bool:
    """Return whether sides that are no neighbours meet, or a side turns back on the last."""
    sides = list(pairwise([*points, points[0]]))
    for (i, first), (j, second) in combinations(enumerate(sides), 2):
        if j - i in (1, len(sides) - 1):
            before, after = (first, second) if j - i == 1 else (second, first)
            if _is_reversal(before[0], before[1], after[1]):
                return True
        elif _has_intersection(*first, *second):
            return True
    return False


def _is_reversal(a: Point, corner: Point, b: Point) -> bool:
    dot_product = (corner[0] - a[0]) * (b[0] - corner[0]) + (corner[1] - a[1]) * (b[1] - corner[1])
    return _orientation(a, corner, b) == 0 and dot_product < 0


def _has_intersection(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Return whether the lines from a to b and from c to d have a common point."""
    if (
        _orientation(a, b, c) * _orientation(a, b, d) < 0
        and _orientation(c, d, a) * _orientation(c, d, b) < 0
    ):
        return True
    ends = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))
    return any(_orientation(*each) == 0 and _is_within_bounds(*each) for each in ends)


def _orientation(a: Point, b: Point, point: Point) -> int:
    """Return the side of the line from a to b that a point is on, 0 for on it."""
    cross_product = (b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0])
    return 0 if abs(cross_product) < _EPSILON else 1 if cross_product > 0 else -1


def _is_within_bounds(a: Point, b: Point, point: Point) -> bool:
    (left, right), (top, bottom) = sorted((a[0], b[0])), sorted((a[1], b[1]))
    return left <= point[0] <= right and top <= point[1] <= bottom
