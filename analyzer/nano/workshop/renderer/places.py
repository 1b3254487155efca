"""The fixed part of a scene: ground, walls, road, painted zone and objects.

Everything is found by casting a ray through each point of the picture.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.random import Generator
from PIL import Image

from analyzer.nano.workshop.renderer.actors import random_colour
from analyzer.nano.workshop.renderer.camera import ASPECT, PinholeCamera
from analyzer.nano.workshop.renderer.stage import DrawingStage, Patch
from analyzer.nano.workshop.renderer.textures import SIDE, PhotographSource, cloth, clouds, tile
from analyzer.nano.workshop.renderer.things import Box

MIN_PERSON_HEIGHT = 0.125
"""The smallest height of people in the picture at the place of an event."""
ROWS, COLUMNS = 256, 384
"""Pixels of a backdrop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundRectangle:
    """A rectangle on the ground about a middle, turned by a heading; a road or a zone."""

    X: float
    Z: float
    heading: float
    width: float
    length: float

    def local(self, X: np.ndarray, Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the coordinates of points across and along the strip."""
        sin, cos = np.sin(self.heading), np.cos(self.heading)
        dx, dz = X - self.X, Z - self.Z
        return dx * cos - dz * sin, dx * sin + dz * cos

    def at(self, across: float, along: float) -> tuple[float, float]:
        """Return X and Z of a point of the strip."""
        sin, cos = np.sin(self.heading), np.cos(self.heading)
        return (
            float(self.X + across * cos + along * sin),
            float(self.Z - across * sin + along * cos),
        )

    def contains(self, X: np.ndarray, Z: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """Return which points are within, or no further off than a margin."""
        across, along = self.local(X, Z)
        inside: np.ndarray = (abs(across) <= self.width / 2 + margin) & (
            abs(along) <= self.length / 2 + margin
        )
        return inside


@dataclass(frozen=True)
class ScenePlace:
    """A camera and its static view, drawn on first use, the same for a seed."""

    camera: PinholeCamera
    seed: int
    photographs: PhotographSource | None
    indoors: bool
    wall: float
    sides: tuple[float, float]
    road: GroundRectangle | None
    zone: GroundRectangle | None
    far: float
    seats: tuple[tuple[float, float, float], ...] = ()

    def is_free(self, X: np.ndarray, Z: np.ndarray, margin: float = 0.5) -> bool:
        """Return whether people may be at all these points: in front of walls, off the zone."""
        left, right = self.sides
        if (self.wall - 0.3 < Z).any() or (left + 0.2 > X).any() or (right - 0.2 < X).any():
            return False
        return self.zone is None or not self.zone.contains(X, Z, margin).any()

    def is_on_road(self, X: float, Z: float) -> bool:
        """Return whether a point is on the road."""
        return self.road is not None and bool(self.road.contains(np.array(X), np.array(Z), 0.2))

    def random_point(
        self, r: Generator, *, margin: float = 0.5, edge: float = 0.16
    ) -> tuple[float, float]:
        """Return a place well within the picture where people may be."""
        place = (0.0, 5.0)
        for _ in range(200):
            x, y = r.uniform(edge, ASPECT - edge), r.uniform(min(self.far + 0.08, 0.7), 0.95)
            place = self.camera.ground_point(x, y) or place
            at = np.array([place[0]]), np.array([place[1]])
            tall = self.camera.person_height(*place)
            if (
                tall > MIN_PERSON_HEIGHT
                and self.is_free(*at, margin)
                and not self.is_on_road(*place)
            ):
                break
        return place

    @cached_property
    def backdrop(self) -> Image.Image:
        """Return the picture of the place under even light, `LEASE_COLUMNS` by `ROW_MULTIPLE`."""
        r = np.random.default_rng((self.seed, 2))
        picture = _cast_rays(r, self)
        picture *= np.clip(1 + clouds(r, ROWS, COLUMNS, r.uniform(0, 0.1)), 0.6, 1.4)[..., None]
        image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        return _furnished(r, self, image)


def random_place(
    r: Generator, photographs: PhotographSource | None, *, zone: bool, road: bool
) -> ScenePlace:
    """Return a street, a square, a yard or a room."""
    indoors = not road and r.random() < 0.4
    camera = PinholeCamera.random(r, highest=4.5 if indoors else 9.0)
    far = camera.farthest_y
    _, deep = camera.ground_point(ASPECT / 2, max(far, 0.02)) or (0.0, 30.0)
    wall = deep * r.uniform(1.02, 1.3) if indoors or r.random() < 0.6 else 1e6
    sides = [-1e6, 1e6]
    middle = camera.ground_point(0.0, 0.7)
    if indoors and middle is not None:
        reach = abs(middle[0])
        for nth, sign in enumerate((-1, 1)):
            if r.random() < 0.5:
                sides[nth] = sign * reach * r.uniform(0.8, 1.4)
    place = ScenePlace(
        camera, int(r.integers(1 << 30)), photographs, indoors, wall, (sides[0], sides[1]),
        _road(r, camera, far) if road else None, None, far,
    )  # fmt: skip
    if zone:
        place = replace(place, zone=random_zone(r, place))
    spots = [place.random_point(r) for _ in range(r.integers(0, 3))]
    return replace(place, seats=tuple((*spot, float(r.uniform(0, 6.3))) for spot in spots))


def _road(r: Generator, camera: PinholeCamera, far: float) -> GroundRectangle:
    X, Z = camera.ground_point(
        r.uniform(0.4, ASPECT - 0.4), r.uniform(max(0.45, far + 0.15), 0.88)
    ) or (
        0.0,
        8.0,
    )
    sideways = np.pi / 2 * r.choice([-1, 1])
    heading = (
        sideways + r.normal(0, 0.3) if r.random() < 0.8 else r.choice([0, np.pi]) + r.normal(0, 0.3)
    )
    return GroundRectangle(
        X=X, Z=Z, heading=float(heading), width=float(r.uniform(3.2, 6)), length=120.0
    )


def random_zone(r: Generator, place: ScenePlace) -> GroundRectangle:
    """Return a zone well within the picture, off the road."""
    zone = GroundRectangle(X=0.0, Z=6.0, heading=0.0, width=2.0, length=2.0)
    for _ in range(60):
        X, Z = place.random_point(r, edge=0.25)
        metre = place.camera.scale(X, Z)
        width, length = r.uniform(0.25, 0.6) / metre, r.uniform(0.24, 0.64) / metre
        zone = GroundRectangle(
            X=X, Z=Z, heading=float(r.uniform(0, np.pi)), width=width, length=length
        )
        corners = [zone.at(a * width / 2, b * length / 2) for a in (-1, 1) for b in (-1, 1)]
        xs, ys = zip(*(place.camera.picture_point(*corner) for corner in corners), strict=True)
        within = place.far < min(ys) and max(ys) < 1.02 and min(xs) > -0.05
        clear = not any(place.is_on_road(*corner) for corner in [*corners, (X, Z)])
        before = max(corner[1] for corner in corners) < place.wall
        if within and clear and before and max(xs) < ASPECT + 0.05 and max(ys) - min(ys) > 0.12:
            return zone
    return zone


def _cast_rays(r: Generator, place: ScenePlace) -> np.ndarray:
    """Return the colours that rays through the picture meet, (ROWS, COLUMNS, 3)."""
    y, x = (np.mgrid[:ROWS, :COLUMNS] + 0.5) / ROWS
    rays = place.camera.rays(x, y)
    X, Y, Z = np.moveaxis(rays, -1, 0)
    high = place.camera.height
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = {
            "ground": np.where(Y < -1e-4, -high / Y, np.inf),
            "back": np.where(Z > 1e-4, place.wall / Z, np.inf),
            "left": np.where(X < -1e-4, place.sides[0] / X, np.inf),
            "right": np.where(X > 1e-4, place.sides[1] / X, np.inf),
        }
    stacked = np.stack(list(reach.values()))
    nearest, t = stacked.argmin(0), np.minimum(stacked.min(0), 400.0)
    at = rays * t[..., None]
    top = r.uniform(2.6, 3.4) if place.indoors else r.uniform(2, 14)
    above = at[..., 1] + high > top
    picture = _sky(r, place)
    for nth, (u, v) in enumerate([(0, 2), (0, 1), (2, 1), (2, 1)]):
        met = (nearest == nth) & (t < 400) & ~(above & (nth > 0))
        if met.any():
            surface = tile(r, "ground" if nth == 0 else "wall", place.photographs)
            metres = r.uniform(2, 9)
            rows, columns = (
                np.floor(at[met][:, axis] / metres * SIDE).astype(int) % SIDE for axis in (v, u)
            )
            light = r.uniform(0.75, 1.15) if nth else 1.0
            picture[met] = surface[rows, columns] * light
    ground = nearest == 0
    _paint(r, place, picture, ground, at)
    return picture


def _sky(r: Generator, place: ScenePlace) -> np.ndarray:
    if place.photographs is not None and r.random() < 0.6:
        return place.photographs.crop(r, "view", ROWS, COLUMNS).astype(np.float32)
    top, bottom = r.uniform(60, 250, 3), r.uniform(60, 250, 3)
    share = np.linspace(0, 1, ROWS)[:, None, None]
    even: np.ndarray = (top * (1 - share) + bottom * share).astype(np.float32)
    return even.repeat(COLUMNS, 1)


def _paint(
    r: Generator, place: ScenePlace, picture: np.ndarray, ground: np.ndarray, at: np.ndarray
) -> None:
    """Paint the road with its arrows, and the zone, on the ground."""
    X, Z = at[..., 0], at[..., 2]
    if place.road is not None:
        across, along = place.road.local(X, Z)
        road = ground & (abs(across) < place.road.width / 2)
        asphalt = tile(r, "ground", place.photographs)
        rows, columns = (
            np.floor(v / 4 * SIDE).astype(int) % SIDE for v in (across[road], along[road])
        )
        tone = asphalt[rows, columns].mean(-1, keepdims=True)
        picture[road] = 0.5 * tone + r.uniform(25, 75)
        white = r.uniform(150, 245)
        edge = ground & (abs(abs(across) - place.road.width / 2) < r.uniform(0.06, 0.2))
        picture[edge] = 0.3 * picture[edge] + 0.7 * white * r.uniform(0.6, 1)
        size, period = r.uniform(1.1, 1.7), r.uniform(5, 10)
        step = along % period / size
        arrow = (step < 1.9) & (abs(across) < 0.16 * size)
        arrow |= (step >= 1.7) & (step < 3) & (abs(across) < 0.55 * size * (3 - step) / 1.3)
        picture[arrow & ground] = 0.2 * picture[arrow & ground] + 0.8 * white
    if place.zone is not None:
        across, along = place.zone.local(X, Z)
        zone = ground & place.zone.contains(X, Z)
        hue = np.array(
            [(235, 45, 40), (240, 205, 40), (240, 240, 240), (240, 130, 30), (60, 90, 220)]
        )
        paint, cover = hue[r.choice(5, p=[0.35, 0.35, 0.1, 0.15, 0.05])], r.uniform(0.5, 0.9)
        border = (abs(across) > place.zone.width / 2 - 0.22) | (
            abs(along) > place.zone.length / 2 - 0.22
        )
        period = r.uniform(0.7, 1.5)
        stripes = (across + along) % period < period * r.uniform(0.25, 0.5)
        if r.random() < 0.15:
            stripes = np.full_like(stripes, r.random() < 0.7)
        drawn = zone & (border | stripes)
        picture[drawn] = (1 - cover) * picture[drawn] + cover * paint * r.uniform(0.75, 1)


def _furnished(r: Generator, place: ScenePlace, image: Image.Image) -> Image.Image:
    """Draw the objects: boxes, poles, parked cars, benches."""
    stage = DrawingStage(canvas=image, camera=place.camera, height=ROWS, t=0.0, sun_XZ=(0.2, 0.1))
    things = [(Z, Box(X, Z, heading, 1.5, 0.45, 0.5)) for X, Z, heading in place.seats]
    for _ in range(r.integers(0, 9)):
        X, Z = place.camera.ground_point(r.uniform(0, ASPECT), r.uniform(place.far, 0.95)) or (
            0.0,
            9.0,
        )
        if (
            place.wall - 0.5 < Z
            or place.is_on_road(X, Z)
            or (place.zone and place.zone.contains(np.array(X), np.array(Z), 0.7))
        ):
            continue
        size = _SIZES[r.integers(len(_SIZES))]
        width, tall, length = np.array(size) * r.uniform(0.7, 1.3, 3)
        if max(width, min(tall, 2), length) * place.camera.scale(X, Z) > 0.33:
            continue
        things.append((Z, Box(X, Z, float(r.uniform(0, 3)), width, tall, length)))
    for _, box in sorted(things, key=lambda thing: -thing[0]):
        stage.puddle(box.X, box.Z, 0.5 * box.width)
        patch = Patch(stage.pixels(box.corners()), 1.0)
        box.draw(patch, stage, random_colour(r))
        patch.paste(stage, cloth(r, place.photographs))
    return stage.canvas


_SIZES = (
    (0.5, 0.9, 0.5),
    (0.12, 3.0, 0.12),
    (0.2, 5.0, 0.2),
    (1.8, 0.5, 0.5),
    (1.2, 1.2, 1.0),
    (1.8, 1.4, 4.2),
    (0.6, 1.9, 2.2),
    (2.5, 1.0, 0.1),
)
"""Metres: bins, poles, benches, crates, parked cars, machines, fences."""
