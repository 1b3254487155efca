"""Random plans for the simulated camera (`ingest_plan`), each drawn from a seed."""

import random
from collections.abc import Callable
from dataclasses import replace

from ingest.camera import Camera
from kit.simulation.camera_plan import (
    CameraOutage,
    CameraPlan,
    ClockStep,
    FaultPeriod,
    NetworkStall,
    PausedProcess,
    SentFrame,
    SlowMachine,
    WallClock,
    frames,
)

_WRAP = 2**32 / 90_000
_SETTLE_SECONDS = 10.0
"""Seconds after a stamp that begins anew in which no stamp is exact."""
_MAX_FRAMES = 1500


def wraps(sent: tuple[SentFrame, ...], rng: random.Random) -> tuple[SentFrame, ...]:
    """Let 32 bits of a clock of 90 kHz run over."""
    at = rng.uniform(0.1, 0.9) * sent[-1].true_time
    return tuple(
        replace(
            f,
            pts=(f.true_time + _WRAP - at) % _WRAP,
            is_exact=not at <= f.true_time < at + _settle_seconds(sent),
        )
        for f in sent
    )


def resets(sent: tuple[SentFrame, ...], rng: random.Random) -> tuple[SentFrame, ...]:
    """Let the stamps begin anew now and then."""
    every = rng.uniform(3, 60)
    settled = _settle_seconds(sent)
    return tuple(
        replace(
            f,
            pts=f.true_time % every,
            is_exact=every > 30 and (f.true_time < every or f.true_time % every > settled),
        )
        for f in sent
    )


def at_a_rate(sent: tuple[SentFrame, ...], rng: random.Random) -> tuple[SentFrame, ...]:
    """Let the stamps run slower or faster than time."""
    rate = rng.choice((rng.uniform(0.4, 1.2), 0.4, 0.6, 0.84, 0.98, 1.02, 1.2))
    return tuple(replace(f, pts=f.true_time * rate, is_exact=False) for f in sent)


def missing(sent: tuple[SentFrame, ...], rng: random.Random) -> tuple[SentFrame, ...]:
    """Leave out all stamps, or some of them."""
    share = rng.choice((1.0, 0.5, 0.2, 0.05))
    return tuple(replace(f, pts=None, is_exact=False) if rng.random() < share else f for f in sent)


def reordered(sent: tuple[SentFrame, ...], rng: random.Random) -> tuple[SentFrame, ...]:
    """Stamp each third frame as if it were shown later."""
    by = rng.uniform(1.5, 2.5) * (sent[1].true_time - sent[0].true_time)
    return tuple(
        replace(f, pts=f.true_time + (by if f.number % 3 == 0 else 0.0), is_exact=False)
        for f in sent
    )


def outliers(sent: tuple[SentFrame, ...], rng: random.Random) -> tuple[SentFrame, ...]:
    """Stamp single frames far in the past, far ahead, or a few seconds back."""
    by = rng.choice((-1e5, 1e5, -rng.uniform(2, 8), None))
    every = rng.randint(5, 150)
    drawn = (rng.choice((-1e5, 1e5, -5.0)) for _ in sent)
    return tuple(
        replace(f, pts=f.true_time + (each if by is None else by), is_exact=False)
        if f.number % every == every - 1
        else f
        for f, each in zip(sent, drawn, strict=True)
    )


STAMPS: dict[str, Callable[[tuple[SentFrame, ...], random.Random], tuple[SentFrame, ...]]] = {
    "good": lambda sent, _: sent,
    "offset": lambda sent, chance: _shifted(sent, chance.uniform(-1e6, 1e6)),
    "wraps": wraps,
    "resets": resets,
    "at a rate": at_a_rate,
    "equal": lambda sent, _: tuple(replace(f, pts=5.0, is_exact=False) for f in sent),
    "missing": missing,
    "reordered": reordered,
    "odd ones": outliers,
    "random": lambda sent, chance: tuple(
        replace(f, pts=chance.uniform(0, 1e6), is_exact=False) for f in sent
    ),
}


def a_plan(seed: int) -> CameraPlan:
    """Draw a plan."""
    rng = random.Random(seed)
    camera = Camera(
        name="dock",
        url="rtsp://10.0.0.21/sub",
        fps=rng.choice((0.2, 0.5, 1.0, 1.0, 2.0, 5.0)),
        stills_per_window=rng.choice((4, 8, 12, 16)),
    )
    rate = _rate(camera, rng)
    window = camera.stills_per_window / camera.fps
    seconds = min(rng.uniform(60, 300), max(60.0, _MAX_FRAMES / rate))
    seconds = max(seconds, 3 * window)
    stamps = rng.choice(("good", *STAMPS))
    sent = frames(seconds, rate, keyframes=rng.choice((1.0, 2.0, 4.0, 10.0)))
    sent = STAMPS[stamps](sent, rng)
    if rate >= 5 and rng.random() < 0.2:
        sent = _with_dynamic_rate(sent, rng)
    return CameraPlan(
        camera=camera,
        seconds=seconds,
        frames=sent,
        stamps=stamps,
        delay=rng.uniform(0.01, 0.2),
        jitter=rng.choice((0.0, 0.02, 0.1)),
        connect_seconds=rng.uniform(0.05, 1.5),
        burst=rng.random() < 0.3,
        burst_step=rng.choice((0.0, 0.005, 0.02)),
        periods=_periods(seconds, rng),
        host=WallClock(drift=rng.uniform(-2e-4, 2e-4), steps=_host_steps(seconds, rng)),
        camera_wall=_camera_wall(seconds, rng),
        seed=seed,
    )


def _shifted(sent: tuple[SentFrame, ...], by: float) -> tuple[SentFrame, ...]:
    return tuple(replace(f, pts=f.true_time + by) for f in sent)


def _settle_seconds(sent: tuple[SentFrame, ...]) -> float:
    return max(_SETTLE_SECONDS, 5 * (sent[1].true_time - sent[0].true_time))


def _rate(camera: Camera, rng: random.Random) -> float:
    if camera.fps < 0.5 and rng.random() < 0.5:
        return camera.fps
    rates = (5.0, 5.0, 8.0, 10.0, 10.0, 15.0, 30.0)
    return max(camera.fps, rng.choice(rates))


def _with_dynamic_rate(sent: tuple[SentFrame, ...], rng: random.Random) -> tuple[SentFrame, ...]:
    """Leave frames out where nothing moves."""
    pause, every = rng.uniform(0.5, 2.6), rng.uniform(4, 8)
    return tuple(f for f in sent if f.is_key or f.true_time % every < every - pause)


def _periods(seconds: float, rng: random.Random) -> tuple[FaultPeriod, ...]:
    """Draw what goes wrong, one after the other."""
    found: list[FaultPeriod] = []
    at = rng.uniform(5, 60)
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        lasts = rng.uniform(0.2, 40)
        if at + lasts > seconds - 5:
            break
        found.append(_period(at, lasts, rng))
        at = found[-1].end + rng.uniform(2, 60)
    return tuple(found)


def _period(at: float, lasts: float, rng: random.Random) -> FaultPeriod:
    kind = rng.choice((NetworkStall, CameraOutage, PausedProcess, SlowMachine))
    if kind is NetworkStall:
        return NetworkStall(start=at, end=at + lasts, drops_frames=rng.random() < 0.4)
    if kind is CameraOutage:
        return CameraOutage(start=at, end=at + 1 + 1.5 * lasts, is_announced=rng.random() < 0.6)
    if kind is PausedProcess:
        return PausedProcess(
            start=at,
            end=at + lasts,
            buffered_seconds=rng.uniform(0, 6),
            tick_delay=rng.choice((0.0, 0.0, rng.uniform(0, 0.3))),
        )
    return SlowMachine(start=at, end=at + lasts, factor=rng.uniform(1.05, 3.0))


def _host_steps(seconds: float, rng: random.Random) -> tuple[ClockStep, ...]:
    at = rng.uniform(3, seconds - 3)
    kind = rng.choice(("none", "none", "none", "back", "ahead", "and back", "two"))
    if kind == "none":
        return ()
    back, ahead = -(10 ** rng.uniform(0, 3.55)), 10 ** rng.uniform(0, 4.25)
    if kind == "and back":
        return (ClockStep(at=at, by=ahead), ClockStep(at=at + rng.uniform(1, 55), by=-ahead))
    if kind == "two":
        return (ClockStep(at=at, by=back), ClockStep(at=at + rng.uniform(5, 90), by=ahead))
    return (ClockStep(at=at, by=back if kind == "back" else ahead),)


def _camera_wall(seconds: float, rng: random.Random) -> WallClock | None:
    if rng.random() < 0.4:
        return None
    steps: tuple[ClockStep, ...] = ()
    if rng.random() < 0.3:
        steps = (ClockStep(at=rng.uniform(0, seconds), by=rng.uniform(-100, 100)),)
    offset = rng.choice((0.0, rng.uniform(-2, 2), rng.uniform(-100, 100)))
    return WallClock(offset=offset, drift=rng.uniform(-2e-4, 2e-4), steps=steps)
