"""Areas of a camera's picture as polygons: what masks hide and zones name.

A point is (x, y) as shares of the picture's width and height, from its upper left corner.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]
FEWEST, MOST = 3, 32
"""Corners of a polygon."""
SMALLEST = 1e-4
"""The share of the picture that a polygon has to enclose: a hundredth of each side."""
_EXACT = 1e-9
"""Three points whose triangle is smaller are on one line: coordinates are rounded."""


def check_polygon(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Return the corners of a polygon; raise ValueError with what to do where they make none."""
    if not FEWEST <= len(points) <= MOST:
        raise ValueError(f"has {len(points)} points: write {FEWEST} to {MOST} as [x, y]")
    outside = [point for point in points if not all(0 <= each <= 1 for each in point)]
    if outside:
        x, y = outside[0]
        raise ValueError(
            f"[{x:g}, {y:g}] is outside of the picture: x and y are shares of its width and"
            " height, 0 to 1"
        )
    if len(set(points)) < len(points):
        raise ValueError("names a point twice: write each corner once, the first one not again")
    if _crosses_itself(points):
        raise ValueError("its lines cross or touch: write the corners in order around the area")
    if area(points) < SMALLEST:
        raise ValueError(f"encloses less than {SMALLEST:.2%} of the picture: make it larger")
    return points


def area(points: Sequence[Point]) -> float:
    """Return the share of the picture that a polygon encloses."""
    sides = pairwise([*points, points[0]])
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in sides)) / 2


def _crosses_itself(points: Sequence[Point]) -> bool:
    """Return whether sides that are no neighbours meet, or a corner turns right back."""
    sides = list(pairwise([*points, points[0]]))
    for (m, one), (n, other) in combinations(enumerate(sides), 2):
        if n - m in (1, len(sides) - 1):
            before, after = (one, other) if n - m == 1 else (other, one)
            if _turns_back(before[0], before[1], after[1]):
                return True
        elif _meet(*one, *other):
            return True
    return False


def _turns_back(a: Point, corner: Point, b: Point) -> bool:
    ahead = (corner[0] - a[0]) * (b[0] - corner[0]) + (corner[1] - a[1]) * (b[1] - corner[1])
    return _side(a, corner, b) == 0 and ahead < 0


def _meet(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Return whether the line from a to b has a point in common with that from c to d."""
    if _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0:
        return True
    ends = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))
    return any(_side(*each) == 0 and _between(*each) for each in ends)


def _side(a: Point, b: Point, point: Point) -> int:
    """Return on which side of the line from a to b a point is, 0 for on it."""
    twice = (b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0])
    return 0 if abs(twice) < _EXACT else 1 if twice > 0 else -1


def _between(a: Point, b: Point, point: Point) -> bool:
    (left, right), (top, bottom) = sorted((a[0], b[0])), sorted((a[1], b[1]))
    return left <= point[0] <= right and top <= point[1] <= bottom
