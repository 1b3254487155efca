"""Analyzers that share the cameras, killed and stopped under work."""

import random
from pathlib import Path

import pytest
from analyzers_kills import survive
from kafka_broker import running


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("times", "zombies"), [(5, False), (2, True)])
def test_analyzers_that_die_or_hang_leave_no_window_out(
    tmp_path: Path, times: int, zombies: bool
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    with running() as broker:
        toll = survive(tmp_path, broker, times, random.Random(seed), zombies=zombies, pace=4.0)
    assert (toll.missing, toll.went_back) == (0, 0)
    assert toll.stored_findings == toll.answered
    assert toll.same_sign >= 0.98
