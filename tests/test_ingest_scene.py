"""Frozen, covered and moved from plain signals, on pictures with the noise of a sensor."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import islice

import numpy as np
import pytest
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from ingest.camera import Mask
from ingest.pictures.masks import hidden_pixels
from ingest.pictures.scene import FROZEN_AFTER, UNUSUAL_AFTER, SceneHealth, SceneSignal
from ingest.pictures.stills import ScaledPicture
from ingest.pictures.view import RELEARNT_AFTER, ViewMonitor
from ingest.timing.keyframe_intervals import KeyframeIntervals
from kit.coverage.claims import START, at, second_of
from storage.records.records import CoverageState

FROZEN, COVERED, MOVED = CoverageState.FROZEN, CoverageState.COVERED, CoverageState.MOVED
NOTHING = {FROZEN: set[float](), COVERED: set[float](), MOVED: set[float]()}
NOISE = np.random.default_rng(7)
SHAPE = (180, 320)
LOOK = timedelta(seconds=10)

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


def turned(view: Picture, right: int, down: int = 0, seed: int = 77) -> Picture:
    """Return what a camera sees that was turned by so many pixels."""
    wide = np.tile(a_view(seed), (3, 3))
    high, long = SHAPE
    wide[high : 2 * high, long : 2 * long] = view
    top, left = high + down, long + right
    return wide[top : top + high, left : left + long].copy()


def noisy_views(view: Picture, noise: float = 2.0) -> Iterator[Picture]:
    """Yield what a sensor makes of a view that does not change."""
    while True:
        yield (view + NOISE.normal(0, noise, view.shape)).astype(np.float32)


def passed(view: Picture, noise: float = 2.0) -> Iterator[Picture]:
    """Yield the same while something large passes again and again."""
    for n, picture in enumerate(noisy_views(view, noise)):
        left = n * 23 % (SHAPE[1] - 90)
        picture[40:150, left : left + 90] = 200 - 10 * (n % 3)
        yield picture


def luma_of(picture: Picture) -> Picture:
    """Return the small luma of a picture as the recorder takes it."""
    frame = VideoFrame.from_ndarray(as_luma(picture).astype(np.uint8), format="gray")
    return ScaledPicture(frame, (frame.width, frame.height)).luma()


def claimed_states(
    *runs: Iterable[Picture], fps: float = 1.0, mask: Mask = ()
) -> dict[CoverageState, set[float]]:
    """Return the seconds that are told as frozen, as covered and as moved."""
    scene = SceneHealth(mask)
    pictures = [picture for run in runs for picture in run]
    found: dict[CoverageState, set[float]] = {FROZEN: set(), COVERED: set(), MOVED: set()}
    for n, picture in enumerate(pictures):
        for signal in scene.observe(at(n / fps), luma_of(picture)):
            found[signal.state] |= seconds_of(signal, n / fps)
    return found


def seconds_of(signal: SceneSignal, until: float) -> set[float]:
    return set(range(int(second_of(signal.since)), int(until) + 1))


def run(pictures: Iterator[Picture], seconds: int) -> list[Picture]:
    return list(islice(pictures, seconds))


@pytest.mark.parametrize("noise", [0.7, 2.0, 8.0])
def test_quiet_place_is_neither_frozen_nor_covered(noise: float) -> None:
    assert claimed_states(run(noisy_views(a_view(), noise), 160)) == NOTHING


def test_busy_place_is_neither_frozen_nor_covered() -> None:
    assert claimed_states(run(passed(a_view()), 160)) == NOTHING


def test_same_picture_for_ever_is_frozen_from_its_second_still_on() -> None:
    stuck = next(noisy_views(a_view()))
    found = claimed_states(run(passed(a_view()), 32), [stuck] * 48, run(passed(a_view()), 32))
    assert found == NOTHING | {FROZEN: set(range(33, 80))}


def test_stuck_camera_whose_encoder_makes_a_few_pictures_in_turn_is_frozen() -> None:
    turns = run(noisy_views(a_view()), 4)
    found = claimed_states(run(passed(a_view()), 32), [turns[n % 4] for n in range(64)])
    assert found[FROZEN] >= set(range(40, 96))


def test_static_place_that_is_new_with_each_keyframe_is_not_frozen() -> None:
    keyframes = run(noisy_views(a_view()), 12)
    assert claimed_states([picture for picture in keyframes for _ in range(10)])[FROZEN] == set()


def test_picture_that_stands_still_for_a_while_is_not_frozen() -> None:
    short = int(FROZEN_AFTER.total_seconds()) - 2
    stuck = next(noisy_views(a_view()))
    assert (
        claimed_states(run(passed(a_view()), 16), [stuck] * short, run(passed(a_view()), 30))[
            FROZEN
        ]
        == set()
    )


@pytest.mark.parametrize(
    "cover",
    [
        np.full(SHAPE, 6, np.float32),
        np.full(SHAPE, 90, np.float32),
        np.tile(np.linspace(60, 140, SHAPE[1], dtype=np.float32), (SHAPE[0], 1)),
    ],
    ids=["lens cap", "hand", "cloth under a lamp"],
)
def test_covered_lens_is_told_from_its_first_still_to_its_last(cover: Picture) -> None:
    found = claimed_states(
        run(passed(a_view()), 48), run(noisy_views(cover), 48), run(passed(a_view()), 32)
    )
    assert found == NOTHING | {COVERED: set(range(48, 96))}


def test_lens_covered_from_the_start_is_told() -> None:
    found = claimed_states(
        run(noisy_views(np.full(SHAPE, 8, np.float32)), 32), run(passed(a_view()), 32)
    )
    assert found[COVERED] == set(range(32))


def test_short_darkness_is_nothing() -> None:
    short = int(UNUSUAL_AFTER.total_seconds()) - 1
    dark = np.full(SHAPE, 4, np.float32)
    assert (
        claimed_states(
            run(passed(a_view()), 32), run(noisy_views(dark), short), run(passed(a_view()), 41)
        )
        == NOTHING
    )


def test_flicker_within_a_covered_time_does_not_end_it() -> None:
    dark = np.full(SHAPE, 4, np.float32)
    glimpse = run(noisy_views(a_view()), 2)
    found = claimed_states(
        run(passed(a_view()), 32), run(noisy_views(dark), 20), glimpse, run(noisy_views(dark), 26)
    )
    assert found[COVERED] == set(range(32, 80))


@pytest.mark.parametrize("new", [a_view(501), turned(a_view(), 40)], ids=["another place", "a bit"])
def test_camera_that_was_turned_is_moved_from_its_first_still_to_its_last(new: Picture) -> None:
    found = claimed_states(
        run(passed(a_view()), 32), run(noisy_views(new), 32), run(passed(a_view()), 16)
    )
    assert found == NOTHING | {MOVED: set(range(32, 64))}


def infrared(view: Picture, seed: int) -> Picture:
    """Return a view by its own lamp: other reflectances, brightest in the middle."""
    draw = np.random.default_rng(seed)
    levels = np.clip(np.linspace(40, 200, 7) + draw.normal(0, 40, 7), 0, 255)
    grey = np.interp(view, np.linspace(0, 255, 7), levels)
    down, across = np.mgrid[-0.5 : 0.5 : SHAPE[0] * 1j, -0.5 : 0.5 : SHAPE[1] * 1j]
    return (grey * np.clip(1.1 - np.hypot(down, across), 0.2, 1)).astype(np.float32)


def rained_on(view: Picture, seed: int) -> Picture:
    draw, rain = np.random.default_rng(seed), view * 0.7 + 40
    for _ in range(300):
        top, left = draw.integers(0, SHAPE[0] - 16), draw.integers(0, SHAPE[1] - 8)
        for n in range(15):
            rain[top + n, left + n // 4 : left + n // 4 + 2] += 60
    return rain


def with_a_lorry(view: Picture, seed: int) -> Picture:
    """Return a view half of which a lorry fills, with edges of its own."""
    draw, lorry = np.random.default_rng(seed), view.copy()
    left = int(draw.integers(0, SHAPE[1] // 2))
    lorry[10:, left : left + SHAPE[1] // 2] = a_view(seed + 900)[10:, : SHAPE[1] // 2]
    return lorry


PLACES = range(16)


def judged(change: Callable[[Picture, int], Picture]) -> Counter[CoverageState | None]:
    """Return what is told of places that change: each looked at twice, with new noise."""
    found = Counter[CoverageState | None]()
    for seed in PLACES:
        view, place = ViewMonitor(), a_view(seed)
        for n, picture in enumerate(run(passed(place), 16)):
            assert view.update(at(n), as_luma(picture)) is None
        picture = change(place, seed)
        found.update(view.update(at(16 + n), as_luma(next(noisy_views(picture)))) for n in range(2))
    return found


def as_luma(picture: Picture) -> Picture:
    return np.clip(picture, 0, 255).astype(np.uint8).astype(np.float32)


@pytest.mark.parametrize(
    "new",
    [
        lambda view, seed: a_view(seed + 500),
        lambda view, seed: turned(view, 40),
        lambda view, seed: turned(view, -60, 30),
        lambda view, seed: turned(view, 10, -50),
        lambda view, seed: view[::-1, ::-1].copy(),
    ],
    ids=["another place", "to the right", "to the left and down", "up", "upside down"],
)
def test_turned_cameras_are_moved(new: Callable[[Picture, int], Picture]) -> None:
    found = judged(new)
    assert found[None] == 0
    assert found[MOVED] >= 0.8 * found.total()


@pytest.mark.parametrize(
    ("other", "well"),
    [
        (infrared, 0.9),
        (rained_on, 1),
        (lambda view, seed: view * 0.3 + 8, 1),
        (lambda view, seed: view * 1.4 + 20, 1),
        (lambda view, seed: view * 0.4 + 110, 1),
        (lambda view, seed: np.roll(view, (2, -3), (0, 1)), 1),
        (with_a_lorry, 0.4),
    ],
    ids=["infrared", "rain", "night", "glare", "fog", "wind", "lorry"],
)
def test_light_weather_and_lorries_turn_no_camera(
    other: Callable[[Picture, int], Picture], well: float
) -> None:
    found = judged(other)
    assert found[MOVED] == 0
    assert found[None] >= well * found.total()


def test_night_by_a_lamp_of_its_own_is_neither_covered_nor_moved() -> None:
    night = run(noisy_views(infrared(a_view(), 1)), 32)
    assert claimed_states(run(passed(a_view()), 32), night, run(passed(a_view()), 16)) == NOTHING


def test_camera_that_is_covered_and_turned_is_one_after_the_other() -> None:
    view, dark = a_view(), np.full(SHAPE, 6, np.float32)
    pictures = (
        (passed(view), 32),
        (noisy_views(dark), 16),
        (noisy_views(a_view(600)), 48),
        (passed(view), 16),
    )
    found = claimed_states(*(run(*each) for each in pictures))
    assert found == NOTHING | {COVERED: set(range(32, 48)), MOVED: set(range(48, 96))}


def test_single_pictures_change_nothing_of_what_is_told() -> None:
    view, new, dark = a_view(), a_view(600), np.full(SHAPE, 6, np.float32)
    mixed = [dark if n % 3 == 1 else picture for n, picture in enumerate(run(noisy_views(new), 48))]
    found = claimed_states(run(passed(view), 32), mixed, run(passed(view), 32))
    assert found == NOTHING | {MOVED: set(range(32, 80))}


def over_time(*pictures: Picture) -> list[list[CoverageState | None]]:
    """Return what is told of each for a little longer than a view is learnt, every 10 s."""
    view, looks = ViewMonitor(), int(RELEARNT_AFTER / LOOK) + 2
    return [
        [
            view.update(START + LOOK * (looks * nth + n), as_luma(each))
            for n, each in enumerate(run(noisy_views(picture), looks))
        ]
        for nth, picture in enumerate(pictures)
    ]


def test_camera_that_was_turned_is_well_once_its_new_view_is_known_and_then_knows_both() -> None:
    before, after, back, again = over_time(a_view(), a_view(5), a_view(), a_view(5))
    assert set(before) == set(back) == set(again) == {None}
    assert after == [MOVED] * (len(after) - 2) + [None] * 2


def test_lorry_that_parks_for_long_and_leaves_leaves_the_usual_view() -> None:
    before, parked, after = over_time(a_view(), with_a_lorry(a_view(), 0), a_view())
    assert set(before) == set(after) == {None}
    assert parked == [COVERED] * (len(parked) - 2) + [None] * 2


def test_clock_that_is_set_back_leaves_a_camera_neither_blind_nor_covered_for_ever() -> None:
    scene, dark, view = SceneHealth(), np.full(SHAPE, 4, np.float32), a_view()
    for n, picture in enumerate(run(passed(view), 32)):
        assert scene.observe(at(n), luma_of(picture)) == ()
    for second, picture, expected in ((-3600, dark, {COVERED}), (-7200, view, set())):
        for n, each in enumerate(run(noisy_views(picture), 16)):
            signals = scene.observe(at(second + n), luma_of(each))
        assert {signal.state for signal in signals} == expected
        assert all(signal.since == at(second) for signal in signals)


def held(interval: int, seconds: int, *, is_stuck: bool = False, begin: int = 0) -> set[float]:
    """Return when a still place is told as frozen whose picture is new at its keyframes alone."""
    scene, keyframes, pictures = SceneHealth(), KeyframeIntervals(1.0), noisy_views(a_view())
    found = set[float]()
    stuck = picture = next(pictures)
    for second in range(begin, begin + seconds):
        is_keyframe = second % interval == 0
        keyframes.observe(float(second), is_keyframe=is_keyframe)
        picture = stuck if is_stuck else next(pictures) if is_keyframe else picture
        for signal in scene.observe(at(second), luma_of(picture), keyframes.longest_wait):
            assert signal.state is FROZEN
            found |= seconds_of(signal, second)
    return found


@pytest.mark.parametrize("interval", [2, 40, 100])
def test_still_place_whose_keyframes_are_far_apart_is_not_frozen(interval: int) -> None:
    assert held(interval, 240) == set()


def test_stream_that_begins_between_two_keyframes_is_not_frozen() -> None:
    assert held(40, 176, begin=17) == set()


@pytest.mark.parametrize(("interval", "after"), [(2, 20), (40, 100)])
def test_stuck_camera_is_frozen_however_far_apart_its_keyframes_are(
    interval: int, after: int
) -> None:
    found = held(interval, 160, is_stuck=True)
    assert found == set(range(1, 160))
    short = held(interval, after // 16 * 16, is_stuck=True)
    assert short == set()


def test_stuck_stream_without_keyframes_is_frozen_all_the_same() -> None:
    assert held(10**6, 160, is_stuck=True) == set(range(1, 160))


def test_one_new_picture_ends_what_was_frozen() -> None:
    view = noisy_views(a_view())
    stuck, new = next(view), next(view)
    found = claimed_states(
        run(passed(a_view()), 32), [stuck] * 40, [new] * 8, run(passed(a_view()), 16)
    )
    assert found == NOTHING | {FROZEN: set(range(33, 72))}


def test_dusk_is_learnt_as_it_comes() -> None:
    view = a_view()
    dusk = [
        (view * (1 - n / 200) + NOISE.normal(0, 2, SHAPE)).astype(np.float32) for n in range(160)
    ]
    assert claimed_states(dusk)[COVERED] == set()


def test_gap_begins_anew_and_keeps_what_is_usual() -> None:
    scene, dark = SceneHealth(), luma_of(np.full(SHAPE, 4, np.float32))
    for n, picture in enumerate(run(passed(a_view()), 32)):
        assert scene.observe(at(n), luma_of(picture)) == ()
    assert not any(scene.observe(at(32 + n), dark) for n in range(7))
    scene.mark_gap()
    looks = [scene.observe(at(39 + n), dark) for n in range(10)]
    assert looks == [()] * 8 + [(SceneSignal(since=at(39), state=COVERED),)] * 2


def test_only_about_one_still_a_second_is_looked_at() -> None:
    scene, dark = SceneHealth(), luma_of(np.full(SHAPE, 4, np.float32))
    claimed_states = [n for n in range(64) if scene.observe(at(n / 4), dark)]
    assert claimed_states == list(range(32, 64, 4))


LEFT: Mask = (((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),)
HIDDEN = hidden_pixels(LEFT, *SHAPE)


def beside(left: Picture, right: Picture) -> Picture:
    """Return a picture of which the mask hides the left."""
    return np.where(HIDDEN, left, right).astype(np.float32)


def test_a_place_beside_a_mask_is_judged_by_itself() -> None:
    black = np.zeros(SHAPE, np.float32)
    assert (
        claimed_states((beside(black, each) for each in run(passed(a_view()), 96)), mask=LEFT)
        == NOTHING
    )


def test_what_moves_behind_a_mask_is_no_new_picture() -> None:
    stuck = next(noisy_views(a_view()))
    pictures = [beside(each, stuck) for each in run(passed(a_view()), 48)]
    assert claimed_states(pictures, mask=LEFT)[FROZEN] == set(range(1, 48))
    assert claimed_states(pictures)[FROZEN] == set()


def test_edges_behind_a_mask_and_its_own_are_none_of_the_view() -> None:
    grey = np.full(SHAPE, 90, np.float32)
    for left in (a_view(), np.zeros(SHAPE, np.float32)):
        pictures = [beside(left, each) for each in run(noisy_views(grey, 0.7), 32)]
        assert claimed_states(pictures, mask=LEFT)[COVERED] == set(range(32))


def test_a_lens_covered_beside_a_bright_mask_is_covered() -> None:
    dark = np.full(SHAPE, 6, np.float32)
    pictures = [*run(passed(a_view()), 32), *run(noisy_views(dark), 32), *run(passed(a_view()), 16)]
    found = claimed_states((beside(a_view(), each) for each in pictures), mask=LEFT)
    assert found == NOTHING | {COVERED: set(range(32, 64))}


def test_a_camera_turned_beside_a_mask_is_moved() -> None:
    pictures = [*run(passed(a_view()), 32), *run(noisy_views(a_view(503)), 32)]
    black = np.zeros(SHAPE, np.float32)
    found = claimed_states((beside(black, each) for each in pictures), mask=LEFT)
    assert found == NOTHING | {MOVED: set(range(32, 64))}


def test_a_picture_that_is_hidden_as_a_whole_says_nothing() -> None:
    whole: Mask = (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),)
    assert claimed_states([next(noisy_views(a_view()))] * 64, mask=whole) == NOTHING


MIDDLE: Mask = (((0.3, 0.2), (0.8, 0.3), (0.6, 0.7)),)


@pytest.mark.parametrize("mask", [LEFT, MIDDLE], ids=["left", "middle"])
@pytest.mark.parametrize("seed", range(2))
def test_a_mask_changes_nothing_of_what_is_judged_of_the_rest(seed: int, mask: Mask) -> None:
    """Whatever is behind the mask: what is told is the same, picture by picture."""
    shown, places = ~hidden_pixels(mask, 90, 160), [a_view(seed), a_view(seed + 300)]
    one, other, draw = ViewMonitor(), ViewMonitor(), np.random.default_rng(seed)
    for n in range(48):
        luma = luma_of((places[n // 24] + NOISE.normal(0, 2, SHAPE)).astype(np.float32))
        scrambled = np.where(shown, luma, draw.integers(0, 256, luma.shape)).astype(np.float32)
        assert one.update(at(n), luma, shown) == other.update(at(n), scrambled, shown)
