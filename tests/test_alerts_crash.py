"""Alerts killed at random again and again; `make soak` does it 500 times."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from alerts_kills import survive
from postgres_fixtures import serving

KILLS = 50


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """A file in the folder of the test, or a database of a server that keeps what it was told."""
    if request.param == "sqlite":
        yield ""
        return
    with serving(durable=True) as server:
        yield server.new()


@pytest.mark.slow
def test_a_few_kills_lose_nothing_and_double_nothing(tmp_path: Path, chance: random.Random) -> None:
    toll = survive(tmp_path, 5, chance)
    assert toll.posts >= toll.deliveries > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_lose_nothing_and_double_nothing(
    database: str, tmp_path: Path, chance: random.Random
) -> None:
    toll = survive(tmp_path, KILLS, chance, database=database)
    assert toll.posts >= toll.deliveries > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("protection", ["key", "swap"])
def test_each_protection_is_needed(
    protection: str, database: str, tmp_path: Path, chance: random.Random
) -> None:
    with pytest.raises(AssertionError):
        survive(tmp_path, KILLS, chance, without=protection, database=database)
