from itertools import pairwise

import pytest

from ingest.files.timeline import MAX_PAUSE, FileTime, TimeBreak

START = 1000.0
PERIOD = 0.1


def placed(
    stamps: list[float | None], begins: float | None = None
) -> tuple[list[float], dict[int, TimeBreak]]:
    """Return when each picture was recorded, after START, and where time broke and how."""
    time, at, broke = FileTime(START, PERIOD, begins), list[float](), dict[int, TimeBreak]()
    for nth, stamp in enumerate(stamps):
        following = stamps[nth + 1] if nth + 1 < len(stamps) else None
        one = time.stamp(stamp, next_pts=following)
        at.append(round(one.at - START, 3))
        if one.time_break is not None:
            broke[nth] = one.time_break
    return at, broke


def run(begin: float, count: int = 10, step: float = PERIOD) -> list[float | None]:
    return [round(begin + nth * step, 3) for nth in range(count)]


def test_timestamps_count_from_the_first_picture() -> None:
    at, broke = placed(run(700.0))
    assert at == run(0.0)
    assert not broke


def test_a_picture_that_comes_after_the_sound_keeps_its_distance() -> None:
    assert placed(run(705.0), begins=700.0)[0] == run(5.0)
    assert placed(run(705.0), begins=-MAX_PAUSE)[0] == run(0.0)
    assert placed(run(705.0), begins=706.0)[0] == run(0.0)


@pytest.mark.parametrize("length", [5.0, 3600.0, MAX_PAUSE - 1])
def test_a_pause_has_a_length(length: float) -> None:
    at, broke = placed(run(0.0) + run(0.9 + length))
    assert at[10] == pytest.approx(0.9 + length)
    assert broke == {10: TimeBreak.PAUSE}


@pytest.mark.parametrize("length", [MAX_PAUSE + 1, 2**32 / 90_000, 25 * 3600.0, -5.0, -1e6])
def test_what_jumps_back_or_too_far_ahead_follows_the_last_picture(length: float) -> None:
    at, broke = placed(run(0.0) + run(0.9 + length))
    assert at == run(0.0, 20)
    assert broke == {10: TimeBreak.JOIN}


@pytest.mark.parametrize("odd", [-100.0, 60.0, 25 * 3600.0, 3.5])
def test_a_single_odd_timestamp_moves_nothing(odd: float) -> None:
    stamps = run(0.0, 20)
    stamps[10] = odd
    at, broke = placed(stamps)
    assert not broke
    assert at == pytest.approx(run(0.0, 20), abs=0.01)


def test_the_long_steps_of_a_slow_camera_are_no_pauses() -> None:
    at, broke = placed(run(0.0, 10, 20.0))
    assert at == run(0.0, 10, 20.0)
    assert not broke
    assert not placed(run(0.0, 50) + run(15.0, 10, 10.0))[1]


@pytest.mark.parametrize("stamps", [[None] * 50, [7.0] * 50])
def test_without_timestamps_that_advance_the_frame_rate_counts(stamps: list[float | None]) -> None:
    at, broke = placed(stamps)
    assert at == pytest.approx(run(0.0, 50))
    assert not broke


def test_pictures_with_the_same_timestamp_in_pairs_do_not_run_ahead() -> None:
    at, _ = placed([nth // 2 * 0.2 for nth in range(200)])
    assert at[-1] == pytest.approx(19.9, abs=0.25)


def test_lost_pictures_take_their_time_where_there_are_no_timestamps() -> None:
    time = FileTime(START, PERIOD)
    assert time.stamp(None, missed=3).at == pytest.approx(START + 0.3)
    assert time.stamp(None, missed=20).at == pytest.approx(START + 2.4)


def test_timestamps_in_the_order_of_decoding_do_not_run_ahead() -> None:
    """An AVI with B-frames has no others: (1, 4, 3, 5, 2), (8, 7, 9, 6), ..."""
    stamps: list[float | None] = [0.1]
    stamps += [0.1 * (4 * nth + each) for nth in range(50) for each in (4, 3, 5, 2)]
    at, broke = placed(stamps)
    assert at[-1] == pytest.approx(20.0, abs=0.5)
    assert not broke


def test_time_never_goes_back() -> None:
    stamps = [*run(0.0), *run(0.5), *run(-50.0), *run(3.0), None, *run(1e6), *run(4.0)]
    at, _ = placed(stamps)
    assert all(before < after for before, after in pairwise(at))
    assert at[-1] == pytest.approx(57.5, abs=0.1)  # of which 52.1 are the step from -49.1 to 3
