from itertools import groupby, pairwise

from hypothesis import given
from hypothesis import strategies as st

from ingest.timing.sampler import FrameSampler

steps = st.lists(st.floats(min_value=0.0, max_value=5.0), min_size=1, max_size=200)


def kept(fps: float, instants: list[float]) -> list[float]:
    pace = FrameSampler(fps)
    return [at for at in instants if pace.take(at)]


def running_sum(steps: list[float]) -> list[float]:
    instants, at = [], 1_000.0
    for step in steps:
        at += step
        instants.append(at)
    return instants


@given(steps)
def test_the_first_frame_of_each_tick_is_kept_and_no_other(steps: list[float]) -> None:
    instants = running_sum(steps)
    first = instants[0]
    ticks = groupby(instants, key=lambda at: (at - first + 0.05) // 1.0)
    assert kept(1.0, instants) == [next(frames) for _, frames in ticks]


@given(steps, st.sampled_from([0.2, 1.0, 4.0, 25.0]))
def test_stills_strictly_increase(steps: list[float], fps: float) -> None:
    stills = kept(fps, running_sum(steps))
    assert all(earlier < later for earlier, later in pairwise(stills))


def test_ten_frames_a_second_give_one_still_a_second() -> None:
    assert kept(1.0, [n / 10 for n in range(50)]) == [0.0, 1.0, 2.0, 3.0, 4.0]


@given(st.lists(st.floats(min_value=-0.02, max_value=0.02), min_size=2, max_size=100))
def test_a_camera_at_the_very_rate_loses_nothing_to_jitter(jitter: list[float]) -> None:
    instants = [n + late for n, late in enumerate(jitter)]
    assert kept(1.0, instants) == instants


@given(st.floats(min_value=1.1, max_value=60.0))
def test_a_slower_camera_loses_nothing(period: float) -> None:
    instants = [n * period for n in range(50)]
    assert kept(1.0, instants) == instants
