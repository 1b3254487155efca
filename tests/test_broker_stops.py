"""A broker that stops and hangs under alerts."""

import random
from pathlib import Path

import pytest
from broker_stops import survive
from kafka_broker import running


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_broker_that_stops_and_hangs_loses_and_doubles_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    with running() as broker:
        toll = survive(tmp_path, broker, 5, random.Random(seed))
    assert toll.findings > 100
    assert toll.longest < 10
