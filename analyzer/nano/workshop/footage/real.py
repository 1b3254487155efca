"""Clips of real footage, half of them with an anomaly composited in: for measuring only.

Never train on these clips, and never choose a checkpoint, a threshold or a setting by them: they
are the only footage that no checkpoint is fitted to. No training module may import anything of
`analyzer.nano.workshop.footage`; a test checks it.

The footage is `vtest.avi` (768 x 576, people walking), which Debian ships in `opencv-doc`.
Every clip is a cut of it in place and time, perhaps mirrored, perhaps backwards, dimmed, with
some noise, as JPEGs. Every clip has people cut out of the footage, some with bags, so that
compositing alone reveals nothing. Half of the clips have an event; half of the others and of the
normal ones have a zone on the ground that no one enters.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image

from analyzer.nano.workshop.footage.cutouts import FootageWalk
from analyzer.nano.workshop.footage.cutting import FootageCut, FootageStock
from analyzer.nano.workshop.footage.overlays import (
    Canvas,
    FootageOverlay,
    FootagePerson,
    Trajectory,
)
from analyzer.nano.workshop.footage.props import (
    FootageBag,
    FootageFire,
    in_picture,
    on_ground,
    random_luggage,
)
from analyzer.nano.workshop.renderer.events import EventKind

KINDS = (
    EventKind.LOITERING,
    EventKind.FALL,
    EventKind.INTRUSION,
    EventKind.ABANDONED,
    EventKind.FIRE,
    EventKind.CROWD,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealClip:
    """Stills, one per second; an event is visible for at least the last 12 s."""

    jpegs: tuple[bytes, ...]
    kind: EventKind | None
    zone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositedClip:
    """A cut with the added people and objects, some of which make the event."""

    cut: FootageCut
    kind: EventKind | None
    harmless: tuple[FootageOverlay, ...]
    event: tuple[FootageOverlay, ...]

    @property
    def overlays(self) -> tuple[FootageOverlay, ...]:
        """Return all that was added."""
        return (*self.harmless, *self.event)

    def picture(self, t: float) -> np.ndarray:
        """Return the picture at `t` seconds as uint8 (height, width, 3)."""
        cut = self.cut
        canvas = Canvas.of(cut.stock.footage, cut.still(t), cut.view)
        if cut.zone is not None:
            cut.zone.draw(canvas)
        there = [(overlay.at(t), overlay) for overlay in self.overlays]
        here = [(place[1], overlay) for place, overlay in there if place is not None]
        for _, overlay in sorted(here, key=lambda pair: pair[0]):
            overlay.draw(canvas, t)
        r = default_rng((cut.seed, int(t * 10)))
        noise_HW1 = r.standard_normal((*canvas.feet_HW.shape, 1), np.float32) * cut.noise
        picture = np.clip(canvas.rgb_HW3 * cut.gain + noise_HW1, 0, 255).astype(np.uint8)
        return picture[:, ::-1] if cut.mirrored else picture

    def jpeg(self, t: float) -> bytes:
        """Return the picture at `t` seconds as a camera would send it."""
        file = io.BytesIO()
        Image.fromarray(self.picture(t)).save(file, "JPEG", quality=self.cut.quality)
        return file.getvalue()


def real_clips(video: Path, clips: int, seed: int, *, seconds: int = 48) -> Iterator[RealClip]:
    """Yield clips, half of them with an event; the same for the same seed."""
    for take in composited_clips(FootageStock.load(video), clips, seed, seconds=seconds):
        yield RealClip(
            jpegs=tuple(take.jpeg(t) for t in range(seconds)),
            kind=take.kind,
            zone=take.cut.zone is not None,
        )


def composited_clips(
    stock: FootageStock, clips: int, seed: int, *, seconds: int = 48
) -> Iterator[CompositedClip]:
    """Yield the scripts of the clips."""
    normal = [(None, n % 2 == 0) for n in range(clips - clips // 2)]
    eventful = [(KINDS[n % len(KINDS)], n // len(KINDS) % 2 == 0) for n in range(clips // 2)]
    plan: list[tuple[EventKind | None, bool]] = [*normal, *eventful]
    for n, index in enumerate(default_rng(seed).permutation(len(plan))):
        kind, zone = plan[index]
        r = default_rng((seed, n))
        cut = FootageCut.random(r, stock, seconds, zone=zone or kind is EventKind.INTRUSION)
        many = int(r.integers(2, 4) if kind is None else r.integers(1, 3))
        harmless = tuple(passer_by(r, cut) for _ in range(many))
        event = EVENT_MAKERS[kind](r, cut) if kind is not None else ()
        yield CompositedClip(cut=cut, kind=kind, harmless=harmless, event=event)


def random_tint(r: Generator) -> tuple[float, float, float]:
    """Return the colour shift of an added person."""
    red, green, blue = r.uniform(0.95, 1.2) * r.uniform(0.92, 1.08, 3)
    return float(red), float(green), float(blue)


def passer_by(r: Generator, cut: FootageCut) -> FootagePerson:
    """Return a person who crosses the view, and may stop for seconds or carry a bag."""
    at = float(r.uniform(2, cut.seconds - 4))
    pause = float(r.uniform(3, 6)) if r.random() < 0.35 else 0.1
    tries = [_crossing(r, cut, at, pause) for _ in range(4)]
    _, walk, mirrored, course = min(tries, key=lambda found: found[0])
    return FootagePerson(
        walk=walk,
        trajectory=course,
        mirrored=mirrored,
        tint=random_tint(r),
        bag=random_luggage(r) if r.random() < 0.35 else None,
        turn=float(r.integers(9)),
    )


def _crossing(
    r: Generator, cut: FootageCut, at: float, pause: float
) -> tuple[float, FootageWalk, bool, Trajectory]:
    """Return how odd it would be, and who comes by where."""
    x, y = cut.random_place(r, 0.4)
    walk, mirrored, course = cut.approach(r, x, y, at)
    whole = course.then(cut.straight_trajectory(walk, x, y, at + pause, 1, mirrored=mirrored))
    return cut.oddity(whole) + 9 * (not cut.is_in_view(x, y, 0)), walk, mirrored, whole


def _standing(x: float, y: float, since: float, cut: FootageCut) -> Trajectory:
    return Trajectory(times=(since, cut.seconds + 1.0), xs=(x, x), ys=(y, y))


def fall(r: Generator, cut: FootageCut) -> tuple[FootageOverlay, ...]:
    """A person comes, falls, and lies until the end."""
    at = float(r.uniform(cut.seconds - 24, cut.seconds - 15))
    x, y = cut.find_spot(r, at, cut.seconds, wide=0.6, high=0.5)
    walk, mirrored, course = cut.approach(r, x, y, at)
    return (
        FootagePerson(
            walk=walk,
            trajectory=course.then(_standing(x, y, at + 0.1, cut)),
            mirrored=mirrored,
            tint=random_tint(r),
            falls=at + 0.3,
            turn=float(r.choice((-1, 1)) * r.uniform(80, 100)),
        ),
    )


def loitering(r: Generator, cut: FootageCut) -> tuple[FootageOverlay, ...]:
    """A person walks to and fro about one place for more than 30 s, to the end."""
    at = float(r.uniform(2, max(cut.seconds - 34, 3)))
    x, y = cut.find_spot(r, at, cut.seconds, wide=0.8)
    walk, mirrored, course = cut.approach(r, x, y, at)
    about = _pacing(r, cut, (x, y), 0.8, at + 0.1)
    return (
        FootagePerson(
            walk=walk,
            trajectory=course.then(about),
            mirrored=mirrored,
            tint=random_tint(r),
            sway=0.02,
        ),
    )


def _pacing(
    r: Generator, cut: FootageCut, place: tuple[float, float], reach: float, t: float
) -> Trajectory:
    """Return steps about a place, up to `reach` heights away, with pauses, until the end."""
    (x, y), tall = place, cut.stock.footage.heights.height_at(place[1])
    stops = [(t, x, y)]
    while t <= cut.seconds:
        t += float(r.uniform(1, 5))
        (_, last, depth), there = stops[-1], x + float(r.uniform(-reach, reach)) * tall
        stops.append((t, last, depth))
        t += max(0.5, abs(there - last) / (0.5 * tall))
        stops.append((t, there, y + 0.2 * float(r.uniform(-reach, reach)) * tall))
    times, xs, ys = zip(*stops, strict=True)
    return Trajectory(times=times, xs=xs, ys=ys)


def abandoned(r: Generator, cut: FootageCut) -> tuple[FootageOverlay, ...]:
    """A person carries a bag, sets it down, and leaves without it."""
    at = float(r.uniform(cut.seconds - 29, cut.seconds - 21))
    x, y = cut.find_spot(r, at, cut.seconds, wide=0.4, high=0.5)
    walk, mirrored, course = cut.approach(r, x, y, at)
    away = cut.straight_trajectory(walk, x, y, at + 2, 1, mirrored=mirrored)
    luggage = random_luggage(r)
    owner = FootagePerson(
        walk=walk,
        trajectory=course.then(away),
        mirrored=mirrored,
        tint=random_tint(r),
        bag=luggage,
        carries_until=at + 1,
    )
    beside = x + owner.hand * cut.stock.footage.heights.height_at(y)
    return owner, FootageBag(luggage=luggage, x=beside, y=y, start=at + 1)


def crowd(r: Generator, cut: FootageCut) -> tuple[FootageOverlay, ...]:
    """8 to 12 people come from all sides and stand close together."""
    law, full = cut.stock.footage.heights, float(r.uniform(cut.seconds - 18, cut.seconds - 14))
    x, y = cut.find_spot(r, full - 4, cut.seconds, wide=1.0, high=1.2)
    across, ahead = (float(v) for v in on_ground(law, np.array(x), np.array(y)))
    places: list[tuple[float, float]] = []
    many = int(r.integers(8, 13))
    while len(places) < many:
        dx, dz = float(r.uniform(-0.75, 0.75)), float(r.uniform(-0.7, 0.7))
        if all(np.hypot(dx - px, dz - pz) > 0.27 for px, pz in places):
            places.append((dx, dz))
    people: list[FootagePerson] = []
    for dx, dz in places:
        at, (px, py) = full - float(r.uniform(0, 9)), in_picture(law, across + dx, ahead + dz)
        others = [person.walk for person in people]
        walk, mirrored, course = cut.approach(r, px, py, at, others=others)
        people.append(
            FootagePerson(
                walk=walk,
                trajectory=course.then(_standing(px, py, at + 0.1, cut)),
                mirrored=mirrored,
                tint=random_tint(r),
                turn=float(r.integers(9)),
                sway=0.025,
            )
        )
    return tuple(people)


def intrusion(r: Generator, cut: FootageCut) -> tuple[FootageOverlay, ...]:
    """A person walks into the zone and stays there."""
    zone, law = cut.zone, cut.stock.footage.heights
    if zone is None:
        raise ValueError("there is no zone in this cut")
    at = float(r.uniform(cut.seconds - 18, cut.seconds - 14))
    a, b = (float(r.uniform(-0.35, 0.35)) * half for half in (zone.half_a, zone.half_b))
    x, y = zone.footage_point(law, a, b)
    walk, mirrored, course = cut.approach(r, x, y, at, into_zone=True)
    about = _pacing(r, cut, (x, y), 0.3 * min(zone.half_a, zone.half_b), at + 0.1)
    return (
        FootagePerson(
            walk=walk,
            trajectory=course.then(about),
            mirrored=mirrored,
            tint=random_tint(r),
            sway=0.02,
        ),
    )


def fire(r: Generator, cut: FootageCut) -> tuple[FootageOverlay, ...]:
    """A fire burns."""
    at = float(r.uniform(cut.seconds - 30, cut.seconds - 15))
    x, y = cut.find_spot(r, at, cut.seconds, wide=0.5, high=1.2)
    return (
        FootageFire(
            x=x,
            y=y,
            start=at,
            size=float(r.uniform(0.6, 1.2)),
            grows=float(r.uniform(6, 14)),
            wind=float(r.uniform(-0.6, 0.6)),
            glare=max(1.0, cut.gain**-0.8),
            seed=int(r.integers(1 << 30)),
        ),
    )


EVENT_MAKERS: dict[EventKind, Callable[[Generator, FootageCut], tuple[FootageOverlay, ...]]] = {
    EventKind.LOITERING: loitering,
    EventKind.FALL: fall,
    EventKind.INTRUSION: intrusion,
    EventKind.ABANDONED: abandoned,
    EventKind.FIRE: fire,
    EventKind.CROWD: crowd,
}
