"""`ingest` runs on a host whose clock is ahead of `alert`'s, or behind it."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine

from kit.simulation.clock_simulation import (
    NOTHING,
    START,
    WINDOW,
    ClockJump,
    ClockSimulation,
    coverage_of,
)
from storage.log.dead_letters import read_dead_letters
from storage.records.claims import uncovered_spans
from storage.records.records import LIVE_STATES, TimeSpan

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
SMALL = (5 * SECOND, 2 * MINUTE, -5 * SECOND, -2 * MINUTE, NOTHING)
CAMERAS = ("dock", "gate", "yard")
WINDOWS = 17
OF_DOCK = [(0, 2), (11, 14)]
"""Down in the first window, the 12th and the 13th; well again at the end of the next."""


def told_of(engine: Engine, cameras: tuple[str, ...], *jumps: ClockJump) -> ClockSimulation:
    """Let windows of a minute pass."""
    world = ClockSimulation(engine, cameras=cameras, jumps=jumps)
    world.run_windows(WINDOWS)
    return world


def down(world: ClockSimulation, camera: str) -> list[tuple[int, int]]:
    """Return in which windows an incident was open that the camera is down, by its host's clock."""
    offset = world.writer_offset + world.camera_offsets.get(camera, NOTHING)
    return sorted(
        (round((each.opened_at - offset - START) / WINDOW), _window(each.closed_at, offset))
        for each in world.store.incidents()
        if each.rule == "camera-down" and each.camera == camera and each.opened_at is not None
    )


def _window(at: datetime | None, offset: timedelta) -> int:
    assert at is not None, "still open"
    return round((at - offset - START) / WINDOW)


@pytest.mark.parametrize("offset", SMALL)
def test_a_small_difference_moves_the_instants_and_nothing_else(
    engine: Engine, offset: timedelta
) -> None:
    world = told_of(engine, ("dock",), ClockJump(window=1, whose="writer", offset=offset))
    assert down(world, "dock") == OF_DOCK
    assert [*read_dead_letters(world.log)] == []
    rows = coverage_of(world, "dock")
    span = TimeSpan(start=rows[0].start, end=rows[-1].end)
    assert uncovered_spans(rows, span) == []
    assert rows[-1].end == world.true_time + offset


def test_a_host_that_is_an_hour_ahead_is_not_believed_and_is_named(engine: Engine) -> None:
    """One of several hosts: its camera's claims are dead letters, the others are judged."""
    world = told_of(engine, CAMERAS, ClockJump(window=1, whose="dock", offset=HOUR))
    assert coverage_of(world, "dock") == []
    assert {dead.key for _, dead in read_dead_letters(world.log)} == {"dock"}
    assert all("clock ahead: " in dead.reason for _, dead in read_dead_letters(world.log))
    assert down(world, "gate") == [(9, 12)]
    assert not [each for each in world.store.incidents(LIVE_STATES) if each.camera == "dock"]


def test_hosts_that_are_all_an_hour_ahead_make_alert_doubt_its_own_clock(engine: Engine) -> None:
    world = told_of(engine, CAMERAS, ClockJump(window=1, whose="writer", offset=HOUR))
    assert world.alerts._guard.doubt is not None
    assert [*read_dead_letters(world.log)] == coverage_of(world, "dock") == []
    world.reader_offset = HOUR  # somebody sets the clock of `alert`
    world.run_windows(1)
    assert world.alerts._guard.doubt is None
    assert coverage_of(world, "dock")[0].start == START + HOUR
    assert down(world, "dock") == OF_DOCK


def test_a_host_that_is_an_hour_behind_is_judged_by_its_own_clock(engine: Engine) -> None:
    world = told_of(engine, CAMERAS, ClockJump(window=1, whose="dock", offset=-HOUR))
    assert [*read_dead_letters(world.log)] == []
    assert down(world, "dock") == OF_DOCK
    assert coverage_of(world, "dock")[-1].end == world.true_time - HOUR
