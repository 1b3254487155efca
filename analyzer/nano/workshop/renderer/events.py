"""Events of interest to a guard, each with the actors that perform it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.random import Generator

from analyzer.nano.workshop.renderer.actors import SceneActor, TimedLabel
from analyzer.nano.workshop.renderer.body import Pose
from analyzer.nano.workshop.renderer.camera import ASPECT
from analyzer.nano.workshop.renderer.everyday import vehicle
from analyzer.nano.workshop.renderer.fires import Fire
from analyzer.nano.workshop.renderer.path import TimedPoint
from analyzer.nano.workshop.renderer.people import Appearance, Person
from analyzer.nano.workshop.renderer.places import ScenePlace
from analyzer.nano.workshop.renderer.routes import distance, is_clear, staying_path, visiting_path
from analyzer.nano.workshop.renderer.things import Bag

LOITERING_AFTER = 20.0
"""Seconds after which staying about one place is loitering."""


class EventKind(StrEnum):
    """The kinds of events."""

    LOITERING = "loitering"
    FALL = "fall"
    FIGHT = "fight"
    INTRUSION = "intrusion"
    ABANDONED = "abandoned"
    FIRE = "fire"
    WRONG_WAY = "wrong_way"
    CROWD = "crowd"


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneEvent:
    """An event, the span in which it is visible, and its place.

    Times are seconds of the scene, `x` and `y` fractions of the picture.
    """

    kind: EventKind
    start: float
    end: float
    x: float
    y: float


ActorsAndEvent = tuple[list[SceneActor], SceneEvent]


def _event(
    place: ScenePlace, kind: EventKind, start: float, end: float, spot: tuple[float, float]
) -> SceneEvent:
    x, y = place.camera.picture_point(*spot, 0.5)
    return SceneEvent(kind=kind, start=start, end=end, x=float(np.clip(x / ASPECT, 0, 1)), y=y)


def _loitering(r: Generator, place: ScenePlace, start: float, end: float) -> ActorsAndEvent:
    """A person wanders to and fro about one place."""
    spot, came = place.random_point(r), start - LOITERING_AFTER
    end = max(end, LOITERING_AFTER + r.uniform(8, 20))
    middle, t = [(came, *spot)], came
    while t < end:
        pause, reach = r.uniform(2, 8), r.uniform(0.3, 2.0)
        turn = r.uniform(0, 2 * np.pi)
        to = spot[0] + reach * np.sin(turn), spot[1] + reach * np.cos(turn)
        if not is_clear(place, (middle[-1][1], middle[-1][2]), to, road=True):
            to = (middle[-1][1], middle[-1][2])
        middle.append((t + pause, *middle[-1][1:]))
        t += pause + max(distance(to, (middle[-1][1], middle[-1][2])), 0.1) / r.uniform(0.5, 1.1)
        middle.append((t, *to))
    path = visiting_path(r, place, spot, middle)
    person = Person(path=path, appearance=Appearance.random(r, place.photographs))
    return [person], _event(place, EventKind.LOITERING, max(came, 0) + LOITERING_AFTER, t, spot)


def _fall(r: Generator, place: ScenePlace, start: float, end: float) -> ActorsAndEvent:
    spot = place.random_point(r)
    path = staying_path(r, place, spot, start, end)
    pose = TimedLabel(Pose.LIE, start - 0.1, end)
    person = Person(path=path, appearance=Appearance.random(r, place.photographs), poses=(pose,))
    return [person], _event(place, EventKind.FALL, start + 0.5, end, spot)


def _fight(r: Generator, place: ScenePlace, start: float, end: float) -> ActorsAndEvent:
    spot, end = place.random_point(r), min(end, start + r.uniform(7, 16))
    turn, fighters = r.uniform(0, 2 * np.pi), list[SceneActor]()
    for nth in range(2 if r.random() < 0.75 else 3):
        angle = turn + np.pi * nth + r.normal(0, 0.2)
        middle: list[TimedPoint] = []
        for t in np.arange(start, end, 0.45):
            reach = r.uniform(0.2, 0.5)
            X, Z = spot[0] + reach * np.sin(angle), spot[1] + reach * np.cos(angle)
            middle.append((float(t), X + r.normal(0, 0.22), Z + r.normal(0, 0.22)))
        path = visiting_path(r, place, spot, middle)
        fighters.append(
            Person(
                path=path,
                appearance=Appearance.random(r, place.photographs),
                poses=(TimedLabel(Pose.HIT, start, end),),
                facing=angle + np.pi,
            )
        )
    return fighters, _event(place, EventKind.FIGHT, start, end, spot)


def _intrusion(r: Generator, place: ScenePlace, start: float, end: float) -> ActorsAndEvent:
    zone = place.zone
    if zone is None:
        raise ValueError("an intrusion needs a place with a zone")
    inside = [
        zone.at(r.uniform(-0.33, 0.33) * zone.width, r.uniform(-0.33, 0.33) * zone.length)
        for _ in range(4)
    ]
    times = np.linspace(start + 1, end - 1, 4)
    middle = [(float(t), *at) for t, at in zip(times, inside, strict=True)]
    path = visiting_path(r, replace(place, zone=None), inside[0], middle)
    moments = np.arange(path.start, path.end, 0.2)
    at = np.array([path.at(t) for t in moments])
    within = moments[zone.contains(at[:, 0], at[:, 1])]
    first, last = float(within[0]), float(within[-1])
    tell = (TimedLabel("intruder", first, last),)
    person = Person(path=path, appearance=Appearance.random(r, place.photographs), labels=tell)
    return [person], _event(place, EventKind.INTRUSION, first, last, inside[1])


def _abandoned(r: Generator, place: ScenePlace, start: float, end: float) -> ActorsAndEvent:
    """A person sets a bag down and leaves; at the end a person takes it."""
    spot, down = place.random_point(r), start - 3
    bag = spot[0] + r.uniform(0.3, 0.5) * r.choice([-1, 1]), spot[1] + 0.1
    people: list[SceneActor] = []
    for t, carries in (
        (down, TimedLabel("bag", -np.inf, down)),
        (end, TimedLabel("bag", end, np.inf)),
    ):
        pose = TimedLabel(Pose.CROUCH, t - 0.7, t + 0.4)
        path = staying_path(r, place, spot, t - 0.7, t + 0.5)
        looks = Appearance.random(r, place.photographs)
        people.append(Person(path=path, appearance=looks, poses=(pose,), carries=(carries,)))
    alone = TimedLabel("abandoned", start, end - 3)
    left = Bag.random(r, place.photographs, *bag, down, end)
    return [*people, replace(left, alone=alone)], _event(
        place, EventKind.ABANDONED, start, end - 1, bag
    )


def _fire(r: Generator, place: ScenePlace, start: float, end: float) -> ActorsAndEvent:
    spot = place.random_point(r, margin=0.0)
    flames = r.random() < 0.75
    person = place.camera.person_height(*spot)
    fire = Fire(
        X=spot[0],
        Z=spot[1],
        start=start - 1,
        end=end,
        # Never too small to be seen.
        size=float(max(r.uniform(0.6, 1.8), 0.17 / person)),
        seed=int(r.integers(1 << 30)),
        flames=flames,
        smoke=float(r.uniform(0.2, 1.2) if flames else r.uniform(1, 2)),
    )
    return [fire], _event(place, EventKind.FIRE, start, end, spot)


def _wrong_way(r: Generator, place: ScenePlace, start: float, end: float) -> ActorsAndEvent:
    car = vehicle(r, place, start, lamps=False, against=True)
    xs = [(t, place.camera.picture_point(*car.at(t))) for t in np.arange(car.start, car.end, 0.25)]
    seen = [t for t, (x, y) in xs if 0 < x < ASPECT and 0 < y < 1.1] or [start]
    middle = car.at((seen[0] + seen[-1]) / 2)
    return [car], _event(place, EventKind.WRONG_WAY, float(seen[0]), float(seen[-1]), middle)


def _crowd(r: Generator, place: ScenePlace, start: float, end: float) -> ActorsAndEvent:
    spot, crowd = place.random_point(r, edge=0.3), list[SceneActor]()
    for _ in range(r.integers(7, 14)):
        for _tried in range(20):
            own = tuple(spot + r.normal(0, r.uniform(0.6, 1.5), 2))
            if place.is_free(np.array([own[0]]), np.array([own[1]])):
                break
        else:
            continue
        path = staying_path(r, place, own, start + r.uniform(-4, 0.5), end + r.uniform(0, 3))
        tell = (TimedLabel("crowd", start, end),)
        pose = (TimedLabel(Pose.TALK, start, end),) if r.random() < 0.4 else ()
        looks = Appearance.random(r, place.photographs)
        crowd.append(
            Person(path=path, appearance=looks, labels=tell, poses=pose, facing=r.uniform(0, 6.3))
        )
    return crowd, _event(place, EventKind.CROWD, start + 0.5, end, spot)


EVENT_MAKERS: dict[EventKind, Callable[[Generator, ScenePlace, float, float], ActorsAndEvent]] = {
    EventKind.LOITERING: _loitering,
    EventKind.FALL: _fall,
    EventKind.FIGHT: _fight,
    EventKind.INTRUSION: _intrusion,
    EventKind.ABANDONED: _abandoned,
    EventKind.FIRE: _fire,
    EventKind.WRONG_WAY: _wrong_way,
    EventKind.CROWD: _crowd,
}
