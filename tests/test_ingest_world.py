"""Whatever a camera, the network, the clocks and this machine do: nothing is blind in silence.

Each run goes through the real worker in simulated time (`camera_simulation`), and is judged against
the truth that the simulation knows (`camera_judge`). By hand, for more than CI does:
WORLDS=2000 python -m pytest tests/test_ingest_world.py -k random
"""

import os
import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest

from ingest.camera import Camera
from kit.simulation.camera_judge import SimulationJudge, StillTime
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
from kit.simulation.camera_simulation import CameraSimulation
from kit.simulation.random_plans import STAMPS, a_plan
from storage.records.records import CoverageState

WORLDS = int(os.environ.get("WORLDS", "200"))
AT_ONCE = 20
CAMERA = Camera(name="dock", url="rtsp://10.0.0.21/sub")
DOWN, WAITING = CoverageState.CAMERA_DOWN, CoverageState.WAITING


@pytest.mark.parametrize("first", range(0, WORLDS, AT_ONCE))
def test_random_camera_is_watched_and_told(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        faults = SimulationJudge(CameraSimulation(a_plan(seed)).run()).faults()
        assert not faults, f"seed {seed}: {faults[:5]}"


def a_world(
    sent: Iterable[SentFrame] | None = None,
    *periods: FaultPeriod,
    seconds: float = 120.0,
    camera: Camera = CAMERA,
    host: WallClock | None = None,
    camera_wall: WallClock | None = None,
    burst: bool = False,
) -> CameraSimulation:
    """Run a camera of 10 frames a second, or one that sends other frames."""
    plan = CameraPlan(
        camera=camera,
        seconds=seconds,
        frames=frames(seconds, 10) if sent is None else tuple(sent),
        periods=periods,
        host=host or WallClock(),
        camera_wall=camera_wall,
        burst=burst,
    )
    return CameraSimulation(plan).run()


def well(world: CameraSimulation) -> SimulationJudge:
    """Return the judge of a run that he finds nothing wrong with."""
    judge = SimulationJudge(world)
    assert not list(judge.faults())
    return judge


def total(judge: SimulationJudge, state: CoverageState) -> float:
    return sum(end - start for start, end, _ in judge.spans(state))


def worst(stills: Iterable[StillTime]) -> float:
    return max(abs(each.reported - each.true_time) for each in stills)


def stamped(stamp: str) -> tuple[SentFrame, ...]:
    sent = frames(120, 10)
    stamps = {
        "one far in the past": lambda f: (
            f.true_time - 1e5 if f.number % 150 == 149 else f.true_time
        ),
        "one far ahead": lambda f: f.true_time + 1e5 if f.number % 150 == 149 else f.true_time,
        "one some seconds back": lambda f: (
            f.true_time - 5 if f.number % 150 == 149 else f.true_time
        ),
        "all equal": lambda f: 5.0,
        "0.4 of real time": lambda f: 0.4 * f.true_time,
        "0.6 of real time": lambda f: 0.6 * f.true_time,
        "0.84 of real time": lambda f: 0.84 * f.true_time,
        "JPEGs without stamps": lambda f: None,
        "JPEGs counted at 25 a second": lambda f: f.number / 25,
    }
    return tuple(replace(f, pts=stamps[stamp](f), is_exact=False) for f in sent)


@pytest.mark.parametrize(
    "stamp",
    [
        "one far in the past",
        "one far ahead",
        "one some seconds back",
        "all equal",
        "0.4 of real time",
        "0.6 of real time",
        "0.84 of real time",
        "JPEGs without stamps",
        "JPEGs counted at 25 a second",
    ],
)
def test_camera_with_imperfect_stamps_has_all_its_windows(stamp: str) -> None:
    judge = well(a_world(stamped(stamp)))
    assert len(judge.windows) == 8
    assert total(judge, WAITING) > 115
    steps = [after.reported - still.reported for still, after in pairwise(judge.stills())]
    assert all(abs(step - 1) < 0.45 for step in steps)


def test_bursts_with_pauses_of_more_than_two_seconds_are_one_stream() -> None:
    sent = [f for f in frames(120, 10) if f.true_time % 6 < 3.4]
    judge = well(a_world(sent))
    assert total(judge, WAITING) > 113
    assert worst(judge.stills()) < 0.3


def test_camera_that_sends_a_frame_each_five_seconds_is_watched() -> None:
    slow = replace(CAMERA, fps=0.2, stills_per_window=4)
    judge = well(a_world(frames(300, 0.2), seconds=300, camera=slow))
    assert not judge.simulation.losses
    assert total(judge, WAITING) > 270


@pytest.mark.parametrize("stall", [3.0, 4.0, 6.0, 9.0])
def test_what_comes_behind_a_stall_is_looked_at_in_its_own_time(stall: float) -> None:
    judge = well(a_world(None, NetworkStall(start=50, end=50 + stall)))
    assert total(judge, WAITING) > 115
    assert worst(judge.stills()) < 0.3
    assert not judge.simulation.losses


def test_frame_without_a_stamp_behind_a_stall_moves_nothing() -> None:
    sent = [replace(f, pts=None, is_exact=False) if f.number == 500 else f for f in frames(120, 10)]
    judge = well(a_world(sent, NetworkStall(start=50, end=56)))
    assert worst(judge.stills()) < 0.3
    assert total(judge, WAITING) > 115


def test_what_a_stall_lost_is_a_broken_stream() -> None:
    judge = well(a_world(None, NetworkStall(start=50, end=57, drops_frames=True)))
    assert 6 < total(judge, CoverageState.STREAM_BROKEN) < 15
    assert total(judge, DOWN) == 0


@pytest.mark.parametrize("offset", [40.0, -40.0])
def test_clock_of_a_camera_does_not_bend_the_ledger(offset: float) -> None:
    judge = well(
        a_world(
            None,
            CameraOutage(start=60, end=70),
            seconds=180,
            camera_wall=WallClock(offset=offset),
        )
    )
    assert 9 < total(judge, DOWN) < 25
    assert total(judge, CoverageState.INGEST_DOWN) < 2
    assert {round(window.clock.offset) for _, window in judge.windows} == {offset}
    assert worst(judge.stills()) < 0.3


def test_step_of_the_clock_of_a_camera_cuts_a_window_and_loses_no_more_than_a_group() -> None:
    wall = WallClock(offset=2.0, steps=(ClockStep(at=60, by=-30.0),))
    judge = well(a_world(camera_wall=wall))
    assert total(judge, WAITING) > 112
    assert {round(window.clock.offset) for _, window in judge.windows} == {2, -28}


def test_stamps_that_begin_anew_are_no_step_of_the_clock_of_a_camera() -> None:
    sent = tuple(
        replace(f, pts=f.true_time % 40, is_exact=f.true_time < 40) for f in frames(120, 10)
    )
    judge = well(a_world(sent, camera_wall=WallClock(offset=5.0)))
    assert len(judge.windows) == 8
    assert {round(window.clock.offset) for _, window in judge.windows} == {5}


@pytest.mark.parametrize("notices_after", [0.0, 0.3])
def test_pause_of_ours_is_never_the_fault_of_the_camera(notices_after: float) -> None:
    pause = PausedProcess(start=50, end=80, buffered_seconds=4, tick_delay=notices_after)
    judge = well(a_world(None, pause, camera_wall=WallClock(), seconds=160))
    assert total(judge, DOWN) == 0
    assert 25 < total(judge, CoverageState.INGEST_DOWN) < 32
    assert worst(judge.stills()) < 0.3
    assert not [line for line in judge.simulation.log_lines if "refused" in line]


@pytest.mark.parametrize("notices_after", [0.0, 0.3])
def test_connection_that_did_not_outlive_a_pause_of_ours_is_told_from_its_end(
    notices_after: float,
) -> None:
    pause = PausedProcess(start=50, end=80, buffered_seconds=0, tick_delay=notices_after)
    judge = well(a_world(None, pause, seconds=160))
    assert judge.simulation.losses
    assert 28 < total(judge, CoverageState.INGEST_DOWN) < 34
    assert total(judge, DOWN) < 8


def test_machine_that_is_too_slow_says_so_and_blames_nobody() -> None:
    judge = well(a_world(None, SlowMachine(start=40, end=100, factor=1.8), seconds=150))
    assert total(judge, CoverageState.OVERLOADED) > 15
    assert total(judge, DOWN) == 0
    assert any("does not keep up" in line for line in judge.simulation.log_lines)
    assert max(each.latest - each.true_time for each in judge.stills()) < 8
    assert not [line for line in judge.simulation.log_lines if "clock" in line]


def test_short_windows_that_come_late_still_cover_their_own_time() -> None:
    short = replace(CAMERA, fps=5.0, stills_per_window=4)
    judge = well(a_world(None, SlowMachine(start=40, end=60, factor=1.3), camera=short))
    assert total(judge, WAITING) > 105


def test_picture_behind_a_loss_does_not_say_that_the_machine_is_slow() -> None:
    judge = well(CameraSimulation(a_plan(1632)).run())
    assert total(judge, CoverageState.OVERLOADED) == 0


@pytest.mark.parametrize("by", [-30.0, -3600.0])
def test_step_back_of_the_host_is_followed_at_once(by: float) -> None:
    judge = well(a_world(host=WallClock(steps=(ClockStep(at=60, by=by),))))
    assert [round(step.at) for step in judge.simulation.clock.followed] == [60]
    assert any("the clock of this host was set" in line for line in judge.simulation.log_lines)


def test_step_ahead_of_hours_that_is_taken_back_is_never_followed() -> None:
    steps = (ClockStep(at=40, by=18_000.0), ClockStep(at=90, by=-18_000.0))
    judge = well(a_world(host=WallClock(steps=steps)))
    assert not judge.simulation.clock.followed
    assert total(judge, WAITING) > 115
    assert worst(judge.stills()) < 0.3


def test_step_ahead_of_hours_is_followed_once_it_lasted_a_minute() -> None:
    judge = well(a_world(host=WallClock(steps=(ClockStep(at=40, by=18_000.0),)), seconds=180))
    assert [round(step.at) for step in judge.simulation.clock.followed] == [100]


def test_what_a_relay_kept_is_not_taken_for_new() -> None:
    sent = frames(120, 10, keyframes=10.0)
    judge = well(a_world(sent, CameraOutage(start=48, end=57), burst=True))
    assert worst(judge.stills()) < 0.3


def test_camera_that_comes_for_less_than_a_window_is_down_most_of_the_time() -> None:
    outages = [CameraOutage(start=at + 6, end=at + 24) for at in range(0, 240, 24)]
    judge = well(a_world(None, *outages, seconds=240))
    assert total(judge, DOWN) > 150
    assert len(judge.windows) >= 3
    assert all(len(window.stills) % 4 == 0 for _, window in judge.windows)


@pytest.mark.parametrize("stamps", STAMPS)
def test_camera_that_is_closed_each_minute_loses_the_reconnect_and_a_group(stamps: str) -> None:
    plan = a_plan(7)
    sent = STAMPS[stamps](frames(240, 10), random.Random(3))
    outages = tuple(CameraOutage(start=at, end=at + 0.5) for at in range(60, 240, 60))
    judge = SimulationJudge(
        CameraSimulation(
            replace(plan, camera=CAMERA, seconds=240.0, frames=sent, stamps=stamps, periods=outages)
        ).run()
    )
    assert not judge.faults()
