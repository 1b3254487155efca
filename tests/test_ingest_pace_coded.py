"""Which frames become stills where keyframes are the cheap ones."""

import random
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.timing.keyframe_intervals import (
    FREQUENT_FACTOR,
    INTERVAL_COUNT,
    MAX_INTERVAL,
    MAX_KEYFRAME_WAIT,
    SELDOM_FACTOR,
    KeyframeIntervals,
)
from ingest.timing.sampler import FrameSampler
from kit.ingest.coded_video import RATE

keyframe_steps = st.integers(1, 27)


def seen_at(
    gop: int, seconds: int, phase: float = 0.0, seed: int = 0, late: float = 0.005
) -> list[tuple[float, bool]]:
    """Return when frames are seen, 25 a second with some jitter, and which are keyframes."""
    draw = random.Random(seed)
    jitter = [draw.uniform(-late, late) for _ in range(seconds * RATE)]
    return [(phase + n / RATE + off, n % gop == 0) for n, off in enumerate(jitter)]


def paced(frames: Sequence[tuple[float, bool]], first: float = 0.0) -> list[tuple[float, bool]]:
    """Return what is kept of them at one still a second; the ticks start at `first`."""
    keyframes = KeyframeIntervals(1.0)
    pace = FrameSampler(1.0, keyframes)
    assert pace.take(first)
    kept = []
    for at, is_keyframe in frames:
        keyframes.observe(at, is_keyframe=is_keyframe)
        if pace.take_coded(at, is_keyframe=is_keyframe):
            kept.append((at, is_keyframe))
    return kept


@given(gop=keyframe_steps, phase=st.floats(0.04, 1.0), seed=st.integers(0, 1000))
def test_frequent_keyframes_make_all_stills(gop: int, phase: float, seed: int) -> None:
    seconds, interval = 100, gop / RATE
    kept = paced(seen_at(gop, seconds, phase, seed))
    measured = phase + (INTERVAL_COUNT + 1) * interval
    assert all(is_keyframe for at, is_keyframe in kept if at > measured)
    steps = [later - earlier for (earlier, _), (later, _) in pairwise(kept) if earlier > measured]
    assert max(steps) <= 1.05 + interval + 0.02
    assert 0.93 * min(1.0, 1 / interval) <= len(steps) / sum(steps) <= 1.07


@given(phase=st.floats(0.04, 1.0), seed=st.integers(0, 1000))
def test_a_keyframe_a_second_is_a_still_a_second_whatever_its_phase(
    phase: float, seed: int
) -> None:
    kept = paced(seen_at(25, 100, phase, seed))
    assert len([at for at, is_keyframe in kept if is_keyframe and at > 12]) >= 87
    assert max(later - earlier for (earlier, _), (later, _) in pairwise(kept)) <= 1.55


@settings(deadline=None)
@given(phase=st.floats(0.04, 1.0), seed=st.integers(0, 1000))
def test_keyframes_that_arrive_with_jitter_are_in_step(phase: float, seed: int) -> None:
    kept = [at for at, _ in paced(sorted(seen_at(25, 100, phase, seed, late=0.045))) if at > 20]
    assert max(later - earlier for earlier, later in pairwise(kept)) <= 1.2


@given(phase=st.floats(0.04, 1.0), seed=st.integers(0, 1000))
def test_ticks_come_to_be_at_keyframes_that_are_two_ticks_apart(phase: float, seed: int) -> None:
    kept = [is_keyframe for at, is_keyframe in paced(seen_at(50, 100, phase, seed)) if at > 6]
    assert 93 <= len(kept) <= 96
    assert 46 <= sum(kept) <= 48


@given(st.lists(st.floats(0.001, 2.0), min_size=1, max_size=300), st.randoms())
def test_without_frequent_keyframes_no_tick_is_lost(
    steps: list[float], draw: random.Random
) -> None:
    at, frames = 0.0, []
    for step in steps:
        at += step
        frames.append((at, draw.random() < 0.02))
    kept = [0.0, *(at for at, _ in paced(frames))]
    instants = [at for at, _ in frames]
    for earlier, later in pairwise([*kept, at + 0.001]):
        between = [each for each in instants if earlier < each < later]
        assert not [each for each in between if each - earlier > 1.6]


def test_keyframes_are_frequent_after_ten_intervals_until_one_is_late() -> None:
    keyframes, often = KeyframeIntervals(1.0), FREQUENT_FACTOR - 0.001
    for second in range(INTERVAL_COUNT):
        keyframes.observe(second * often, is_keyframe=True)
        assert not keyframes.is_frequent
    last = INTERVAL_COUNT * often
    keyframes.observe(last, is_keyframe=True)
    assert keyframes.is_frequent
    keyframes.observe(last + SELDOM_FACTOR - 0.001, is_keyframe=False)
    assert keyframes.is_frequent
    keyframes.observe(last + SELDOM_FACTOR + 0.001, is_keyframe=False)
    assert not keyframes.is_frequent
    for second in range(1, INTERVAL_COUNT + 2):
        keyframes.observe(last + 1 + second, is_keyframe=True)
        assert keyframes.is_frequent == (second == INTERVAL_COUNT + 1)


def test_a_new_connection_is_measured_anew_and_what_was_known_counts_on() -> None:
    keyframes = KeyframeIntervals(1.0)
    for second in range(INTERVAL_COUNT + 1):
        keyframes.observe(float(second), is_keyframe=True)
    assert keyframes.is_frequent
    keyframes.start_connection()
    assert not keyframes.is_frequent
    assert keyframes.longest_wait == 1.0
    keyframes.observe(500.0, is_keyframe=False)
    keyframes.observe(500.5, is_keyframe=True)
    assert keyframes.longest_wait == 1.0
    for second in range(1, INTERVAL_COUNT + 1):
        assert not keyframes.is_frequent
        keyframes.observe(500.5 + second, is_keyframe=True)
    assert keyframes.is_frequent


def test_the_longest_wait_is_also_that_for_a_keyframe_that_never_comes() -> None:
    keyframes = KeyframeIntervals(1.0)
    assert keyframes.longest_wait == 0.0
    for second in range(100):
        keyframes.observe(float(second), is_keyframe=False)
        assert keyframes.longest_wait == min(second, MAX_KEYFRAME_WAIT)
    keyframes.observe(100.0, is_keyframe=True)
    assert keyframes.longest_wait == 0.0
    keyframes.observe(1000.0, is_keyframe=True)
    assert keyframes.longest_wait == MAX_INTERVAL


def full_pace(frames: Sequence[tuple[float, bool]]) -> list[float]:
    """Return what is kept of them where all are decoded."""
    pace = FrameSampler(1.0)
    assert pace.take(0.0)
    return [at for at, _ in frames if pace.take(at)]


def distance(at: float, instants: Sequence[float]) -> float:
    """Return how far the nearest of some instants is."""
    nth = bisect_left(instants, at)
    return min(abs(at - each) for each in instants[max(0, nth - 1) : nth + 1])


HALF_A_TICK = 0.5 + 0.5 / RATE + 0.02
"""In seconds, to the next frame, and with the jitter of `seen_at`."""
SETTLED = 25
"""Seconds, behind which the intervals are measured."""


@settings(deadline=None)
@given(gop=st.integers(1, 120), phase=st.floats(0.04, 1.0), seed=st.integers(0, 1000))
def test_stills_are_within_half_a_tick_of_those_of_full_decoding(
    gop: int, phase: float, seed: int
) -> None:
    """Ticks follow keyframes, but each tick of full decoding keeps a still of its own."""
    frames = seen_at(gop, 100, phase, seed)
    stills, full = [at for at, _ in paced(frames)], full_pace(frames)
    assert max(distance(at, full) for at in stills if at < full[-1]) <= HALF_A_TICK
    settled = SETTLED + INTERVAL_COUNT * gop / RATE
    assert not [at for at in full[:-1] if at > settled and distance(at, stills) > HALF_A_TICK]
    assert max(distance(at, stills) for at in full[:-1]) <= 1.0
