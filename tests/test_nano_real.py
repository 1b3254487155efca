"""Clips of real footage: what is in them, and that nothing is taught from them."""

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng

from analyzer.nano.workshop.footage.cutting import FootageCut, FootageStock, hull
from analyzer.nano.workshop.footage.overlays import FootageCrop
from analyzer.nano.workshop.footage.props import random_zone
from analyzer.nano.workshop.footage.real import (
    EVENT_MAKERS,
    KINDS,
    CompositedClip,
    composited_clips,
    passer_by,
    real_clips,
)
from analyzer.nano.workshop.footage.street import HeightModel, label
from analyzer.nano.workshop.renderer.events import EventKind

ROOT = Path(__file__).parents[1]
VIDEO = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
SECONDS = 48
MISSING = "vtest.avi of Debian's opencv-doc is not installed"


@pytest.fixture(scope="module")
def stock() -> FootageStock:
    return FootageStock.load(VIDEO)


def on_footage(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that takes the footage apart, which takes some seconds."""
    return pytest.mark.slow(pytest.mark.skipif(not VIDEO.exists(), reason=MISSING)(test))


def modules(start: str) -> set[str]:
    """Return the modules of analyzer that a module imports, directly or through others."""
    found: set[str] = set()
    assert (ROOT / (start.replace(".", "/") + ".py")).exists()
    left = [start]
    while left:
        name = left.pop()
        path = ROOT / (name.replace(".", "/") + ".py")
        if name in found or not name.startswith("analyzer.") or not path.exists():
            continue
        found.add(name)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                left += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                left += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def test_nothing_that_teaches_can_reach_real_footage() -> None:
    taught = modules("analyzer.nano.workshop.school.train") | modules(
        "analyzer.nano.workshop.school.batches"
    )
    real = {
        f"analyzer.nano.workshop.footage.{name}"
        for name in ("real", "cutting", "street", "cutouts", "overlays", "props")
    }
    assert "analyzer.nano.workshop.scenes" in taught
    assert real <= modules("analyzer.nano.workshop.footage.real")
    assert not taught & real


def test_connected_pixels_are_numbered_alike_and_others_not() -> None:
    rows = ["##..#", ".#..#", ".####", ".....", "#..##"]
    labels = label(np.array([[c == "#" for c in row] for row in rows]))
    assert labels[0, 0] == labels[2, 4] == labels[0, 4] > 0
    assert len({labels[0, 0], labels[4, 0], labels[4, 4], 0}) == 4
    assert (labels > 0).sum() == 12


def test_hull_leaves_out_what_is_inside() -> None:
    square = np.array([(0, 0), (4, 0), (4, 4), (0, 4), (2, 2), (1, 3)])
    assert set(hull(square)) == {(0, 0), (4, 0), (4, 4), (0, 4)}


def test_zone_lies_in_perspective_about_its_place() -> None:
    law, view = HeightModel(slope=0.25, horizon=-40), FootageCrop(left=0, top=0, width=576)
    zone = replace(random_zone(default_rng(1), 200, 300), angle=0.0, half_a=1.0, half_b=1.5)
    near = zone.footage_point(law, 1, -1.5)[0] - zone.footage_point(law, -1, -1.5)[0]
    far = zone.footage_point(law, 1, 1.5)[0] - zone.footage_point(law, -1, 1.5)[0]
    assert near > far > 0
    for a, b in ((0.9, 1.4), (-0.9, -1.4)):
        x, y = zone.footage_point(law, a, b)
        assert zone.contains(law, np.array(x), np.array(y))
        assert not zone.contains(law, np.array(x), np.array(y), -0.2)
    alpha = zone.alpha(law, view)
    v, u = np.nonzero(alpha > 0.05)
    assert zone.contains(law, (u + 0.5) / view.scale, (v + 0.5) / view.scale, 0.1).all()


def staged(stock: FootageStock, kind: EventKind | None, seed: int) -> CompositedClip:
    r = default_rng(seed)
    cut = FootageCut.random(r, stock, SECONDS, zone=kind is EventKind.INTRUSION)
    event = EVENT_MAKERS[kind](r, cut) if kind is not None else ()
    return CompositedClip(cut=cut, kind=kind, harmless=(passer_by(r, cut),), event=event)


@on_footage
def test_clips_are_a_function_of_their_seed(stock: FootageStock) -> None:
    (clip, _) = real_clips(VIDEO, 2, 5)
    (same, _), (other, _) = composited_clips(stock, 2, 5), composited_clips(stock, 2, 6)
    assert len(clip.jpegs) == SECONDS
    for t in (0, 30, SECONDS - 1):
        assert clip.jpegs[t] == same.jpeg(t) != other.jpeg(t)


@on_footage
def test_half_of_the_clips_have_an_event_and_each_kind_occurs(stock: FootageStock) -> None:
    clips = list(composited_clips(stock, 48, 1))
    kinds = [take.kind for take in clips]
    assert kinds.count(None) == 24
    assert all(kinds.count(kind) == 4 for kind in KINDS)


@on_footage
def test_zone_stands_in_normal_clips_and_those_of_other_events_as_well(stock: FootageStock) -> None:
    clips = list(composited_clips(stock, 48, 2))
    marked = [take.kind for take in clips if take.cut.zone is not None]
    assert marked.count(None) == 12
    assert marked.count(EventKind.INTRUSION) == 4
    assert all(marked.count(kind) == 2 for kind in KINDS if kind is not EventKind.INTRUSION)


@on_footage
def test_nobody_but_an_intruder_sets_a_foot_into_the_zone(stock: FootageStock) -> None:
    law = stock.footage.heights
    for take in (take for take in composited_clips(stock, 24, 3) if take.cut.zone is not None):
        zone, cut = take.cut.zone, take.cut
        assert zone is not None
        stills = {cut.still(t) for t in range(SECONDS)}
        people = [blob.foot for n in stills for blob in stock.footage.unoccluded(n)]
        for overlay in take.harmless if take.kind is EventKind.INTRUSION else take.overlays:
            people += [place for t in range(SECONDS) if (place := overlay.at(t)) is not None]
        assert not zone.contains(law, *np.array(people).T).any()
        if take.kind is EventKind.INTRUSION:
            last = [take.event[0].at(t) for t in range(SECONDS - 12, SECONDS)]
            assert zone.contains(law, *np.array(last).T).all()


@on_footage
@pytest.mark.parametrize("kind", KINDS)
def test_event_shows_through_the_last_twelve_seconds_and_not_before_it_comes(
    stock: FootageStock, kind: EventKind
) -> None:
    for seed in range(3):
        take = staged(stock, kind, seed)
        without = replace(take, event=())
        for t in range(SECONDS - 12, SECONDS, 3):
            changed = take.picture(t) != without.picture(t)
            assert changed.any(axis=-1).sum() > 40
        early = range(0, SECONDS - 12, 4)
        before = [t for t in early if all(overlay.at(t) is None for overlay in take.event)]
        assert before or kind is not EventKind.FIRE
        for t in before:
            assert np.array_equal(take.picture(t), without.picture(t))


@on_footage
def test_people_come_cut_out_whole_and_as_tall_as_their_place_asks(stock: FootageStock) -> None:
    law = stock.footage.heights
    assert len(stock.walks) > 20
    for walk in stock.walks:
        assert len(walk.cutouts) >= 5
        assert 0.1 < walk.standing.slim < 0.6
    alone = [blob for n in range(len(stock.footage.stills)) for blob in stock.footage.unoccluded(n)]
    ratios = [blob.height / law.height_at(blob.foot[1]) for blob in alone]
    assert abs(np.median(ratios) - 1) < 0.03
