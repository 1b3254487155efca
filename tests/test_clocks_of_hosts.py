"""`ingest` runs on a host whose clock is ahead of `alert`'s, or behind it."""

from datetime import timedelta

import pytest
from clock_world import NOTHING, ClockWorld, Jump, rows_of
from sqlalchemy import Engine

from storage.claims import unexplained
from storage.dead import set_aside
from storage.records import LIVE, Span

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
SMALL = (5 * SECOND, 2 * MINUTE, -5 * SECOND, -2 * MINUTE, NOTHING)
CAMERAS = ("dock", "gate", "yard")


def told_of(engine: Engine, cameras: tuple[str, ...], *jumps: Jump) -> ClockWorld:
    """Let an hour pass; each window of it is a minute."""
    world = ClockWorld(engine, cameras=cameras, jumps=jumps)
    world.live(60)
    return world


def health(world: ClockWorld, camera: str) -> set[tuple[timedelta, timedelta]]:
    """Return from when to when the camera was down, by the true time."""
    began = world.true - HOUR
    return {
        (each.opened_at - began, each.closed_at - began)
        for each in world.store.incidents()
        if each.rule == "camera-down" and each.camera == camera and each.closed_at
        if each.opened_at is not None
    }


@pytest.mark.parametrize("offset", SMALL)
@pytest.mark.parametrize("cameras", [("dock",), CAMERAS])
def test_a_small_difference_moves_the_instants_and_nothing_else(
    engine: Engine, cameras: tuple[str, ...], offset: timedelta
) -> None:
    world = told_of(engine, cameras, Jump(window=1, whose="writer", offset=offset))
    outages = health(world, "dock")
    assert [end - start for start, end in sorted(outages)] == [2 * MINUTE_AND] * 5
    assert [*set_aside(world.log)] == []
    rows = rows_of(world, "dock")
    span = Span(start=rows[0].start, end=rows[-1].end)
    assert unexplained(rows, span) == []
    assert rows[-1].end == world.true + offset


MINUTE_AND = MINUTE + timedelta(milliseconds=1)


def test_a_host_that_is_an_hour_ahead_is_not_believed_and_is_named(engine: Engine) -> None:
    """One of several hosts: its camera's claims are dead letters, the others are judged."""
    world = told_of(engine, CAMERAS, Jump(window=1, whose="dock", offset=HOUR))
    assert rows_of(world, "dock") == []
    assert {dead.key for _, dead in set_aside(world.log)} == {"dock"}
    assert all("clock ahead: " in dead.reason for _, dead in set_aside(world.log))
    assert len(health(world, "gate")) == 5
    assert not [each for each in world.store.incidents(LIVE) if each.camera == "dock"]


def test_hosts_that_are_all_an_hour_ahead_make_alert_doubt_its_own_clock(engine: Engine) -> None:
    world = told_of(engine, CAMERAS, Jump(window=1, whose="writer", offset=HOUR))
    assert world.alerts.doubt is not None
    assert [*set_aside(world.log)] == rows_of(world, "dock") == []
    world.reader = HOUR  # somebody sets the clock of `alert`
    world.live(5)
    assert world.alerts.doubt is None
    assert rows_of(world, "dock")[0].start < world.true + HOUR - 59 * MINUTE
    assert len(health(world, "dock")) == 5


def test_a_host_that_is_an_hour_behind_is_judged_by_its_own_clock(engine: Engine) -> None:
    world = told_of(engine, CAMERAS, Jump(window=1, whose="dock", offset=-HOUR))
    assert [*set_aside(world.log)] == []
    assert [end - start for start, end in sorted(health(world, "dock"))] == [2 * MINUTE_AND] * 5
    assert rows_of(world, "dock")[-1].end == world.true - HOUR
