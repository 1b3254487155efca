"""Random plans for the simulated camera (`ingest_plan`), each drawn from a seed."""

import random
from collections.abc import Callable
from dataclasses import replace

from ingest_plan import Outage, Pause, Period, Plan, Sent, Slow, Stall, Step, Wall, frames

from ingest.camera import Camera

_WRAP = 2**32 / 90_000
_SETTLES = 10.0
"""Seconds after a stamp that begins anew in which no stamp is exact."""
_MOST_FRAMES = 1500


def wraps(sent: tuple[Sent, ...], chance: random.Random) -> tuple[Sent, ...]:
    """Let 32 bits of a clock of 90 kHz run over."""
    at = chance.uniform(0.1, 0.9) * sent[-1].true
    return tuple(
        replace(
            f, pts=(f.true + _WRAP - at) % _WRAP, is_exact=not at <= f.true < at + _settles(sent)
        )
        for f in sent
    )


def resets(sent: tuple[Sent, ...], chance: random.Random) -> tuple[Sent, ...]:
    """Let the stamps begin anew now and then."""
    every = chance.uniform(3, 60)
    settled = _settles(sent)
    return tuple(
        replace(
            f,
            pts=f.true % every,
            is_exact=every > 30 and (f.true < every or f.true % every > settled),
        )
        for f in sent
    )


def at_a_rate(sent: tuple[Sent, ...], chance: random.Random) -> tuple[Sent, ...]:
    """Let the stamps run slower or faster than time."""
    rate = chance.choice((chance.uniform(0.4, 1.2), 0.4, 0.6, 0.84, 0.98, 1.02, 1.2))
    return tuple(replace(f, pts=f.true * rate, is_exact=False) for f in sent)


def missing(sent: tuple[Sent, ...], chance: random.Random) -> tuple[Sent, ...]:
    """Leave out all stamps, or some of them."""
    share = chance.choice((1.0, 0.5, 0.2, 0.05))
    return tuple(
        replace(f, pts=None, is_exact=False) if chance.random() < share else f for f in sent
    )


def reordered(sent: tuple[Sent, ...], chance: random.Random) -> tuple[Sent, ...]:
    """Stamp each third frame as if it were shown later."""
    by = chance.uniform(1.5, 2.5) * (sent[1].true - sent[0].true)
    return tuple(
        replace(f, pts=f.true + (by if f.number % 3 == 0 else 0.0), is_exact=False) for f in sent
    )


def odd_ones(sent: tuple[Sent, ...], chance: random.Random) -> tuple[Sent, ...]:
    """Stamp single frames far in the past, far ahead, or a few seconds back."""
    by = chance.choice((-1e5, 1e5, -chance.uniform(2, 8), None))
    every = chance.randint(5, 150)
    drawn = (chance.choice((-1e5, 1e5, -5.0)) for _ in sent)
    return tuple(
        replace(f, pts=f.true + (each if by is None else by), is_exact=False)
        if f.number % every == every - 1
        else f
        for f, each in zip(sent, drawn, strict=True)
    )


STAMPS: dict[str, Callable[[tuple[Sent, ...], random.Random], tuple[Sent, ...]]] = {
    "good": lambda sent, _: sent,
    "offset": lambda sent, chance: _shifted(sent, chance.uniform(-1e6, 1e6)),
    "wraps": wraps,
    "resets": resets,
    "at a rate": at_a_rate,
    "equal": lambda sent, _: tuple(replace(f, pts=5.0, is_exact=False) for f in sent),
    "missing": missing,
    "reordered": reordered,
    "odd ones": odd_ones,
    "random": lambda sent, chance: tuple(
        replace(f, pts=chance.uniform(0, 1e6), is_exact=False) for f in sent
    ),
}


def a_plan(seed: int) -> Plan:
    """Draw a plan."""
    chance = random.Random(seed)
    camera = Camera(
        name="dock",
        url="rtsp://10.0.0.21/sub",
        fps=chance.choice((0.2, 0.5, 1.0, 1.0, 2.0, 5.0)),
        stills_per_window=chance.choice((4, 8, 12, 16)),
    )
    rate = _rate(camera, chance)
    window = camera.stills_per_window / camera.fps
    seconds = min(chance.uniform(60, 300), max(60.0, _MOST_FRAMES / rate))
    seconds = max(seconds, 3 * window)
    stamps = chance.choice(("good", *STAMPS))
    sent = frames(seconds, rate, keyframes=chance.choice((1.0, 2.0, 4.0, 10.0)))
    sent = STAMPS[stamps](sent, chance)
    if rate >= 5 and chance.random() < 0.2:
        sent = _with_dynamic_rate(sent, chance)
    return Plan(
        camera=camera,
        seconds=seconds,
        sent=sent,
        stamps=stamps,
        delay=chance.uniform(0.01, 0.2),
        jitter=chance.choice((0.0, 0.02, 0.1)),
        connects_in=chance.uniform(0.05, 1.5),
        burst=chance.random() < 0.3,
        burst_step=chance.choice((0.0, 0.005, 0.02)),
        periods=_periods(seconds, chance),
        host=Wall(drift=chance.uniform(-2e-4, 2e-4), steps=_host_steps(seconds, chance)),
        camera_wall=_camera_wall(seconds, chance),
        seed=seed,
    )


def _shifted(sent: tuple[Sent, ...], by: float) -> tuple[Sent, ...]:
    return tuple(replace(f, pts=f.true + by) for f in sent)


def _settles(sent: tuple[Sent, ...]) -> float:
    return max(_SETTLES, 5 * (sent[1].true - sent[0].true))


def _rate(camera: Camera, chance: random.Random) -> float:
    if camera.fps < 0.5 and chance.random() < 0.5:
        return camera.fps
    rates = (5.0, 5.0, 8.0, 10.0, 10.0, 15.0, 30.0)
    return max(camera.fps, chance.choice(rates))


def _with_dynamic_rate(sent: tuple[Sent, ...], chance: random.Random) -> tuple[Sent, ...]:
    """Leave frames out where nothing moves."""
    pause, every = chance.uniform(0.5, 2.6), chance.uniform(4, 8)
    return tuple(f for f in sent if f.is_key or f.true % every < every - pause)


def _periods(seconds: float, chance: random.Random) -> tuple[Period, ...]:
    """Draw what goes wrong, one after the other."""
    found: list[Period] = []
    at = chance.uniform(5, 60)
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        lasts = chance.uniform(0.2, 40)
        if at + lasts > seconds - 5:
            break
        found.append(_period(at, lasts, chance))
        at = found[-1].end + chance.uniform(2, 60)
    return tuple(found)


def _period(at: float, lasts: float, chance: random.Random) -> Period:
    kind = chance.choice((Stall, Outage, Pause, Slow))
    if kind is Stall:
        return Stall(start=at, end=at + lasts, loses=chance.random() < 0.4)
    if kind is Outage:
        return Outage(start=at, end=at + 1 + 1.5 * lasts, is_told=chance.random() < 0.6)
    if kind is Pause:
        return Pause(
            start=at,
            end=at + lasts,
            kept=chance.uniform(0, 6),
            notices_after=chance.choice((0.0, 0.0, chance.uniform(0, 0.3))),
        )
    return Slow(start=at, end=at + lasts, factor=chance.uniform(1.05, 3.0))


def _host_steps(seconds: float, chance: random.Random) -> tuple[Step, ...]:
    at = chance.uniform(3, seconds - 3)
    kind = chance.choice(("none", "none", "none", "back", "ahead", "and back", "two"))
    if kind == "none":
        return ()
    back, ahead = -(10 ** chance.uniform(0, 3.55)), 10 ** chance.uniform(0, 4.25)
    if kind == "and back":
        return (Step(at=at, by=ahead), Step(at=at + chance.uniform(1, 55), by=-ahead))
    if kind == "two":
        return (Step(at=at, by=back), Step(at=at + chance.uniform(5, 90), by=ahead))
    return (Step(at=at, by=back if kind == "back" else ahead),)


def _camera_wall(seconds: float, chance: random.Random) -> Wall | None:
    if chance.random() < 0.4:
        return None
    steps: tuple[Step, ...] = ()
    if chance.random() < 0.3:
        steps = (Step(at=chance.uniform(0, seconds), by=chance.uniform(-100, 100)),)
    offset = chance.choice((0.0, chance.uniform(-2, 2), chance.uniform(-100, 100)))
    return Wall(offset=offset, drift=chance.uniform(-2e-4, 2e-4), steps=steps)
