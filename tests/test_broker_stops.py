"""A broker that stops and hangs under alerts."""

import random
from pathlib import Path

import pytest

from kit.chaos.broker_stops import run_broker_stops
from kit.kafka.broker import run_broker


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_broker_that_stops_and_hangs_loses_and_doubles_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    with run_broker() as broker:
        result = run_broker_stops(tmp_path, broker, 5, random.Random(seed))
    assert result.findings > 100
    assert result.longest < 10
