"""Rendered surveillance scenes of a fixed camera, with exactly known events.

A scene is a pure function of a seed (and of the photographs passed to it); a picture is a pure
function of a scene and a time, at any size.
"""

import io
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image, ImageFilter

from analyzer.nano.workshop.renderer import everyday
from analyzer.nano.workshop.renderer.actors import Mark, SceneActor
from analyzer.nano.workshop.renderer.camera import ASPECT
from analyzer.nano.workshop.renderer.events import EVENT_MAKERS, EventKind, SceneEvent
from analyzer.nano.workshop.renderer.people import Person
from analyzer.nano.workshop.renderer.places import ScenePlace, random_place
from analyzer.nano.workshop.renderer.sensor import Light, Sensor
from analyzer.nano.workshop.renderer.stage import DrawingStage
from analyzer.nano.workshop.renderer.textures import PhotographSource

__all__ = [
    "ASPECT",
    "EVENT_MAKERS",
    "EventKind",
    "Light",
    "RenderedScene",
    "SceneEvent",
    "demo_scene",
    "random_scene",
]
BLOCK = 16
"""Seconds in which at most one event starts, or two at once."""
TWO_AT_ONCE = 0.15
Backdrops = tuple[Image.Image, Image.Image, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class RenderedScene:
    """A place, its actors and its events."""

    place: ScenePlace
    sensor: Sensor
    sun_XZ: tuple[float, float]
    actors: tuple[SceneActor, ...]
    events: tuple[SceneEvent, ...]
    seed: int
    _drawn: dict[tuple[int, int], Backdrops] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def light(self) -> Light:
        """Return the light of the scene."""
        return self.sensor.light

    def picture(self, t: float, width: int, height: int) -> np.ndarray:
        """Return the picture at `t` seconds as uint8 (height, width, 3)."""
        bright, dark, lit = self._backdrops(width, height)
        camera, present = self.place.camera, self.present(t)
        stage = DrawingStage(
            canvas=bright.copy(), camera=camera, height=height, t=t, sun_XZ=self.sun_XZ
        )
        for actor in present:
            actor.shade(stage)
        stage.canvas.paste(dark, (0, 0), stage.shadow.filter(ImageFilter.BoxBlur(height / 256)))
        for actor in sorted(present, key=lambda actor: -actor.at(t)[1]):
            actor.draw(stage)
        return self.sensor.expose(stage.canvas, lit, stage.glow, t, self.seed)

    def _backdrops(self, width: int, height: int) -> Backdrops:
        """Return the place in the light and in the shade, and the light on each pixel."""
        size = width, height
        if size not in self._drawn:
            bright = self.place.backdrop.resize(size, Image.Resampling.BICUBIC)
            dark = bright.point(lambda value: value * (1 - self.sensor.shadow))
            self._drawn[size] = bright, dark, self.sensor.lit(bright)
        return self._drawn[size]

    def jpeg(self, t: float, height: int, quality: int) -> bytes:
        """Return the picture at `t` seconds as JPEG."""
        file = io.BytesIO()
        picture = Image.fromarray(self.picture(t, int(height * ASPECT), height))
        picture.save(file, "JPEG", quality=quality)
        return file.getvalue()

    def present(self, t: float) -> list[SceneActor]:
        """Return the actors in the picture or just outside of it."""
        here = [actor for actor in self.actors if actor.start <= t < actor.end]
        camera = self.place.camera
        return [actor for actor in here if _is_near(*camera.picture_point(*actor.at(t)))]

    def marks(self, t: float) -> list[Mark]:
        """Return the labels and their places at `t`, in picture heights."""
        return [mark for actor in self.present(t) for mark in actor.marks(t, self.place.camera)]

    def people(self, t: float) -> int:
        """Return the number of visible people."""
        camera = self.place.camera
        spots = [
            camera.picture_point(*a.at(t), 0.9) for a in self.present(t) if isinstance(a, Person)
        ]
        return sum(0 < x < ASPECT and 0 < y < 1 for x, y in spots)


def _is_near(x: float, y: float) -> bool:
    return -0.7 < x < ASPECT + 0.7 and -0.1 < y < 1.9


def random_scene(
    seed: int,
    seconds: float,
    *,
    rate: float = 0.55,
    light: Light | None = None,
    photographs: PhotographSource | None = None,
) -> RenderedScene:
    """Return a scene of `seconds`, an event starting in each 16 s with probability `rate`."""
    r = default_rng(seed)
    kinds = [_random_kinds(r) if r.random() < rate else [] for _ in np.arange(0, seconds, BLOCK)]
    wanted = {kind for block in kinds for kind in block}
    zone = EventKind.INTRUSION in wanted or r.random() < 0.35
    road = EventKind.WRONG_WAY in wanted or r.random() < 0.45
    place = random_place(r, photographs, zone=zone, road=road)
    chosen = light or Light(r.choice(list(Light), p=[0.64, 0.18, 0.18]))
    actors, events = everyday_actors(r, place, seconds, chosen), list[SceneEvent]()
    for nth, block in enumerate(kinds):
        for kind in block:
            start = BLOCK * nth + r.uniform(0, 9)
            added, event = EVENT_MAKERS[kind](r, place, start, start + r.uniform(8, 26))
            actors += added
            events.append(event)
    return RenderedScene(
        place=place,
        sensor=Sensor.random(r, chosen),
        sun_XZ=_sun(r, place, chosen),
        actors=tuple(actors),
        events=tuple(event for event in events if event.end > event.start),
        seed=seed,
    )


def _random_kinds(r: Generator) -> list[EventKind]:
    many = 2 if r.random() < TWO_AT_ONCE else 1
    return [EventKind(kind) for kind in r.choice(list(EventKind), many, replace=False)]


def _sun(r: Generator, place: ScenePlace, light: Light) -> tuple[float, float]:
    """Return the length of shadows; nearly none indoors and in the dark."""
    long = r.uniform(0.1, 1.6) if light is Light.DAY and not place.indoors else r.uniform(0, 0.25)
    turn = r.uniform(0, 2 * np.pi)
    return float(long * np.sin(turn)), float(long * np.cos(turn))


def everyday_actors(
    r: Generator, place: ScenePlace, seconds: float, light: Light
) -> list[SceneActor]:
    """Return ordinary actors: passers-by, pairs that talk, people who sit, traffic."""
    actors: list[SceneActor] = []
    t, busy = -25.0, r.uniform(2.5, 16)
    while t < seconds:
        chance = r.random()
        if chance < 0.8:
            actors += everyday.walkers(r, place, t)
        elif chance < 0.87:
            actors += everyday.meeting(r, place, t + 8)
        elif chance < 0.94:
            actors += everyday.sitting(r, place, t + 8)
        else:
            actors += everyday.luggage(r, place, t + 8)
        t += r.exponential(busy)
    t, gap = -12.0, r.uniform(5, 30)
    while place.road is not None and t < seconds:
        t += 3 + r.exponential(gap)
        actors.append(everyday.vehicle(r, place, t, lamps=light is not Light.DAY))
    return actors


def demo_scene(seconds: float, anomaly: bool, seed: int = 3) -> RenderedScene:
    """Return the scene of the demo: a quiet street, with a fire if `anomaly`."""
    r = default_rng(seed)
    place = random_place(r, None, zone=False, road=True)
    actors = everyday_actors(r, place, seconds, Light.DAY)
    events: list[SceneEvent] = []
    if anomaly:
        start = 0.45 * seconds
        fire, event = EVENT_MAKERS[EventKind.FIRE](r, place, start, start + 0.35 * seconds)
        actors += fire
        events.append(event)
    return RenderedScene(
        place=place,
        sensor=Sensor.random(r, Light.DAY),
        sun_XZ=_sun(r, place, Light.DAY),
        actors=tuple(actors),
        events=tuple(events),
        seed=seed,
    )
