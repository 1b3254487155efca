"""Analyzers that share the cameras, killed and stopped under work."""

import random
from pathlib import Path

import pytest

from kit.chaos.analyzer_kills import run_analyzer_kills
from kit.kafka.broker import run_broker


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("times", "zombies"), [(5, False), (2, True)])
def test_analyzers_that_die_or_hang_leave_no_window_out(
    tmp_path: Path, times: int, zombies: bool
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    with run_broker() as broker:
        result = run_analyzer_kills(
            tmp_path, broker, times, random.Random(seed), zombies=zombies, pace=4.0
        )
    assert (result.missing, result.went_back) == (0, 0)
    assert result.stored_findings == result.answered
    assert result.same_sign >= 0.98
