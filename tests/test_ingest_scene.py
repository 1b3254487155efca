"""Frozen and covered from plain signals, on pictures with the noise of a sensor."""

import io
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pytest
from coverage_fixtures import at, second_of
from numpy.typing import NDArray
from PIL import Image

from ingest.scene import COVERED_AFTER, FROZEN_AFTER, RELEARNT_AFTER, Scene
from storage.records import Clock, ClockSource, CoverageState, Still, Window

FROZEN, COVERED = CoverageState.FROZEN, CoverageState.COVERED
CLOCK = Clock(source=ClockSource.RECEIVED, offset=0.0)
NOISE = np.random.default_rng(7)
SHAPE = (180, 320)

Picture = NDArray[np.float32]


def a_view(seed: int = 1) -> Picture:
    """Return a place with walls and things in it."""
    draw = np.random.default_rng(seed)
    view = np.full(SHAPE, 110, np.float32)
    for _ in range(25):
        top, left = draw.integers(0, SHAPE[0] - 30), draw.integers(0, SHAPE[1] - 40)
        view[top : top + draw.integers(10, 60), left : left + draw.integers(10, 90)] = (
            draw.integers(30, 220)
        )
    return view


def seen(view: Picture, noise: float = 2.0) -> Iterator[Picture]:
    """Yield what a sensor makes of a view that does not change."""
    while True:
        yield view + NOISE.normal(0, noise, view.shape)


def passed(view: Picture, noise: float = 2.0) -> Iterator[Picture]:
    """Yield the same while something large passes again and again."""
    for n, picture in enumerate(seen(view, noise)):
        left = n * 23 % (SHAPE[1] - 90)
        picture[40:150, left : left + 90] = 200 - 10 * (n % 3)
        yield picture


def windows(pictures: Iterable[Picture], fps: float = 1.0, size: int = 16) -> Iterator[Window]:
    """Make windows of a run of pictures; what is left over is left out."""
    stills = [a_still(n / fps, picture) for n, picture in enumerate(pictures)]
    for first in range(0, len(stills) - size + 1, size):
        part = tuple(stills[first : first + size])
        yield Window(camera="dock", stills=part, clock=CLOCK, after_gap=first == 0)


def a_still(second: float, picture: Picture) -> Still:
    jpeg = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(jpeg, "JPEG", quality=85)
    return Still(at=at(second), jpeg=jpeg.getvalue(), width=SHAPE[1], height=SHAPE[0])


def told(*runs: Iterable[Picture], fps: float = 1.0) -> dict[CoverageState, set[float]]:
    """Return the seconds that are told as frozen and as covered."""
    scene = Scene()
    pictures = [picture for run in runs for picture in run]
    found: dict[CoverageState, set[float]] = {FROZEN: set(), COVERED: set()}
    for window in windows(pictures, fps):
        for span, state in scene.look(window):
            seconds = range(int(second_of(span.start)), int(second_of(span.end)))
            found[state] |= set(seconds)
    return found


def run(pictures: Iterator[Picture], seconds: int) -> list[Picture]:
    return list(islice(pictures, seconds))


@pytest.mark.parametrize("noise", [0.7, 2.0, 8.0])
def test_quiet_place_is_neither_frozen_nor_covered(noise: float) -> None:
    assert told(run(seen(a_view(), noise), 160)) == {FROZEN: set(), COVERED: set()}


def test_busy_place_is_neither_frozen_nor_covered() -> None:
    assert told(run(passed(a_view()), 160)) == {FROZEN: set(), COVERED: set()}


def test_same_picture_for_ever_is_frozen_from_its_second_still_on() -> None:
    stuck = next(seen(a_view()))
    found = told(run(passed(a_view()), 32), [stuck] * 48, run(passed(a_view()), 32))
    assert found == {FROZEN: set(range(33, 80)), COVERED: set()}


def test_stuck_camera_whose_encoder_makes_a_few_pictures_in_turn_is_frozen() -> None:
    turns = run(seen(a_view()), 4)
    found = told(run(passed(a_view()), 32), [turns[n % 4] for n in range(64)])
    assert found[FROZEN] >= set(range(40, 96))


def test_static_place_that_is_new_with_each_keyframe_is_not_frozen() -> None:
    keyframes = run(seen(a_view()), 12)
    assert told([picture for picture in keyframes for _ in range(10)])[FROZEN] == set()


def test_picture_that_stands_still_for_a_while_is_not_frozen() -> None:
    short = int(FROZEN_AFTER.total_seconds()) - 2
    stuck = next(seen(a_view()))
    assert (
        told(run(passed(a_view()), 16), [stuck] * short, run(passed(a_view()), 30))[FROZEN] == set()
    )


@pytest.mark.parametrize(
    "cover",
    [
        np.full(SHAPE, 6, np.float32),
        np.full(SHAPE, 90, np.float32),
        np.tile(np.linspace(60, 140, SHAPE[1], dtype=np.float32), (SHAPE[0], 1)),
        a_view(99),
    ],
    ids=["lens cap", "hand", "cloth under a lamp", "another view"],
)
def test_covered_lens_is_told_from_its_first_still_to_its_last(cover: Picture) -> None:
    found = told(run(passed(a_view()), 48), run(seen(cover), 48), run(passed(a_view()), 32))
    assert found == {FROZEN: set(), COVERED: set(range(48, 96))}


def test_lens_covered_from_the_start_is_told() -> None:
    found = told(run(seen(np.full(SHAPE, 8, np.float32)), 32), run(passed(a_view()), 32))
    assert found[COVERED] == set(range(32))


def test_short_darkness_is_nothing() -> None:
    short = int(COVERED_AFTER.total_seconds()) - 1
    dark = np.full(SHAPE, 4, np.float32)
    assert told(run(passed(a_view()), 32), run(seen(dark), short), run(passed(a_view()), 41)) == {
        FROZEN: set(),
        COVERED: set(),
    }


def test_flicker_within_a_covered_time_does_not_end_it() -> None:
    dark = np.full(SHAPE, 4, np.float32)
    glimpse = run(seen(a_view()), 2)
    found = told(run(passed(a_view()), 32), run(seen(dark), 20), glimpse, run(seen(dark), 26))
    assert found[COVERED] == set(range(32, 80))


def test_camera_that_was_turned_is_well_once_its_new_view_is_known() -> None:
    lasts = int(RELEARNT_AFTER.total_seconds())
    found = told(run(passed(a_view()), 32), run(passed(a_view(5)), lasts + 64))
    assert set(range(40, lasts)) <= found[COVERED]
    assert max(found[COVERED]) <= 32 + lasts + 1


def test_dusk_is_learnt_as_it_comes() -> None:
    view = a_view()
    dusk = [view * (1 - n / 200) + NOISE.normal(0, 2, SHAPE) for n in range(160)]
    assert told(dusk)[COVERED] == set()


def test_gap_begins_anew_and_keeps_what_is_usual() -> None:
    scene, dark = Scene(), np.full(SHAPE, 4, np.float32)
    for window in windows(run(passed(a_view()), 32)):
        assert scene.look(window) == []
    stills = tuple(a_still(100 + n, dark) for n in range(16))
    gap = Window(camera="dock", stills=stills, clock=CLOCK, after_gap=True)
    ((span, state),) = scene.look(gap)
    assert (span.start, state) == (at(100), COVERED)


def test_only_about_one_still_a_second_is_looked_at() -> None:
    looked = told(run(passed(a_view()), 64), run(seen(np.full(SHAPE, 4, np.float32)), 64), fps=4.0)
    assert looked[COVERED] == set(range(16, 31))
