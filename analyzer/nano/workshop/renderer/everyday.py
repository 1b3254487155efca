"""Ordinary activity: people pass by, talk, sit, set bags down for a while, or drive through."""

import numpy as np
from numpy.random import Generator

from analyzer.nano.workshop.renderer.actors import SceneActor, TimedLabel
from analyzer.nano.workshop.renderer.body import Pose
from analyzer.nano.workshop.renderer.camera import ASPECT
from analyzer.nano.workshop.renderer.path import Path, TimedPoint
from analyzer.nano.workshop.renderer.people import Appearance, Person
from analyzer.nano.workshop.renderer.places import GroundRectangle, ScenePlace
from analyzer.nano.workshop.renderer.routes import (
    distance,
    is_clear,
    random_edge_point,
    staying_path,
)
from analyzer.nano.workshop.renderer.things import Bag, Vehicle


def walkers(r: Generator, place: ScenePlace, start: float) -> list[SceneActor]:
    """Return one to four people who cross the picture side by side."""
    path, speed = None, r.uniform(2.4, 4.2) if r.random() < 0.14 else r.uniform(0.8, 1.7)
    for tried in range(30):
        a, b = random_edge_point(r, place), random_edge_point(r, place)
        if distance(a, b) > 2 and is_clear(place, a, b, road=tried > 15 or r.random() < 0.2):
            legs: list[TimedPoint] = [(start, *a), (start + distance(a, b) / speed, *b)]
            path = Path.through(_paused(r, legs) if r.random() < 0.3 else legs)
            break
    if path is None:
        return []
    many = int(r.choice([1, 2, 3, 4], p=[0.72, 0.18, 0.06, 0.04]))
    people: list[SceneActor] = []
    for nth in range(many):
        cos, sin = np.cos(path.headings[0]), np.sin(path.headings[0])
        beside = path.beside(*(r.normal(0, 0.12, 2) + 0.65 * nth * np.array([cos, -sin])))
        if place.zone is not None and _crosses(beside, place.zone):
            continue
        always = (TimedLabel("bag", -np.inf, np.inf),) if r.random() < 0.3 else ()
        people.append(
            Person(path=beside, appearance=Appearance.random(r, place.photographs), carries=always)
        )
    return people


def _crosses(path: Path, zone: GroundRectangle) -> bool:
    at = np.array([path.at(t) for t in np.linspace(path.start, path.end, 40)])
    return bool(zone.contains(at[:, 0], at[:, 1], 0.3).any())


def _paused(r: Generator, legs: list[TimedPoint]) -> list[TimedPoint]:
    (t0, *a), (t1, *b) = legs
    at, pause = r.uniform(0.25, 0.75), r.uniform(1, 9)
    X, Z = (p + (q - p) * at for p, q in zip(a, b, strict=True))
    stop = t0 + (t1 - t0) * at
    return [legs[0], (stop, X, Z), (stop + pause, X, Z), (t1 + pause, *legs[1][1:])]


def meeting(r: Generator, place: ScenePlace, start: float) -> list[SceneActor]:
    """Return two people who stop to talk and part again."""
    spot, end = place.random_point(r), start + r.uniform(4, 13)
    turn, gap = r.uniform(0, 2 * np.pi), r.uniform(0.3, 0.6)
    pair: list[SceneActor] = []
    for sign in (-1, 1):
        own = (spot[0] + sign * gap * np.sin(turn), spot[1] + sign * gap * np.cos(turn))
        path = staying_path(r, place, own, start + r.uniform(-1, 1), end + r.uniform(0, 1))
        faces = turn if sign < 0 else turn + np.pi
        poses = (TimedLabel(Pose.TALK, start, end),)
        pair.append(
            Person(
                path=path,
                appearance=Appearance.random(r, place.photographs),
                poses=poses,
                facing=faces,
            )
        )
    return pair


def sitting(r: Generator, place: ScenePlace, start: float) -> list[SceneActor]:
    """Return a person who sits on a bench for a while, or crouches to tie a shoe."""
    looks = Appearance.random(r, place.photographs)
    if place.seats and r.random() < 0.7:
        X, Z, heading = place.seats[r.integers(len(place.seats))]
        end = start + r.uniform(6, 14)
        path = staying_path(r, place, (X, Z), start - 1, end + 1)
        pose = TimedLabel(Pose.SIT, start, end)
        return [Person(path=path, appearance=looks, poses=(pose,), facing=heading, seat=0.5)]
    end = start + r.uniform(2, 6)
    path = staying_path(r, place, place.random_point(r), start - 0.7, end + 0.7)
    return [Person(path=path, appearance=looks, poses=(TimedLabel(Pose.CROUCH, start, end),))]


def luggage(r: Generator, place: ScenePlace, start: float) -> list[SceneActor]:
    """Return a person who sets a bag down, waits beside it, and takes it again."""
    spot, end = place.random_point(r), start + r.uniform(3, 11)
    path = staying_path(r, place, spot, start - 1, end + 1)
    looks = Appearance.random(r, place.photographs)
    carries = (TimedLabel("bag", -np.inf, start), TimedLabel("bag", end, np.inf))
    poses = (
        TimedLabel(Pose.CROUCH, start - 0.6, start + 0.4),
        TimedLabel(Pose.CROUCH, end - 0.5, end + 0.5),
    )
    beside = spot[0] + r.uniform(0.35, 0.7) * r.choice([-1, 1]), spot[1] + r.uniform(-0.3, 0.3)
    bag = Bag.random(r, place.photographs, *beside, start, end)
    return [Person(path=path, appearance=looks, carries=carries, poses=poses), bag]


def vehicle(
    r: Generator, place: ScenePlace, start: float, *, lamps: bool, against: bool = False
) -> Vehicle:
    """Return a vehicle along the road, which may stop for a while."""
    road = place.road
    if road is None:
        raise ValueError("a vehicle needs a place with a road")
    along = np.linspace(-45, 45, 181)
    seen = []
    for s in along:
        X, Z = road.at(0.0, float(s))
        x, y = place.camera.picture_point(X, Z)
        if -0.05 < x < ASPECT + 0.05 and Z > 1 and y < 1.1:
            seen.append(float(s))
    first, last = (min(seen) - 6, max(seen) + 6) if seen else (-20.0, 20.0)
    first = max(first, -45.0)
    speed, side = max(last - first - 12, 3) / r.uniform(3.5, 10), r.normal(0, 0.25)
    a, b = road.at(side, first), road.at(side, last)
    if against:
        a, b = b, a
    legs: list[TimedPoint] = [(start, *a), (start + (last - first) / speed, *b)]
    path = Path.through(_paused(r, legs) if r.random() < 0.2 else legs)
    return Vehicle.random(r, path, against=against, lamps=lamps)
