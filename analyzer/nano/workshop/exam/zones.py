"""Whether a model recognises who is inside a zone that is outlined on the stills.

`python -m analyzer.nano.workshop.exam.zones` asks about two zones of each fresh scene: in the last
window one has a person inside and the other is empty. Both show the same people and differ in the
outline alone. It prints the AUC with 95 % bounds (bootstrap over scenes), with the zone outlined
and, as a control, without.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.random import default_rng
from rich.console import Console
from rich.table import Table

from analyzer.kv.arena.arena import AnyChunk
from analyzer.models.loading import load_model
from analyzer.models.messages import WindowRun, WindowToRemember
from analyzer.models.runner import ModelRunner
from analyzer.models.stills.overlay import build_overlay
from analyzer.models.videoxl2.config import STILLS_PER_GROUP
from analyzer.nano.workshop.exam.clips import FRESH_SEEDS, SECONDS, WINDOW, fresh_scenes, stills_of
from analyzer.nano.workshop.exam.measures import auc
from analyzer.nano.workshop.lessons.facts import MIN_VISIBLE_SECONDS
from analyzer.nano.workshop.renderer.camera import ASPECT
from analyzer.nano.workshop.renderer.people import Person
from analyzer.nano.workshop.renderer.places import GroundRectangle, random_zone
from analyzer.nano.workshop.scenes import RenderedScene
from analyzer.zones import Zone, zone_question
from storage.polygons import Point

ASK = "Is anybody inside the zone?"
TRIES, NEAR = 60, 0.3
"""Zones tried per scene; the distance in metres at which a person counts as outside."""
RESAMPLES = 1000
WAYS = ("outlined, its colour in the question", "outlined, the bare question", "no outline")
_ZONE = Zone(name="zone", corners=(), colour="red")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZonePair:
    """A scene with an occupied and an empty zone in the last window."""

    scene: RenderedScene
    entered: Sequence[Point]
    empty: Sequence[Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class AucInterval:
    """An AUC with its 95 % bounds."""

    auc: float
    low: float
    high: float

    @classmethod
    def of(cls, yes: np.ndarray, no: np.ndarray) -> "AucInterval":
        """Return the figure for the margins of each scene's two zones."""
        r = default_rng(0)
        drawn = [r.integers(len(yes), size=len(yes)) for _ in range(RESAMPLES)]
        low, high = np.percentile([_auc(yes[each], no[each]) for each in drawn], (2.5, 97.5))
        return cls(auc=_auc(yes, no), low=float(low), high=float(high))


def zone_pairs(first: int = FRESH_SEEDS) -> Iterator[ZonePair]:
    """Yield scenes without a painted zone in which there are both zones."""
    for scene in fresh_scenes(first):
        pair = zone_pair_of(scene) if scene.place.zone is None else None
        if pair is not None:
            yield pair


def zone_pair_of(scene: RenderedScene) -> ZonePair | None:
    """Return a scene with its two zones, None if it has no such zones."""
    r, feet = default_rng((scene.seed, 21)), feet_of(scene)
    entered: Sequence[Point] | None = None
    empty: Sequence[Point] | None = None
    for _ in range(TRIES):
        zone = random_zone(r, scene.place)
        corners = _corners(scene, zone)
        if corners is None:
            continue
        if _seconds(zone, feet, 0.0) > MIN_VISIBLE_SECONDS:
            entered = entered or corners
        elif not _seconds(zone, feet, NEAR):
            empty = empty or corners
        if entered and empty:
            return ZonePair(scene=scene, entered=entered, empty=empty)
    return None


def feet_of(scene: RenderedScene) -> list[list[tuple[float, float]]]:
    """Return the positions (X, Z) of visible people at each second of the last window."""
    seconds = [float(t) for t in range(SECONDS - WINDOW, SECONDS)]
    present = [[a.at(t) for a in scene.present(t) if isinstance(a, Person)] for t in seconds]
    return [
        [at for at in each if _is_within(*scene.place.camera.picture_point(*at))]
        for each in present
    ]


def margins(
    runner: ModelRunner, jpegs: Sequence[bytes], outlined: Sequence[Zone], asks: Sequence[str]
) -> list[float]:
    """Return the margins at the end of stills with these outlines, read as live video is."""
    config, device = runner.model.config, runner.model.device
    overlay = build_overlay(outlined, config.height, config.width, device)
    chunks, background = list[AnyChunk](), None
    for start in range(0, len(jpegs), WINDOW):
        ((seen,),) = runner.encode(
            [WindowRun([jpegs[start : start + WINDOW]], background, overlay)]
        )
        background = seen.background
        seconds = [float(t) for t in range(start, start + WINDOW, STILLS_PER_GROUP)]
        chunks += runner.prefill([WindowToRemember(seen.tokens_GVE, seconds, list(chunks))])
    return runner.margins(asks, chunks)


def examine(runner: ModelRunner, found: Iterable[ZonePair]) -> dict[str, AucInterval]:
    """Return the figures of the question as the product asks it, without colour, and a control.

    The control shows no outline: its answer is the same for both zones, and its AUC one half.
    """
    margins_of_pairs = np.array(
        [[*_pair_margins(runner, pair)] for pair in found]
    )  # by scene, zone and way to ask
    return {
        way: AucInterval.of(margins_of_pairs[:, 0, nth], margins_of_pairs[:, 1, nth])
        for nth, way in enumerate(WAYS)
    }


def _pair_margins(runner: ModelRunner, pair: ZonePair) -> Iterator[list[float]]:
    """Yield the margins per way to ask, the occupied zone first."""
    jpegs = stills_of(pair.scene)
    asked = zone_question(_ZONE, ASK)
    without = margins(runner, jpegs, (), [asked])
    for corners in (pair.entered, pair.empty):
        shown = replace(_ZONE, corners=corners)
        yield [*margins(runner, jpegs, [shown], [asked, ASK]), *without]


def _auc(yes: np.ndarray, no: np.ndarray) -> float:
    return auc([*yes, *no], [True] * len(yes) + [False] * len(no))


def _corners(scene: RenderedScene, zone: GroundRectangle) -> Sequence[Point] | None:
    """Return the corners as fractions of the picture's sides, None if one is outside."""
    across, along = zone.width / 2, zone.length / 2
    around = ((-across, -along), (-across, along), (across, along), (across, -along))
    spots = [scene.place.camera.picture_point(*zone.at(*corner)) for corner in around]
    return [(x / ASPECT, y) for x, y in spots] if all(_is_within(*spot) for spot in spots) else None


def _is_within(x: float, y: float) -> bool:
    return 0 < x < ASPECT and 0 < y < 1


def _seconds(
    zone: GroundRectangle, feet: Sequence[Sequence[tuple[float, float]]], margin: float
) -> int:
    return sum(
        any(zone.contains(np.array(X), np.array(Z), margin) for X, Z in each) for each in feet
    )


def main() -> None:
    """Print the figures of a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano", help="a name, as in model.name")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--first", type=int, default=FRESH_SEEDS, help="the first seed")
    given = parser.parse_args()
    speaker = load_model(given.model, given.device)
    table = Table(
        "way to ask", "AUC", "95 % bounds", title=f"{given.scenes} scenes, two zones each"
    )
    for way, each in examine(speaker, islice(zone_pairs(given.first), given.scenes)).items():
        table.add_row(way, f"{each.auc:.3f}", f"{each.low:.3f} to {each.high:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
