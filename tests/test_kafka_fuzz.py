"""Whatever stands in our topics, no reader ends and none stays behind it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit.kafka.broker import Broker
from kit.kafka.fuzz import fuzz


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_reader_comes_to_what_stands_behind_each_case(kafka: Broker, tmp_path: Path) -> None:
    assert fuzz(kafka, tmp_path, cases=600, seed=18, each=200).total() >= 600


@pytest.mark.slow
def test_bombs_of_each_codec_take_little_memory() -> None:
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    done = subprocess.run(
        [sys.executable, "-m", "kit.kafka.decompression_bombs"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("5", 0), done.stderr[-2000:]
