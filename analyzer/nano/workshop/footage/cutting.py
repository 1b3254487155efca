"""Where in a cut of footage an overlay fits, and how people walk there.

For measuring only (see `real.py`): nothing here may be taught from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from analyzer.nano.workshop.footage.cutouts import FootageWalk, walks
from analyzer.nano.workshop.footage.overlays import FootageCrop, H, Trajectory, W
from analyzer.nano.workshop.footage.props import PaintedZone, random_zone
from analyzer.nano.workshop.footage.street import COARSE, HEIGHT, RATE, WIDTH, Footage

MIN_PERSON_HEIGHT = 46.0
"""Overlays are placed only if people there are at least this many pixels tall."""
MAX_BUSY_SHARE = 0.08
"""Overlays are placed only if a pixel is hidden for less than this share of the time."""
MIN_ZONE_SHARE = 0.015
"""The share of the picture that a zone takes, at least."""
WALKING_SPEED = 0.3
"""The speed of walking, in heights per second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageStock:
    """A footage, its walks, and the points of the ground on which people stand."""

    footage: Footage
    walks: tuple[FootageWalk, ...]
    feet_P2: np.ndarray
    contacts: tuple[np.ndarray, ...]
    """For each still, the points (P, 2) at which people may touch the ground."""
    ground: Image.Image

    @classmethod
    def load(cls, video: Path) -> Self:
        """Take a video apart."""
        footage = Footage.load(video)
        stills = range(len(footage.stills))
        feet_P2 = np.array([blob.foot for still in stills for blob in footage.unoccluded(still)])
        ground = Image.new("1", (WIDTH, HEIGHT))
        ImageDraw.Draw(ground).polygon([(x, y) for x, y in hull(feet_P2)], fill=1)
        return cls(
            footage=footage,
            walks=walks(footage),
            feet_P2=feet_P2,
            contacts=tuple(ground_contacts(footage, still) for still in stills),
            ground=ground,
        )

    def is_walkable(self, x: float, y: float) -> bool:
        """Return whether a place is ground, as far as the footage shows."""
        return 0 <= x < WIDTH and 0 <= y < HEIGHT and bool(self.ground.getpixel((int(x), int(y))))


def ground_contacts(footage: Footage, still: int) -> np.ndarray:
    """Return the feet of people (P, 2), or the lowest pixels of a group of them."""
    points = [np.zeros((0, 2))]
    for blob in footage.blobs[still]:
        if footage.heights.is_person(blob):
            (x, y), step = blob.foot, 0.2 * blob.height
            points.append(np.array([(x - step, y), (x, y), (x + step, y)]))
            continue
        tall, wide = blob.mask_HW.shape
        down = tall - np.argmax(blob.mask_HW[::-1], axis=0)
        points.append(np.stack([blob.left + np.arange(wide), blob.top + down], axis=1) * COARSE)
    return np.concatenate(points)


def hull(points_P2: np.ndarray) -> list[tuple[float, float]]:
    """Return the corners of the convex hull (Andrew's monotone chain)."""
    ordered = sorted({(float(x), float(y)) for x, y in points_P2})
    corners: list[tuple[float, float]] = []
    for some in (ordered, ordered[::-1]):
        half: list[tuple[float, float]] = []
        for x, y in some:
            while len(half) > 1:
                (ax, ay), (bx, by) = half[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                half.pop()
            half.append((x, y))
        corners += half[:-1]
    return corners


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageCut:
    """A part of the footage in place and time, as one camera would have sent it."""

    stock: FootageStock
    seconds: int
    start: int
    backwards: bool
    mirrored: bool
    view: FootageCrop
    gain: float
    noise: float
    quality: int
    seed: int
    zone: PaintedZone | None

    @classmethod
    def random(cls, r: Generator, stock: FootageStock, seconds: int, *, zone: bool) -> Self:
        """Return a cut, with room for a zone if one is asked for."""
        while True:
            width = float(r.uniform(0.7, 1) * WIDTH)
            free = HEIGHT - width * H / W
            cut = cls(
                stock=stock,
                seconds=seconds,
                start=int(r.integers(len(stock.footage.stills) - RATE * (seconds - 1))),
                backwards=bool(r.random() < 0.5),
                mirrored=bool(r.random() < 0.5),
                view=FootageCrop(
                    left=float(r.uniform(0, WIDTH - width)),
                    top=float(r.uniform(0.1, 0.7) * free),
                    width=width,
                ),
                gain=float(r.uniform(0.45, 1.1)),
                noise=float(r.uniform(0, 6)),
                quality=int(r.integers(70, 96)),
                seed=int(r.integers(1 << 30)),
                zone=None,
            )
            marked = cut._with_zone(r) if zone else cut
            if marked is not None:
                return marked

    def still(self, t: float) -> int:
        """Return which still of the footage is shown at `t`."""
        passed = RATE * (self.seconds - 1 - t) if self.backwards else RATE * t
        return self.start + round(passed)

    def _with_zone(self, r: Generator) -> Self | None:
        """Return the cut with a zone that no one enters, None for no room."""
        law = self.stock.footage.heights
        last = self.start + RATE * (self.seconds - 1)
        touched_P2 = np.concatenate(self.stock.contacts[self.start : last + 1])
        left, top, right, bottom = self.view.box
        for _ in range(60):
            x, y = float(r.uniform(left, right)), float(r.uniform(top, bottom))
            if not self.stock.is_walkable(x, y) or law.height_at(y) < MIN_PERSON_HEIGHT:
                continue
            zone = random_zone(r, x, y)
            sides = [
                (a, b) for a in (-zone.half_a, zone.half_a) for b in (-zone.half_b, zone.half_b)
            ]
            corners = [zone.footage_point(law, a, b) for a, b in sides]
            (ax, ay), (bx, by), (cx, cy), _ = corners
            area = abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) * self.view.scale**2
            seen = all(self.is_in_view(*corner, 0.1) for corner in corners)
            if not seen or area < MIN_ZONE_SHARE * H * W:
                continue
            if not zone.contains(law, touched_P2[:, 0], touched_P2[:, 1], 0.1).any():
                return replace(self, zone=zone)
        return None

    def random_place(self, r: Generator, spread: float) -> tuple[float, float]:
        """Return a place within `spread` heights of a point on which people stand."""
        law = self.stock.footage.heights
        while True:
            x, y = self.stock.feet_P2[r.integers(len(self.stock.feet_P2))]
            x += r.normal(0, 0.5 * spread) * law.height_at(y)
            y += r.normal(0, 0.2 * spread) * law.height_at(y)
            if self.stock.is_walkable(x, y):
                return float(x), float(y)

    def is_in_view(self, x: float, y: float, margin: float) -> bool:
        """Return whether a place is in view, with a margin in heights beside and below it."""
        left, top, right, bottom = self.view.box
        tall = self.stock.footage.heights.height_at(y)
        wide = margin * tall
        return bool(left + wide < x < right - wide and top < y < bottom - wide / 2)

    def find_spot(
        self, r: Generator, since: float, until: float, *, wide: float = 0.4, high: float = 1.05
    ) -> tuple[float, float]:
        """Return a place outside the zone for an object of a width and height, in heights.

        It is the first of several tries with few of the footage's people, or the one with fewest.
        """
        law, zone = self.stock.footage.heights, self.zone
        busy_HW = self._occlusion_share(since, until)
        best, least = self.random_place(r, 0.3), np.inf
        for _ in range(60):
            x, y = self.random_place(r, 0.5)
            tall = law.height_at(y)
            seen = self.is_in_view(x, y, wide + 0.2) and y - high * tall > self.view.top
            apart = zone is None or not zone.contains(law, np.array(x), np.array(y), wide + 0.1)
            rows = slice(int(max(y - high * tall, 0) / COARSE), int(y / COARSE) + 2)
            columns = slice(int(max(x - wide * tall, 0) / COARSE), int((x + wide * tall) / COARSE))
            cost = float(busy_HW[rows, columns].mean()) + 9 * (not seen) + 9 * (not apart)
            cost += 5 * (tall < MIN_PERSON_HEIGHT)
            if cost < least:
                best, least = (x, y), cost
            if least < MAX_BUSY_SHARE:
                break
        return best

    def _occlusion_share(self, since: float, until: float) -> np.ndarray:
        """Return the share of a time for which each small pixel is hidden."""
        stills = [self.still(t) for t in np.arange(max(since, 0), min(until, self.seconds))]
        return np.mean([self.stock.footage.feet_HW(still) > 0 for still in stills], axis=0)

    def approach(
        self,
        r: Generator,
        x: float,
        y: float,
        arrive: float,
        *,
        into_zone: bool = False,
        others: Sequence[FootageWalk] = (),
    ) -> tuple[FootageWalk, bool, Trajectory]:
        """Return a walk to a place: the person (rather not one of `others`), mirrored or not,
        and the course.
        """
        tall = self.stock.footage.heights.height_at(y)
        best: list[tuple[float, FootageWalk, bool, Trajectory]] = []
        for walk in self.stock.walks:
            if np.hypot(walk.across, 2 * walk.down) < WALKING_SPEED:
                continue
            for mirrored in (False, True):
                course = self.straight_trajectory(walk, x, y, arrive, -1, mirrored=mirrored)
                cost = self.oddity(course, into_zone=into_zone) + 0.35 * r.random()
                cost += 0.8 * abs(np.log(walk.tall / tall)) + 0.5 * others.count(walk)
                best.append((cost, walk, mirrored, course))
        _, walk, mirrored, course = min(best, key=lambda found: found[0])
        return walk, mirrored, course

    def straight_trajectory(
        self, walk: FootageWalk, x: float, y: float, t: float, sign: int, *, mirrored: bool
    ) -> Trajectory:
        """Return the course of a person from a place, or to it, until out of view."""
        law, (left, top, right, bottom) = self.stock.footage.heights, self.view.box
        places = [(t, x, y)]
        while 0 <= t <= self.seconds:
            tall = law.height_at(y)
            if not (left - tall < x < right + tall and top < y < bottom + 1.1 * tall):
                break
            x += sign * walk.across * (-1 if mirrored else 1) * tall
            y += sign * walk.down * tall
            t += sign
            places.append((t, x, y))
        times, xs, ys = zip(*places[::sign], strict=True)
        return Trajectory(times=times, xs=xs, ys=ys)

    def oddity(self, course: Trajectory, *, into_zone: bool = False) -> float:
        """Return how odd a course is: off the ground, or across the zone."""
        shown = [
            (x, y) for x, y in zip(course.xs, course.ys, strict=True) if self.is_in_view(x, y, -0.5)
        ]
        if not shown:
            return 0.0
        off = float(np.mean([not self.stock.is_walkable(x, y) for x, y in shown]))
        if self.zone is None or into_zone:
            return 4 * off
        between = [course.at(t) for t in np.arange(course.times[0], course.times[-1], 0.5)]
        x_P, y_P = np.array([*between, *shown]).T
        crossed = self.zone.contains(self.stock.footage.heights, x_P, y_P, 0.25)
        return 4 * off + 20 * float(crossed.any())
