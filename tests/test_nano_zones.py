"""The exam of zones: in each scene a zone with somebody inside and one with nobody."""

from itertools import islice

import numpy as np
import pytest

from analyzer.nano.workshop.exam.zones import AucInterval, ZonePair, feet_of, margins, zone_pairs
from analyzer.nano.workshop.renderer.camera import ASPECT
from analyzer.zones import zones_of
from kit.model.small_model import small_runner, window
from storage.polygons import Point, check_polygon


@pytest.fixture(scope="module")
def found() -> list[ZonePair]:
    return list(islice(zone_pairs(), 6))


def holds(corners: tuple[Point, ...], x: float, y: float) -> bool:
    """Return whether a point is inside a polygon: a ray from it crosses an odd number of sides."""
    inside = False
    for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        if (y0 > y) is not (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            inside = not inside
    return inside


def seconds_inside(pair: ZonePair, corners: tuple[Point, ...]) -> int:
    spot = pair.scene.place.camera.picture_point
    return sum(
        any(holds(corners, x / ASPECT, y) for x, y in (spot(*at) for at in each))
        for each in feet_of(pair.scene)
    )


def test_one_zone_of_a_pair_has_somebody_inside_and_the_other_nobody(found: list[ZonePair]) -> None:
    for pair in found:
        entered, empty = (check_polygon(tuple(each)) for each in (pair.entered, pair.empty))
        assert seconds_inside(pair, entered) >= 3
        assert seconds_inside(pair, empty) == 0
        assert any(feet_of(pair.scene)), "both zones show the same people"


def test_figure_is_the_share_of_true_ones_above_false_ones() -> None:
    some = np.linspace(0, 1, 40)
    assert AucInterval.of(some + 2, some) == AucInterval(auc=1.0, low=1.0, high=1.0)
    mixed = AucInterval.of(some + 0.2, some)
    assert mixed.low < mixed.auc < mixed.high
    assert AucInterval.of(some, some).auc == 0.5


def test_outline_changes_what_a_model_says_and_none_changes_nothing() -> None:
    runner, stills = small_runner(), [still.jpeg for still in window(stills=32).stills]
    (zone,) = zones_of({"yard": ((0.2, 0.2), (0.8, 0.2), (0.8, 0.8))})
    ask = ["Is anybody inside the zone?"]
    assert margins(runner, stills, (), ask) == margins(runner, stills, (), ask)
    outlined = margins(runner, stills, [zone], ask)
    assert outlined != pytest.approx(margins(runner, stills, (), ask), abs=1e-3)
