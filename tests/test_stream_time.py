"""When the frames of a live camera were seen: arrivals decide, timestamps refine."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import pytest

from ingest.timing.stream_time import FrameTime, StreamTime

SECONDS = 60.0
Stamp = Callable[[float, int], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StampedFrame:
    """A frame: when it was taken, its stamp, when it arrived, and whether we waited for it."""

    at: float
    pts: float | None
    arrived: float
    waited: bool


def a_camera(
    stamp: Stamp,
    *,
    fps: float = 10.0,
    stalls: Iterable[tuple[float, float]] = (),
    takes: Callable[[float], bool] = lambda at: True,
) -> list[StampedFrame]:
    """Return the frames of a minute; they are 50 to 80 ms on their way, or behind a stall."""
    rng = random.Random(1)
    found, last = [], 0.0
    for number in range(round(SECONDS * fps)):
        at = number / fps
        if not takes(at):
            continue
        arrived = at + 0.05 + rng.random() * 0.03
        arrived = max([last] + [end for start, end in stalls if start <= arrived < end] + [arrived])
        waited = arrived - last > 0.004
        found.append(StampedFrame(at=at, pts=stamp(at, number), arrived=arrived, waited=waited))
        last = arrived
    return found


def placed(frames: list[StampedFrame], patience: float = 0.0) -> list[FrameTime]:
    time = StreamTime(min_gap=patience)
    return [time.stamp(each.pts, each.arrived, waited=each.waited) for each in frames]


def errors(frames: list[StampedFrame], seen: list[FrameTime]) -> list[float]:
    return [each.at - frame.at for frame, each in zip(frames, seen, strict=True)]


STAMPS: dict[str, Stamp] = {
    "good": lambda at, _: at,
    "offset": lambda at, _: at + 1e6,
    "equal": lambda at, _: 5.0,
    "none": lambda at, _: None,
    "at 0.4": lambda at, _: at * 0.4,
    "at 0.6": lambda at, _: at * 0.6,
    "at 0.84": lambda at, _: at * 0.84,
    "at 0.98": lambda at, _: at * 0.98,
    "at 1.02": lambda at, _: at * 1.02,
    "at 1.2": lambda at, _: at * 1.2,
    "at 1.0005": lambda at, _: at * 1.0005,
    "one far in the past": lambda at, n: -1e5 if n % 97 == 50 else at,
    "one far ahead": lambda at, n: 1e5 if n % 97 == 50 else at,
    "one some seconds back": lambda at, n: at - 5 if n % 97 == 50 else at,
    "wraps": lambda at, _: (at + 47691.0) % 47721.0,
    "reset each 10 s": lambda at, _: at % 10,
    "reordered": lambda at, n: at + (0.2 if n % 3 == 0 else 0.0),
    "each fifth missing": lambda at, n: None if n % 5 == 0 else at,
    "random": lambda at, n: random.Random(n).random() * 1e6,
}


@pytest.mark.parametrize("name", STAMPS)
def test_any_stamps_place_frames_within_a_third_of_a_second(name: str) -> None:
    frames = a_camera(STAMPS[name])
    seen = placed(frames)
    assert max(map(abs, errors(frames, seen))) < 0.33
    assert not any(each.after_gap for each in seen)


@pytest.mark.parametrize("name", STAMPS)
def test_time_never_goes_back_nor_beyond_the_arrival(name: str) -> None:
    frames = a_camera(STAMPS[name], stalls=[(20, 26)])
    seen = placed(frames)
    assert all(a.at <= b.at for a, b in pairwise(seen))
    assert all(each.at <= frame.arrived for frame, each in zip(frames, seen, strict=True))


@pytest.mark.parametrize("name", STAMPS)
@pytest.mark.parametrize("fps", [0.2, 0.5])
def test_slow_camera_with_any_stamps_has_time_pass(name: str, fps: float) -> None:
    frames = a_camera(STAMPS[name], fps=fps)
    last = errors(frames, placed(frames, patience=3 / fps))[-1]
    assert abs(last) < 0.4


@pytest.mark.parametrize("end", [23.0, 26.0, 50.0])
@pytest.mark.parametrize("name", ["good", "offset", "one far ahead", "one far in the past"])
def test_backlog_behind_a_stall_keeps_its_own_times(name: str, end: float) -> None:
    frames = a_camera(STAMPS[name], stalls=[(20, end)])
    seen = placed(frames)
    assert max(map(abs, errors(frames, seen))) < 0.2
    assert not any(each.after_gap for each in seen)


def test_frame_without_a_stamp_behind_a_stall_is_a_step_behind_the_last() -> None:
    """FFmpeg gives one where its read runs out of time and it flushes its parser."""
    behind = round(20.0 * 10)
    frames = a_camera(lambda at, n: None if n == behind else at, stalls=[(20, 26)])
    assert max(map(abs, errors(frames, placed(frames)))) < 0.2


@pytest.mark.parametrize("name", STAMPS)
def test_camera_that_pauses_is_not_broken(name: str) -> None:
    frames = a_camera(STAMPS[name], takes=lambda at: at % 6 < 3.4)
    seen = placed(frames)
    assert not any(each.after_gap for each in seen)
    assert abs(errors(frames, seen)[-1]) < 0.33


def test_gap_of_arrivals_that_stamps_do_not_bridge_breaks_time() -> None:
    frames = a_camera(STAMPS["good"], takes=lambda at: not 20 < at < 40)
    seen = placed(frames)
    assert [frame.at for frame, each in zip(frames, seen, strict=True) if each.after_gap] == [40.0]


def test_stream_that_begins_late_is_right_once_a_frame_was_quick() -> None:
    burst = [StampedFrame(at=n / 10, pts=n / 10, arrived=1.0, waited=n == 0) for n in range(11)]
    frames = burst + a_camera(STAMPS["good"])[11:]
    assert max(map(abs, errors(frames, placed(frames))[14:])) < 0.1


def test_skip_shows_that_the_zero_was_late() -> None:
    """A machine that was too slow from the start seats the zero late."""
    time = StreamTime()
    for number in range(20):
        time.stamp(number / 10, 2.0 + number / 10 * 1.5, waited=False)
    time.skip()
    assert time.stamp(4.9, 5.0, waited=False).at == 5.0
    assert abs(time.stamp(5.0, 5.1, waited=True).at - 5.1) < 0.01


def test_frame_behind_a_skip_is_seen_when_it_arrived_where_stamps_say_nothing() -> None:
    time = StreamTime()
    for number in range(40):
        time.stamp(5.0, 0.1 + number / 10 * 2.0, waited=False)
    time.skip()
    assert time.stamp(5.0, 12.0, waited=False).at == 12.0


@pytest.mark.parametrize("odd", [-1e5, 1e5])
def test_one_odd_stamp_behind_a_skip_holds_up_none_of_those_that_follow(odd: float) -> None:
    time = StreamTime()
    for number in range(40):
        time.stamp(number / 10, 0.1 + number / 10 * 2.0, waited=False)
    time.skip()
    time.stamp(odd, 8.2, waited=False)
    assert abs(time.stamp(6.0, 8.2, waited=False).at - 6.1) < 0.01


def test_unstamped_frames_in_a_backlog_do_not_run_ahead_of_the_others() -> None:
    """One that is placed too far ahead must not make all that follow look as if they went back."""
    before = [f for f in a_camera(STAMPS["good"]) if f.at < 20 or 25 <= f.at < 25.2]
    behind = [
        StampedFrame(
            at=25.2 + n / 10, pts=None if n % 2 == 0 else 25.2 + n / 10, arrived=a, waited=False
        )
        for n, a in ((n, 25.3 + n * 0.15) for n in range(100))
    ]
    frames = before + behind
    assert max(map(abs, errors(frames, placed(frames)))) < 0.5


def test_stamps_that_begin_anew_are_told() -> None:
    frames = a_camera(STAMPS["reset each 10 s"])
    anew = [f.at for f, e in zip(frames, placed(frames), strict=True) if e.has_new_zero]
    assert [round(at) for at in anew[:2]] == [10, 20]


def test_backlog_that_a_slow_network_delivers_frame_by_frame_keeps_its_own_times() -> None:
    time = StreamTime()
    for n in range(100):
        time.stamp(n / 10, n / 10 + 0.05, waited=True)
    arrived, late = 17.0, []
    for n in range(100, 300):
        arrived = max(arrived + 0.03, n / 10 + 0.05)
        late.append(time.stamp(n / 10, arrived, waited=True).at - n / 10)
    assert max(map(abs, late)) < 0.1
