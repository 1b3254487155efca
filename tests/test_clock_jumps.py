"""Time that cannot be believed is not believed: what clocks that jump do to alerts."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from kit.simulation.clock_simulation import (
    HOUR,
    NOTHING,
    WINDOW,
    ClockJump,
    ClockSimulation,
    ObservedAlerts,
)
from storage.db.database import open_database

DAY = timedelta(days=1)
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""In memory where there is such a file system: each example commits a thousand times."""
OFFSETS = [
    seconds * sign
    for seconds in map(timedelta, (0.001, 0.003, 0.01, 0.1, 1, 30, 400))
    for sign in (1, -1)
]
JUMPED = 20
"""Windows within which clocks jump."""
SETTLED = HOUR // WINDOW
WATCHED = 14
"""Windows that are compared: each camera shows everything once, and more."""
JUMPS = st.lists(
    st.builds(
        ClockJump,
        window=st.integers(2, JUMPED - 1),
        whose=st.sampled_from(["writer", "reader", "both", "dock"]),
        offset=st.sampled_from([NOTHING, *OFFSETS]),
    ),
    min_size=1,
    max_size=4,
)
LAST = st.sampled_from([NOTHING, *OFFSETS])


@contextmanager
def a_world(cameras: int, jumps: list[ClockJump]) -> Iterator[ClockSimulation]:
    with TemporaryDirectory(dir=FOLDER) as folder:
        file = Path(folder) / "longwatch.db"
        shutil.copy(_template(), file)
        engine = open_database(f"sqlite:///{file}")
        try:
            yield ClockSimulation(
                engine=engine, cameras=("dock", "gate", "yard")[:cameras], jumps=jumps
            )
        finally:
            engine.dispose()


@cache
def _template() -> Path:
    """Return a database without rows, so that each example migrates none."""
    file = Path(mkdtemp()) / "empty.db"
    open_database(f"sqlite:///{file}").dispose()
    return file


def observe_run(cameras: int, jumps: list[ClockJump], restarts: int | None) -> ObservedAlerts:
    with a_world(cameras, jumps) as world, capture_logs():
        for window in range(JUMPED):
            if window == restarts:
                world.restart()
            world.run_windows(1)
        world.run_windows(6)
        world.run_windows(SETTLED - 6, read_every=9)
        world.start_observing()
        world.run_windows(WATCHED)
        return world.observed_alerts()


@cache
def still(cameras: int) -> ObservedAlerts:
    return observe_run(cameras, [], None)


def check(cameras: int, jumps: list[ClockJump], last: timedelta, restarts: int | None) -> None:
    """In the end both clocks say the same."""
    both = ClockJump(window=JUMPED, whose="both", offset=last)
    camera = ClockJump(window=JUMPED, whose="dock", offset=NOTHING)
    assert observe_run(cameras, [*jumps, both, camera], restarts) == still(cameras)


REST = {"jumps": JUMPS, "last": LAST, "restarts": st.none() | st.integers(1, JUMPED - 1)}
"""The jumps of the clocks, by how much both are wrong in the end, and when alerts restarts."""


MONTH = timedelta(days=30)


def both(*jumps: tuple[int, timedelta]) -> list[ClockJump]:
    return [ClockJump(window=window, whose="both", offset=offset) for window, offset in jumps]


@settings(phases=[Phase.explicit], deadline=None)
@example(jumps=both((6, MONTH)), last=NOTHING, restarts=None)
@example(jumps=both((2, MONTH), (17, NOTHING)), last=NOTHING, restarts=18)
@given(**REST)
def test_an_hour_after_the_last_jump_all_is_as_without(
    jumps: list[ClockJump], last: timedelta, restarts: int | None
) -> None:
    check(1, jumps, last, restarts)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(cameras=st.sampled_from([1, 3]), **REST)
def test_the_same_at_length(
    cameras: int, jumps: list[ClockJump], last: timedelta, restarts: int | None
) -> None:
    check(cameras, jumps, last, restarts)
