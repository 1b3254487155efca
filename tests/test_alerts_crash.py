"""Alerts killed at random again and again; `make soak` does it 500 times."""

import random
from pathlib import Path

import pytest
from alerts_kills import survive

KILLS = 50


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [5, pytest.param(KILLS, marks=pytest.mark.slow)])
def test_kills_lose_nothing_and_double_nothing(
    kills: int, tmp_path: Path, chance: random.Random
) -> None:
    toll = survive(tmp_path, kills, chance)
    assert toll.posts >= toll.deliveries > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("protection", ["key", "swap", "immediate"])
def test_each_protection_is_needed(protection: str, tmp_path: Path, chance: random.Random) -> None:
    with pytest.raises(AssertionError):
        survive(tmp_path, KILLS, chance, without=protection)
