"""Rendered surveillance scenes: a fixed camera over a street, with what happens known exactly.

A scene is a pure function of a seed; a picture is a pure function of a scene and a time, at
any size. Lengths are in picture heights: x runs from 0 to `ASPECT`, y from 0 (top) to 1.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw

from analyzer.nano.actors import (
    Actor,
    Bag,
    Fire,
    Person,
    Vehicle,
    colour,
    person_height,
)

ASPECT = 1.5


class Kind(StrEnum):
    """What may happen that a guard would want to know."""

    FALL = "fall"
    FIGHT = "fight"
    INTRUSION = "intrusion"
    ABANDONED = "abandoned"
    FIRE = "fire"
    WRONG_WAY = "wrong_way"
    CROWD = "crowd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happened and from when to when it can be seen, in seconds of the scene."""

    kind: Kind
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The fixed part of a scene: its ground, its zone if one is drawn, its light."""

    backdrop: Image.Image
    horizon: float
    road: float
    zone: tuple[float, float, float, float] | None
    gain: float
    noise: float
    night: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A place, those who move in it, and what happens."""

    place: Place
    actors: tuple[Actor, ...]
    events: tuple[Event, ...]
    seed: int

    def picture(self, t: float, width: int, height: int) -> np.ndarray:
        """Return the picture at `t` seconds as uint8 (height, width, 3)."""
        canvas = self.place.backdrop.resize((width, height), Image.Resampling.BILINEAR)
        draw = ImageDraw.Draw(canvas)
        present = [actor for actor in self.actors if actor.present(t)]
        for actor in sorted(present, key=lambda actor: actor.at(t)[1]):
            actor.draw(draw, t, height, self.place.horizon)
        return self._sensor(np.asarray(canvas, np.float32), t)

    def jpeg(self, t: float, height: int, quality: int) -> bytes:
        """Return the picture at `t` seconds as a camera would send it."""
        file = io.BytesIO()
        picture = Image.fromarray(self.picture(t, int(height * ASPECT), height))
        picture.save(file, "JPEG", quality=quality)
        return file.getvalue()

    def _sensor(self, light: np.ndarray, t: float) -> np.ndarray:
        place = self.place
        if place.night:
            light = light.mean(-1, keepdims=True).repeat(3, -1) * 0.6
        r = default_rng((self.seed, int(t * 1000)))
        noise = r.standard_normal(light.shape[:2], np.float32)[..., None] * place.noise
        return np.clip(light * place.gain + noise, 0, 255).astype(np.uint8)

    def marks(self, t: float) -> list[tuple[str, float, float]]:
        """Return what stands where at `t`: (label, x, y of its middle)."""
        return [a.mark(t, self.place.horizon) for a in self.actors if a.present(t)]


def random_scene(seed: int, seconds: float, *, rate: float = 0.55) -> Scene:
    """Return a scene of `seconds`, an event starting in each 16 s with probability `rate`."""
    r = default_rng(seed)
    place = _place(r)
    actors = _passers_by(r, place, seconds)
    events: list[Event] = []
    kinds = list(Kind) if place.zone else [k for k in Kind if k is not Kind.INTRUSION]
    for begin in np.arange(0, seconds, 16):
        if r.random() < rate:
            kind = kinds[r.integers(len(kinds))]
            start = float(begin + r.uniform(0, 9))
            length = float(r.uniform(8, 24))
            added, event = MAKERS[kind](r, place, start, start + length)
            events.append(event)
            actors += added
    return Scene(place=place, actors=tuple(actors), events=tuple(events), seed=seed)


def demo_scene(seconds: float, anomaly: bool, seed: int = 3) -> Scene:
    """Return the scene of the demo: a quiet street where, if `anomaly`, a fire breaks out."""
    r = default_rng(seed)
    place = _place(r, zone=False, night=False)
    actors = _passers_by(r, place, seconds)
    events: list[Event] = []
    if anomaly:
        start = 0.45 * seconds
        fire, event = _fire(r, place, start, start + 0.35 * seconds)
        actors += fire
        events.append(event)
    return Scene(place=place, actors=tuple(actors), events=tuple(events), seed=seed)


def _place(r: Generator, *, zone: bool | None = None, night: bool | None = None) -> Place:
    horizon, road = r.uniform(0.2, 0.36), r.uniform(0.78, 0.84)
    drawn = zone if zone is not None else r.random() < 0.5
    area = _zone(r, horizon, road) if drawn else None
    return Place(
        backdrop=_backdrop(r, horizon, road, area),
        horizon=horizon,
        road=road,
        zone=area,
        gain=r.uniform(0.75, 1.2),
        noise=r.uniform(1, 6),
        night=night if night is not None else r.random() < 0.15,
    )


def _zone(r: Generator, horizon: float, road: float) -> tuple[float, float, float, float]:
    width, depth = r.uniform(0.35, 0.6), r.uniform(0.14, 0.22)
    left = r.uniform(0.05, ASPECT - width - 0.05)
    top = r.uniform(horizon + 0.1, road - depth - 0.02)
    return left, top, left + width, top + depth


def _backdrop(
    r: Generator, horizon: float, road: float, zone: tuple[float, float, float, float] | None
) -> Image.Image:
    H = 256
    W = int(H * ASPECT)
    image = Image.new("RGB", (W, H), colour(r, 80, 190, spread=15))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, W, horizon * H], fill=colour(r, 70, 180))
    for _ in range(r.integers(1, 6)):
        x, w, h = r.uniform(0, W), r.uniform(0.1, 0.4) * H, r.uniform(0.3, 1) * horizon * H
        draw.rectangle([x, horizon * H - h, x + w, horizon * H], fill=colour(r, 50, 220))
    for _ in range(r.integers(0, 4)):
        x, y, h = r.uniform(0, W), r.uniform(horizon + 0.05, road) * H, r.uniform(0.06, 0.22) * H
        draw.rectangle([x, y - h, x + h * r.uniform(0.3, 0.7), y], fill=colour(r, 30, 200))
    draw.rectangle([0, road * H, W, H], fill=colour(r, 45, 90, spread=5))
    for x in np.arange(0.08, ASPECT, 0.4):
        tip, y = (x + 0.16) * H, (road + 1) / 2 * H
        draw.line([x * H, y, tip, y], fill=(190, 190, 190), width=2)
        draw.line([tip - 8, y - 6, tip, y, tip - 8, y + 6], fill=(190, 190, 190), width=2)
    if zone:
        _hatch(draw, [z * H for z in zone], (235, 40, 40) if r.random() < 0.5 else (240, 210, 30))
    return _textured(r, image)


def _hatch(draw: ImageDraw.ImageDraw, box: list[float], paint: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    draw.rectangle(box, outline=paint, width=3)
    for x in np.arange(left, right, 18):
        draw.line([x, bottom, min(x + 14, right), top], fill=paint, width=2)


def _textured(r: Generator, image: Image.Image) -> Image.Image:
    coarse = r.normal(0, r.uniform(0, 9), (16, 24)).astype(np.float32)
    stain = Image.fromarray(coarse).resize(image.size, Image.Resampling.BICUBIC)
    return Image.fromarray(
        np.clip(np.asarray(image, np.float32) + np.asarray(stain)[..., None], 0, 255).astype(
            np.uint8
        )
    )


def _lane(r: Generator, place: Place) -> float:
    """Return a depth to walk at that does not touch the zone."""
    for _ in range(40):
        y = r.uniform(place.horizon + 0.06, place.road - 0.02)
        if not place.zone or not place.zone[1] - 0.04 <= y <= place.zone[3] + 0.04:
            return float(y)
    return place.road - 0.01


def _passers_by(r: Generator, place: Place, seconds: float) -> list[Actor]:
    actors: list[Actor] = []
    t = -18.0
    busy = r.uniform(3, 14)
    while t < seconds:
        actors.append(_walker(r, place, t))
        t += r.exponential(busy)
    t = -8.0
    gap = r.uniform(8, 40)
    while t < seconds:
        t += 5 + r.exponential(gap)
        actors.append(Vehicle.crossing(r, t, place.road, forward=True, aspect=ASPECT))
    return actors


def _walker(r: Generator, place: Place, start: float) -> Person:
    y, forward = _lane(r, place), r.random() < 0.5
    speed = r.uniform(0.06, 0.16)
    run = r.random() < 0.1
    x0, x1 = (-0.08, ASPECT + 0.08) if forward else (ASPECT + 0.08, -0.08)
    length = (ASPECT + 0.16) / (speed * (2.2 if run else 1))
    times, xs = [start, start + length], [x0, x1]
    if r.random() < 0.25:
        pause, at = r.uniform(1, 4), r.uniform(0.2, 0.8)
        middle = x0 + at * (x1 - x0)
        times = [start, start + at * length, start + at * length + pause, start + length + pause]
        xs = [x0, middle, middle, x1]
    end = times[-1]
    carried = (start, end) if r.random() < 0.25 else None
    return Person.dressed(r, times, xs, [y] * len(times), carries=carried)


Made = tuple[list[Actor], Event]


def _fall(r: Generator, place: Place, start: float, end: float) -> Made:
    y, x = _lane(r, place), r.uniform(0.2, ASPECT - 0.2)
    side = -1 if r.random() < 0.5 else 1
    walk = r.uniform(3, 7)
    times = [start - walk, start, end, end + 1]
    xs = [x - side * walk * r.uniform(0.07, 0.13), x, x, x]
    person = Person.dressed(r, times, xs, [y] * 4, lies=(start, end))
    return [person], Event(kind=Kind.FALL, start=start, end=end)


def _fight(r: Generator, place: Place, start: float, end: float) -> Made:
    y, x = _lane(r, place), r.uniform(0.3, ASPECT - 0.3)
    end = min(end, start + 12)
    reach = person_height(y, place.horizon) * 0.33
    pair: list[Actor] = []
    for side in (-1, 1):
        wild = np.arange(start, end, 0.4)
        xs = x + side * reach + r.normal(0, 0.025, len(wild))
        ys = y + r.normal(0, 0.012, len(wild))
        away = x + side * (reach + 0.5)
        pair.append(
            Person.dressed(
                r,
                [start - 4, *wild, end + 4],
                [away, *xs, away],
                [y, *ys, y],
                hits=(start, end),
                faces=-side,
            )
        )
    return pair, Event(kind=Kind.FIGHT, start=start, end=end)


def _intrusion(r: Generator, place: Place, start: float, end: float) -> Made:
    if place.zone is None:
        raise ValueError("an intrusion needs a place with a zone")
    left, top, right, bottom = place.zone
    y = r.uniform((top + bottom) / 2, bottom)
    side = -1 if r.random() < 0.5 else 1
    inside = r.uniform(left + 0.08, right - 0.08, 3)
    edge, out = (left, left - 0.4) if side > 0 else (right, right + 0.4)
    times = [start - 4, start, start + 2, (start + end) / 2, end - 2, end, end + 4]
    xs = [out, edge, *inside, edge, out]
    person = Person.dressed(r, times, xs, [y] * 7)
    return [person], Event(kind=Kind.INTRUSION, start=start, end=end)


def _abandoned(r: Generator, place: Place, start: float, end: float) -> Made:
    y, x = _lane(r, place), r.uniform(0.25, ASPECT - 0.25)
    side, speed = (-1 if r.random() < 0.5 else 1), r.uniform(0.08, 0.14)
    times = [start - 5, start, start + 8]
    xs = [x - side * 5 * speed, x, x + side * 8 * speed]
    owner = Person.dressed(r, times, xs, [y] * 3, carries=(start - 5, start))
    bag = Bag(x=x + 0.03, y=y, start=start, end=end, paint=colour(r, 10, 80, spread=20))
    return [owner, bag], Event(kind=Kind.ABANDONED, start=start + 2, end=end)


def _fire(r: Generator, place: Place, start: float, end: float) -> Made:
    x, y = r.uniform(0.2, ASPECT - 0.2), r.uniform(place.horizon + 0.12, place.road - 0.03)
    fire = Fire(
        x=x, y=y, start=start, end=end, size=r.uniform(0.6, 1.2), seed=int(r.integers(1 << 30))
    )
    return [fire], Event(kind=Kind.FIRE, start=start + 1, end=end)


def _wrong_way(r: Generator, place: Place, start: float, end: float) -> Made:
    car = Vehicle.crossing(r, start, place.road, forward=False, aspect=ASPECT)
    return [car], Event(kind=Kind.WRONG_WAY, start=start, end=car.end)


def _crowd(r: Generator, place: Place, start: float, end: float) -> Made:
    x = r.uniform(0.4, ASPECT - 0.4)
    crowd: list[Actor] = []
    for _ in range(r.integers(7, 13)):
        own, y = x + r.normal(0, 0.17), _lane(r, place)
        away = own + (-1 if r.random() < 0.5 else 1) * 1.2
        come, leave = start + r.uniform(-2, 1), end + r.uniform(0, 2)
        crowd.append(
            Person.dressed(r, [come - 9, come, leave, leave + 9], [away, own, own, away], [y] * 4)
        )
    return crowd, Event(kind=Kind.CROWD, start=start, end=end)


MAKERS: dict[Kind, Callable[[Generator, Place, float, float], Made]] = {
    Kind.FALL: _fall,
    Kind.FIGHT: _fight,
    Kind.INTRUSION: _intrusion,
    Kind.ABANDONED: _abandoned,
    Kind.FIRE: _fire,
    Kind.WRONG_WAY: _wrong_way,
    Kind.CROWD: _crowd,
}
