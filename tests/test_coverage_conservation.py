"""No second of a camera is unexplained or told twice, whoever is killed, whenever."""

import random
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Engine

from kit.simulation.coverage_simulation import CoverageSimulation
from storage.db.database import open_database
from storage.db.rows.coverage import CoverageStore
from storage.log.log import to_microseconds
from storage.records.claims import merge_intervals, uncovered_spans
from storage.records.records import CoverageInterval, CoverageState, TimeSpan
from storage.records.topics import COVERAGE, WINDOWS

SECONDS = 2000
A_WINDOW = timedelta(seconds=5)
WEAKER = (CoverageState.FROZEN, CoverageState.COVERED)


@pytest.fixture(name="engine")
def opened(tmp_path: Path) -> Engine:
    return open_database(f"sqlite:///{tmp_path / 'longwatch.db'}")


@pytest.fixture(name="a_world")
def make_world(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CoverageSimulation]:
    def make(seed: int, life: Engine = engine) -> CoverageSimulation:
        world = CoverageSimulation(life, random.Random(seed))
        monkeypatch.setattr(
            "storage.log.memory_log.append_timestamp", lambda values: to_microseconds(world.at)
        )
        return world

    return make


def rows_of(world: CoverageSimulation, engine: Engine) -> tuple[list[CoverageInterval], TimeSpan]:
    store = CoverageStore(engine)
    extent = store.extent("dock")
    assert extent is not None
    return store.between("dock", extent), extent


def time_in(rows: list[CoverageInterval], *states: CoverageState) -> float:
    return sum((r.end - r.start).total_seconds() for r in rows if not states or r.state in states)


def check(world: CoverageSimulation, engine: Engine) -> list[CoverageInterval]:
    """Check that the ledger conserves time, and says analysed for what was read alone."""
    rows, extent = rows_of(world, engine)
    assert extent.start == world.log.first_claimed
    assert abs(extent.end - world.at) <= A_WINDOW
    assert all(one.end <= other.start for one, other in pairwise(rows))
    assert uncovered_spans(rows, extent) == []
    assert time_in(rows) == pytest.approx((extent.end - extent.start).total_seconds())
    assert time_in(rows, CoverageState.WAITING) == 0
    read = merge_intervals(
        CoverageInterval(camera="dock", start=s.start, end=s.end, state=CoverageState.ANALYSED)
        for s in world.spans_read
    )
    seen = [row for row in rows if row.state in WEAKER]
    analysed = [row for row in rows if row.state is CoverageState.ANALYSED]
    assert merge_intervals([*read, *seen, *analysed]) == merge_intervals([*read, *seen])
    if not world.kills:
        assert merge_intervals([*read, *seen]) == merge_intervals([*analysed, *seen])
    return rows


def calamity(world: CoverageSimulation) -> tuple[dict[str, int], bool, bool]:
    """Let something happen, or not; return who dies at which use of the log, and who works."""
    rng = world.rng
    if rng.random() < 0.05:
        world.camera = rng.choice(["up", "up", "down", "frozen", "covered"])
    if rng.random() < 0.02:
        world.log.is_full = not world.log.is_full
    if rng.random() < (0.02 if world.has_power else 0.2):
        world.has_power = not world.has_power
        world.kill("ingest")
    if rng.random() < 0.01:
        world.log.damage_last(WINDOWS)
    if rng.random() < 0.02:
        world.trim(keep=rng.randint(0, 3))
    fuses = {
        role: rng.randint(1, 6) for role in ("ingest", "analyzer", "keeper") if rng.random() < 0.08
    }
    slow = world.now // 100 % 3
    return fuses, slow != 1 or rng.random() < 0.05, slow != 2 or rng.random() < 0.05


def live_through(world: CoverageSimulation, engine: Engine, seconds: int) -> list[CoverageInterval]:
    for _ in range(seconds):
        fuses, analyzes, keeps = calamity(world)
        world.step(fuses, analyzes=analyzes, writes_coverage=keeps)
    world.settle()
    assert world.kills > seconds // 20
    return check(world, engine)


def test_kills_at_any_instant_leave_no_second_unexplained(
    engine: Engine, a_world: Callable[..., CoverageSimulation]
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    live_through(a_world(seed), engine, SECONDS // 20)
    engine.dispose()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_long_lives_full_of_kills_leave_no_second_unexplained(
    a_world: Callable[..., CoverageSimulation], tmp_path: Path
) -> None:
    seen = set[CoverageState]()
    for seed in [random.randrange(2**32) for _ in range(5)]:
        print("seed", seed)
        life = open_database(f"sqlite:///{tmp_path / f'{seed}.db'}")
        seen |= {row.state for row in live_through(a_world(seed, life), life, SECONDS)}
        life.dispose()
    unlived = {"waiting", "corrupt", "overloaded", "moved"}
    assert seen >= set(CoverageState) - unlived


def states(rows: list[CoverageInterval], least: float = 1.5) -> list[CoverageState]:
    """Return the states in order, without what lasted shorter than this."""
    long = [row.state for row in rows if (row.end - row.start).total_seconds() >= least]
    return [state for n, state in enumerate(long) if n == 0 or state is not long[n - 1]]


@pytest.fixture(name="world")
def settled_world(a_world: Callable[..., CoverageSimulation]) -> CoverageSimulation:
    """A world in which some windows were read already, and no still is in hand."""
    world = a_world(1)
    world.run_for(8)
    world.run_until_window()
    return world


A = CoverageState.ANALYSED


def ended(world: CoverageSimulation, engine: Engine) -> list[CoverageState]:
    world.settle()
    rows = check(world, engine)
    engine.dispose()
    return states(rows)


def test_ingest_that_was_dead_says_so_when_it_is_back(
    world: CoverageSimulation, engine: Engine
) -> None:
    world.kill("ingest")
    world.has_power = False
    world.run_for(30)
    world.has_power = True
    assert ended(world, engine) == [A, CoverageState.INGEST_DOWN, A]


def test_window_of_an_ingest_killed_before_its_claim_is_accounted_for(
    world: CoverageSimulation, engine: Engine
) -> None:
    while world.kills == 0:
        world.step({"ingest": 3}, analyzes=False)
    assert world.log.end_offset(WINDOWS) > world.log.committed("analyzer", WINDOWS)
    world.has_power = False
    world.run_for(10, analyzes=False)
    assert ended(world, engine) == [A, CoverageState.INGEST_DOWN, A]


@pytest.mark.parametrize("use", [3, 4])
def test_what_lies_before_a_window_is_told_before_it(
    use: int, world: CoverageSimulation, engine: Engine
) -> None:
    world.camera = "down"
    world.run_for(7)
    world.camera = "up"
    while world.kills == 0:
        world.step({"ingest": use})
    assert ended(world, engine)[:2] == [A, CoverageState.CAMERA_DOWN]


def test_camera_that_is_gone_is_told_while_it_is_gone(
    world: CoverageSimulation, engine: Engine
) -> None:
    world.camera = "down"
    world.run_for(20)
    rows, extent = rows_of(world, engine)
    assert states(rows)[-1] is CoverageState.CAMERA_DOWN
    assert (world.at - extent.end).total_seconds() <= 5
    assert ended(world, engine) == [A, CoverageState.CAMERA_DOWN, A]


def test_pictures_in_hand_when_the_camera_went_are_told(
    world: CoverageSimulation, engine: Engine
) -> None:
    world.run_for(3)
    world.camera = "down"
    world.run_for(20)
    assert ended(world, engine) == [A, CoverageState.STREAM_BROKEN, CoverageState.CAMERA_DOWN, A]


@pytest.mark.parametrize("state", [CoverageState.FROZEN, CoverageState.COVERED])
def test_what_the_pictures_show_is_told_and_heard_of(
    state: CoverageState, world: CoverageSimulation, engine: Engine
) -> None:
    world.camera = state
    world.run_for(40)
    assert world.changes[-1].state is state
    assert ended(world, engine) == [A, state, A]
    assert world.changes[-1].state is A


def test_full_disk_is_told_when_there_is_space(world: CoverageSimulation, engine: Engine) -> None:
    world.log.is_full = True
    world.run_for(20)
    assert ended(world, engine) == [A, CoverageState.INGEST_DOWN, A]


def test_windows_dropped_while_the_analyzer_was_dead(
    world: CoverageSimulation, engine: Engine
) -> None:
    world.kill("analyzer")
    world.run_for(20, analyzes=False)
    world.trim(keep=1)
    assert ended(world, engine) == [A, CoverageState.ANALYZER_DOWN, A]


@pytest.mark.parametrize("use", range(1, 5))
def test_window_of_an_analyzer_killed_at_any_use_of_the_log_is_read_again(
    use: int, world: CoverageSimulation, engine: Engine
) -> None:
    while world.kills == 0:
        world.step({"analyzer": use})
    assert ended(world, engine) == [A]


def test_windows_dropped_while_the_analyzer_was_slow(
    world: CoverageSimulation, engine: Engine
) -> None:
    world.run_for(20, analyzes=False)
    world.trim(keep=1)
    assert ended(world, engine) == [A, CoverageState.SHED, A]


@pytest.mark.parametrize("dies", [False, True])
def test_window_that_cannot_be_read_is_corrupt(
    dies: bool, world: CoverageSimulation, engine: Engine
) -> None:
    while not world.log.end_offset(WINDOWS) > world.log.committed("analyzer", WINDOWS):
        world.step({}, analyzes=False)
    world.log.damage_last(WINDOWS)
    world.run_for(1)
    if dies:
        world.kill("analyzer")
    assert ended(world, engine) == [A, CoverageState.CORRUPT, A]


def test_dropped_windows_of_a_camera_that_never_came_back_are_swept(
    world: CoverageSimulation, engine: Engine
) -> None:
    world.run_for(20, analyzes=False)
    world.camera = "down"
    world.trim(keep=0)
    world.run_for(150, writes_coverage=False)
    world.run_for(1)
    world.sweep()
    world.run_for(1)
    rows, _ = rows_of(world, engine)
    assert time_in(rows, CoverageState.WAITING) == 0
    assert states(rows) == [A, CoverageState.SHED, CoverageState.CAMERA_DOWN]
    engine.dispose()


def test_what_waits_in_the_log_is_not_swept(world: CoverageSimulation, engine: Engine) -> None:
    world.run_for(200, analyzes=False, writes_coverage=False)
    world.run_for(1, analyzes=False)
    world.sweep()
    world.run_for(1, analyzes=False)
    rows, _ = rows_of(world, engine)
    assert states(rows) == [A, CoverageState.WAITING]
    engine.dispose()


def test_nothing_is_swept_while_claims_are_still_to_be_folded(
    world: CoverageSimulation, engine: Engine
) -> None:
    world.run_for(20, analyzes=False)
    world.run_for(150, writes_coverage=False)
    world.trim(keep=0)
    claims = world.log.end_offset(COVERAGE)
    world.sweep()
    assert world.log.end_offset(COVERAGE) == claims
    assert ended(world, engine) == [A]


def test_claims_that_the_log_dropped_leave_no_hole(
    world: CoverageSimulation, engine: Engine
) -> None:
    world.camera = "down"
    world.run_for(100, writes_coverage=False)
    world.trim_claims()
    world.run_for(1)
    rows, extent = rows_of(world, engine)
    assert states(rows)[0] is A
    world.settle()
    rows, extent = rows_of(world, engine)
    assert uncovered_spans(rows, extent) == []
    assert CoverageState.SHED in states(rows)
    engine.dispose()


def test_two_keepers_fold_every_claim_once(world: CoverageSimulation, engine: Engine) -> None:
    world.run_for(20, writes_coverage=False)
    for fuse in (1, 2, 3):
        world.step({"keeper": fuse}, analyzes=False)
    assert world.kills
    assert ended(world, engine) == [A]
