"""Rendered surveillance scenes: a fixed camera, with what happens known exactly.

A scene is a pure function of a seed (and of the photographs lent to it); a picture is a pure
function of a scene and a time, at any size.
"""

import io
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image, ImageFilter

from analyzer.nano.render import ordinary
from analyzer.nano.render.actors import Actor, Mark
from analyzer.nano.render.camera import ASPECT
from analyzer.nano.render.people import Person
from analyzer.nano.render.places import Place, random_place
from analyzer.nano.render.plots import MAKERS, Event, Kind
from analyzer.nano.render.sensor import Light, Sensor
from analyzer.nano.render.stage import Stage
from analyzer.nano.render.textures import Photographs

__all__ = ["ASPECT", "MAKERS", "Event", "Kind", "Light", "Scene", "demo_scene", "random_scene"]
BLOCK = 16
"""Seconds in which at most one event starts, or two at once."""
TWO_AT_ONCE = 0.15
Backdrops = tuple[Image.Image, Image.Image, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A place, those who move in it, and what happens."""

    place: Place
    sensor: Sensor
    sun_XZ: tuple[float, float]
    actors: tuple[Actor, ...]
    events: tuple[Event, ...]
    seed: int
    _drawn: dict[tuple[int, int], Backdrops] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def light(self) -> Light:
        """Return by what light the camera sees."""
        return self.sensor.light

    def picture(self, t: float, width: int, height: int) -> np.ndarray:
        """Return the picture at `t` seconds as uint8 (height, width, 3)."""
        bright, dark, lit = self._backdrops(width, height)
        camera, present = self.place.camera, self.present(t)
        stage = Stage(canvas=bright.copy(), camera=camera, height=height, t=t, sun_XZ=self.sun_XZ)
        for actor in present:
            actor.shade(stage)
        stage.canvas.paste(dark, (0, 0), stage.shadow.filter(ImageFilter.BoxBlur(height / 256)))
        for actor in sorted(present, key=lambda actor: -actor.at(t)[1]):
            actor.draw(stage)
        return self.sensor.expose(stage.canvas, lit, stage.glow, t, self.seed)

    def _backdrops(self, width: int, height: int) -> Backdrops:
        """Return the place in the light and in the shade, and how much light falls where."""
        size = width, height
        if size not in self._drawn:
            bright = self.place.backdrop.resize(size, Image.Resampling.BICUBIC)
            dark = bright.point(lambda value: value * (1 - self.sensor.shadow))
            self._drawn[size] = bright, dark, self.sensor.lit(bright)
        return self._drawn[size]

    def jpeg(self, t: float, height: int, quality: int) -> bytes:
        """Return the picture at `t` seconds as a camera would send it."""
        file = io.BytesIO()
        picture = Image.fromarray(self.picture(t, int(height * ASPECT), height))
        picture.save(file, "JPEG", quality=quality)
        return file.getvalue()

    def present(self, t: float) -> list[Actor]:
        """Return those who are in the picture, or just outside of it."""
        here = [actor for actor in self.actors if actor.start <= t < actor.end]
        camera = self.place.camera
        return [actor for actor in here if _near(*camera.spot(*actor.at(t)))]

    def marks(self, t: float) -> list[Mark]:
        """Return what stands where at `t`, in picture heights."""
        return [mark for actor in self.present(t) for mark in actor.marks(t, self.place.camera)]

    def people(self, t: float) -> int:
        """Return how many people can be seen."""
        camera = self.place.camera
        spots = [camera.spot(*a.at(t), 0.9) for a in self.present(t) if isinstance(a, Person)]
        return sum(0 < x < ASPECT and 0 < y < 1 for x, y in spots)


def _near(x: float, y: float) -> bool:
    return -0.7 < x < ASPECT + 0.7 and -0.1 < y < 1.9


def random_scene(
    seed: int,
    seconds: float,
    *,
    rate: float = 0.55,
    light: Light | None = None,
    photographs: Photographs | None = None,
) -> Scene:
    """Return a scene of `seconds`, an event starting in each 16 s with probability `rate`."""
    r = default_rng(seed)
    kinds = [_kinds(r) if r.random() < rate else [] for _ in np.arange(0, seconds, BLOCK)]
    wanted = {kind for block in kinds for kind in block}
    zone = Kind.INTRUSION in wanted or r.random() < 0.35
    road = Kind.WRONG_WAY in wanted or r.random() < 0.45
    place = random_place(r, photographs, zone=zone, road=road)
    chosen = light or Light(r.choice(list(Light), p=[0.64, 0.18, 0.18]))
    actors, events = passing(r, place, seconds, chosen), list[Event]()
    for nth, block in enumerate(kinds):
        for kind in block:
            start = BLOCK * nth + r.uniform(0, 9)
            added, event = MAKERS[kind](r, place, start, start + r.uniform(8, 26))
            actors += added
            events.append(event)
    return Scene(
        place=place,
        sensor=Sensor.random(r, chosen),
        sun_XZ=_sun(r, place, chosen),
        actors=tuple(actors),
        events=tuple(event for event in events if event.end > event.start),
        seed=seed,
    )


def _kinds(r: Generator) -> list[Kind]:
    many = 2 if r.random() < TWO_AT_ONCE else 1
    return [Kind(kind) for kind in r.choice(list(Kind), many, replace=False)]


def _sun(r: Generator, place: Place, light: Light) -> tuple[float, float]:
    """Return how far shadows reach; hardly any indoors and in the dark."""
    long = r.uniform(0.1, 1.6) if light is Light.DAY and not place.indoors else r.uniform(0, 0.25)
    turn = r.uniform(0, 2 * np.pi)
    return float(long * np.sin(turn)), float(long * np.cos(turn))


def passing(r: Generator, place: Place, seconds: float, light: Light) -> list[Actor]:
    """Return those who come and go: passers-by, pairs that talk, one who sits, traffic."""
    actors: list[Actor] = []
    t, busy = -25.0, r.uniform(2.5, 16)
    while t < seconds:
        chance = r.random()
        if chance < 0.8:
            actors += ordinary.walkers(r, place, t)
        elif chance < 0.87:
            actors += ordinary.meeting(r, place, t + 8)
        elif chance < 0.94:
            actors += ordinary.sitting(r, place, t + 8)
        else:
            actors += ordinary.luggage(r, place, t + 8)
        t += r.exponential(busy)
    t, gap = -12.0, r.uniform(5, 30)
    while place.road is not None and t < seconds:
        t += 3 + r.exponential(gap)
        actors.append(ordinary.vehicle(r, place, t, lamps=light is not Light.DAY))
    return actors


def demo_scene(seconds: float, anomaly: bool, seed: int = 3) -> Scene:
    """Return the scene of the demo: a quiet street where, if `anomaly`, a fire breaks out."""
    r = default_rng(seed)
    place = random_place(r, None, zone=False, road=True)
    actors = passing(r, place, seconds, Light.DAY)
    events: list[Event] = []
    if anomaly:
        start = 0.45 * seconds
        fire, event = MAKERS[Kind.FIRE](r, place, start, start + 0.35 * seconds)
        actors += fire
        events.append(event)
    return Scene(
        place=place,
        sensor=Sensor.random(r, Light.DAY),
        sun_XZ=_sun(r, place, Light.DAY),
        actors=tuple(actors),
        events=tuple(events),
        seed=seed,
    )
