"""The path of an actor: points on the ground with the times at which it reaches them."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Self

TimedPoint = tuple[float, float, float]
"""A time in seconds, and X and Z in metres."""
MIN_LEG = 0.05
"""Metres; a shorter leg keeps the heading of the one before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """Points in order of time, the metres walked until each, and the heading from there on.

    Plain numbers: a path is asked far too often for arrays.
    """

    points: tuple[TimedPoint, ...]
    walked_to: tuple[float, ...]
    headings: tuple[float, ...]

    @classmethod
    def through(cls, points: Sequence[TimedPoint]) -> Self:
        """Return the path through (time, X, Z); times must not fall."""
        legs = [(b[1] - a[1], b[2] - a[2]) for a, b in pairwise(points)]
        lengths = [math.hypot(*leg) for leg in legs]
        turns = [math.atan2(*leg) for leg, n in zip(legs, lengths, strict=True) if n >= MIN_LEG]
        headings, last = list[float](), turns[0] if turns else 0.0
        for leg, length in zip(legs, lengths, strict=True):
            last = math.atan2(*leg) if length >= MIN_LEG else last
            headings.append(last)
        plain = tuple((float(t), float(X), float(Z)) for t, X, Z in points)
        walked = tuple(map(float, accumulate(lengths, initial=0.0)))
        return cls(points=plain, walked_to=walked, headings=(*headings, last))

    def beside(self, dX: float, dZ: float) -> Self:
        """Return the path shifted by metres."""
        return self.through([(t, X + dX, Z + dZ) for t, X, Z in self.points])

    @property
    def start(self) -> float:
        """Return the first time."""
        return self.points[0][0]

    @property
    def end(self) -> float:
        """Return the last time."""
        return self.points[-1][0]

    def _leg(self, t: float) -> tuple[int, float]:
        """Return on which leg it is at a time, and how far through, as a share."""
        nth = bisect_right(self.points, t, key=lambda point: point[0]) - 1
        if nth < 0:
            return 0, 0.0
        if nth >= len(self.points) - 1:
            return max(len(self.points) - 2, 0), 1.0
        a, b = self.points[nth][0], self.points[nth + 1][0]
        return nth, (t - a) / (b - a)

    def at(self, t: float) -> tuple[float, float]:
        """Return X and Z at a time."""
        nth, share = self._leg(t)
        _, X0, Z0 = self.points[nth]
        _, X1, Z1 = self.points[nth + 1]
        return X0 + (X1 - X0) * share, Z0 + (Z1 - Z0) * share

    def walked(self, t: float) -> float:
        """Return the metres walked at a time."""
        nth, share = self._leg(t)
        a, b = self.walked_to[nth], self.walked_to[nth + 1]
        return a + (b - a) * share

    def speed(self, t: float) -> float:
        """Return metres a second."""
        return (self.walked(t + 0.2) - self.walked(t - 0.2)) / 0.4

    def heading(self, t: float) -> float:
        """Return whereto it goes: 0 is ahead, pi / 2 to the right."""
        return self.headings[self._leg(t)[0]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mover:
    """An actor on a path, present from its start to its end."""

    path: Path

    @property
    def start(self) -> float:
        """Return when it comes."""
        return self.path.start

    @property
    def end(self) -> float:
        """Return when it is gone."""
        return self.path.end

    def at(self, t: float) -> tuple[float, float]:
        """Return X and Z of its point on the ground."""
        return self.path.at(t)
