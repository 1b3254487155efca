"""What a guard would want to know: events, each with the actors that make it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.random import Generator

from analyzer.nano.render.actors import Actor, Span
from analyzer.nano.render.body import Pose
from analyzer.nano.render.camera import ASPECT
from analyzer.nano.render.fires import Fire
from analyzer.nano.render.ordinary import vehicle
from analyzer.nano.render.path import Point
from analyzer.nano.render.people import Looks, Person
from analyzer.nano.render.places import Place
from analyzer.nano.render.routes import apart, clear, stay, visit
from analyzer.nano.render.things import Bag

LOITERED = 20.0
"""Seconds after which staying about one place is loitering."""


class Kind(StrEnum):
    """What may happen that a guard would want to know."""

    LOITERING = "loitering"
    FALL = "fall"
    FIGHT = "fight"
    INTRUSION = "intrusion"
    ABANDONED = "abandoned"
    FIRE = "fire"
    WRONG_WAY = "wrong_way"
    CROWD = "crowd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happened, from when to when it can be seen, and where.

    Times are seconds of the scene, `x` and `y` shares of the picture.
    """

    kind: Kind
    start: float
    end: float
    x: float
    y: float


Made = tuple[list[Actor], Event]


def _event(place: Place, kind: Kind, start: float, end: float, spot: tuple[float, float]) -> Event:
    x, y = place.camera.spot(*spot, 0.5)
    return Event(kind=kind, start=start, end=end, x=float(np.clip(x / ASPECT, 0, 1)), y=y)


def _loitering(r: Generator, place: Place, start: float, end: float) -> Made:
    """Somebody wanders to and fro about one place."""
    spot, came = place.somewhere(r), start - LOITERED
    end = max(end, LOITERED + r.uniform(8, 20))
    middle, t = [(came, *spot)], came
    while t < end:
        pause, reach = r.uniform(2, 8), r.uniform(0.3, 2.0)
        turn = r.uniform(0, 2 * np.pi)
        to = spot[0] + reach * np.sin(turn), spot[1] + reach * np.cos(turn)
        if not clear(place, (middle[-1][1], middle[-1][2]), to, road=True):
            to = (middle[-1][1], middle[-1][2])
        middle.append((t + pause, *middle[-1][1:]))
        t += pause + max(apart(to, (middle[-1][1], middle[-1][2])), 0.1) / r.uniform(0.5, 1.1)
        middle.append((t, *to))
    path = visit(r, place, spot, middle)
    person = Person(path=path, looks=Looks.random(r, place.photographs))
    return [person], _event(place, Kind.LOITERING, max(came, 0) + LOITERED, t, spot)


def _fall(r: Generator, place: Place, start: float, end: float) -> Made:
    spot = place.somewhere(r)
    path = stay(r, place, spot, start, end)
    pose = Span(Pose.LIE, start - 0.1, end)
    person = Person(path=path, looks=Looks.random(r, place.photographs), poses=(pose,))
    return [person], _event(place, Kind.FALL, start + 0.5, end, spot)


def _fight(r: Generator, place: Place, start: float, end: float) -> Made:
    spot, end = place.somewhere(r), min(end, start + r.uniform(7, 16))
    turn, fighters = r.uniform(0, 2 * np.pi), list[Actor]()
    for nth in range(2 if r.random() < 0.75 else 3):
        angle = turn + np.pi * nth + r.normal(0, 0.2)
        middle: list[Point] = []
        for t in np.arange(start, end, 0.45):
            reach = r.uniform(0.2, 0.5)
            X, Z = spot[0] + reach * np.sin(angle), spot[1] + reach * np.cos(angle)
            middle.append((float(t), X + r.normal(0, 0.22), Z + r.normal(0, 0.22)))
        path = visit(r, place, spot, middle)
        fighters.append(
            Person(
                path=path,
                looks=Looks.random(r, place.photographs),
                poses=(Span(Pose.HIT, start, end),),
                faces=angle + np.pi,
            )
        )
    return fighters, _event(place, Kind.FIGHT, start, end, spot)


def _intrusion(r: Generator, place: Place, start: float, end: float) -> Made:
    zone = place.zone
    if zone is None:
        raise ValueError("an intrusion needs a place with a zone")
    inside = [
        zone.at(r.uniform(-0.33, 0.33) * zone.width, r.uniform(-0.33, 0.33) * zone.length)
        for _ in range(4)
    ]
    times = np.linspace(start + 1, end - 1, 4)
    middle = [(float(t), *at) for t, at in zip(times, inside, strict=True)]
    path = visit(r, replace(place, zone=None), inside[0], middle)
    moments = np.arange(path.start, path.end, 0.2)
    at = np.array([path.at(t) for t in moments])
    within = moments[zone.holds(at[:, 0], at[:, 1])]
    first, last = float(within[0]), float(within[-1])
    tell = (Span("intruder", first, last),)
    person = Person(path=path, looks=Looks.random(r, place.photographs), tells=tell)
    return [person], _event(place, Kind.INTRUSION, first, last, inside[1])


def _abandoned(r: Generator, place: Place, start: float, end: float) -> Made:
    """Somebody sets a bag down and goes; at the end somebody takes it."""
    spot, down = place.somewhere(r), start - 3
    bag = spot[0] + r.uniform(0.3, 0.5) * r.choice([-1, 1]), spot[1] + 0.1
    people: list[Actor] = []
    for t, carries in ((down, Span("bag", -np.inf, down)), (end, Span("bag", end, np.inf))):
        pose = Span(Pose.CROUCH, t - 0.7, t + 0.4)
        path = stay(r, place, spot, t - 0.7, t + 0.5)
        looks = Looks.random(r, place.photographs)
        people.append(Person(path=path, looks=looks, poses=(pose,), carries=(carries,)))
    alone = Span("abandoned", start, end - 3)
    left = Bag.random(r, place.photographs, *bag, down, end)
    return [*people, replace(left, alone=alone)], _event(place, Kind.ABANDONED, start, end - 1, bag)


def _fire(r: Generator, place: Place, start: float, end: float) -> Made:
    spot = place.somewhere(r, margin=0.0)
    flames = r.random() < 0.75
    person = place.camera.tall(*spot)
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
    return [fire], _event(place, Kind.FIRE, start, end, spot)


def _wrong_way(r: Generator, place: Place, start: float, end: float) -> Made:
    car = vehicle(r, place, start, lamps=False, against=True)
    xs = [(t, place.camera.spot(*car.at(t))) for t in np.arange(car.start, car.end, 0.25)]
    seen = [t for t, (x, y) in xs if 0 < x < ASPECT and 0 < y < 1.1] or [start]
    middle = car.at((seen[0] + seen[-1]) / 2)
    return [car], _event(place, Kind.WRONG_WAY, float(seen[0]), float(seen[-1]), middle)


def _crowd(r: Generator, place: Place, start: float, end: float) -> Made:
    spot, crowd = place.somewhere(r, edge=0.3), list[Actor]()
    for _ in range(r.integers(7, 14)):
        for _tried in range(20):
            own = tuple(spot + r.normal(0, r.uniform(0.6, 1.5), 2))
            if place.free(np.array([own[0]]), np.array([own[1]])):
                break
        else:
            continue
        path = stay(r, place, own, start + r.uniform(-4, 0.5), end + r.uniform(0, 3))
        tell = (Span("crowd", start, end),)
        pose = (Span(Pose.TALK, start, end),) if r.random() < 0.4 else ()
        looks = Looks.random(r, place.photographs)
        crowd.append(
            Person(path=path, looks=looks, tells=tell, poses=pose, faces=r.uniform(0, 6.3))
        )
    return crowd, _event(place, Kind.CROWD, start + 0.5, end, spot)


MAKERS: dict[Kind, Callable[[Generator, Place, float, float], Made]] = {
    Kind.LOITERING: _loitering,
    Kind.FALL: _fall,
    Kind.FIGHT: _fight,
    Kind.INTRUSION: _intrusion,
    Kind.ABANDONED: _abandoned,
    Kind.FIRE: _fire,
    Kind.WRONG_WAY: _wrong_way,
    Kind.CROWD: _crowd,
}
