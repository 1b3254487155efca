"""Alerts killed at random again and again; `make soak` does it 500 times."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.chaos.alerts_kills import run_alerts_kills
from kit.postgres.server import run_postgres

KILLS = 50


@pytest.fixture
def rng() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """A file in the folder of the test, or a database of a server that keeps what it was told."""
    if request.param == "sqlite":
        yield ""
        return
    with run_postgres(durable=True) as server:
        yield server.create_database()


@pytest.mark.slow
def test_a_few_kills_lose_nothing_and_double_nothing(tmp_path: Path, rng: random.Random) -> None:
    result = run_alerts_kills(tmp_path, 5, rng)
    assert result.posts >= result.deliveries > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_lose_nothing_and_double_nothing(
    database: str, tmp_path: Path, rng: random.Random
) -> None:
    result = run_alerts_kills(tmp_path, KILLS, rng, database=database)
    assert result.posts >= result.deliveries > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("protection", ["key", "swap"])
def test_each_protection_is_needed(
    protection: str, database: str, tmp_path: Path, rng: random.Random
) -> None:
    with pytest.raises(AssertionError):
        run_alerts_kills(tmp_path, KILLS, rng, disabled_protection=protection, database=database)
