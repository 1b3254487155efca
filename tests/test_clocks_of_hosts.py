"""`ingest` runs on a host whose clock is ahead of `alert`'s, or behind it."""

from datetime import datetime, timedelta

import pytest
from clock_world import NOTHING, START, WINDOW, ClockWorld, Jump, rows_of
from sqlalchemy import Engine

from storage.claims import unexplained
from storage.dead import set_aside
from storage.records import LIVE, Span

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
SMALL = (5 * SECOND, 2 * MINUTE, -5 * SECOND, -2 * MINUTE, NOTHING)
CAMERAS = ("dock", "gate", "yard")
WINDOWS = 17
OF_DOCK = [(0, 2), (11, 14)]
"""Down in the first window, the 12th and the 13th; well again at the end of the next."""


def told_of(engine: Engine, cameras: tuple[str, ...], *jumps: Jump) -> ClockWorld:
    """Let windows of a minute pass."""
    world = ClockWorld(engine, cameras=cameras, jumps=jumps)
    world.live(WINDOWS)
    return world


def down(world: ClockWorld, camera: str) -> list[tuple[int, int]]:
    """Return in which windows an incident was open that the camera is down, by its host's clock."""
    offset = world.writer + world.camera.get(camera, NOTHING)
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
    world = told_of(engine, ("dock",), Jump(window=1, whose="writer", offset=offset))
    assert down(world, "dock") == OF_DOCK
    assert [*set_aside(world.log)] == []
    rows = rows_of(world, "dock")
    span = Span(start=rows[0].start, end=rows[-1].end)
    assert unexplained(rows, span) == []
    assert rows[-1].end == world.true + offset


def test_a_host_that_is_an_hour_ahead_is_not_believed_and_is_named(engine: Engine) -> None:
    """One of several hosts: its camera's claims are dead letters, the others are judged."""
    world = told_of(engine, CAMERAS, Jump(window=1, whose="dock", offset=HOUR))
    assert rows_of(world, "dock") == []
    assert {dead.key for _, dead in set_aside(world.log)} == {"dock"}
    assert all("clock ahead: " in dead.reason for _, dead in set_aside(world.log))
    assert down(world, "gate") == [(9, 12)]
    assert not [each for each in world.store.incidents(LIVE) if each.camera == "dock"]


def test_hosts_that_are_all_an_hour_ahead_make_alert_doubt_its_own_clock(engine: Engine) -> None:
    world = told_of(engine, CAMERAS, Jump(window=1, whose="writer", offset=HOUR))
    assert world.alerts._guard.doubt is not None
    assert [*set_aside(world.log)] == rows_of(world, "dock") == []
    world.reader = HOUR  # somebody sets the clock of `alert`
    world.live(1)
    assert world.alerts._guard.doubt is None
    assert rows_of(world, "dock")[0].start == START + HOUR
    assert down(world, "dock") == OF_DOCK


def test_a_host_that_is_an_hour_behind_is_judged_by_its_own_clock(engine: Engine) -> None:
    world = told_of(engine, CAMERAS, Jump(window=1, whose="dock", offset=-HOUR))
    assert [*set_aside(world.log)] == []
    assert down(world, "dock") == OF_DOCK
    assert rows_of(world, "dock")[-1].end == world.true - HOUR
