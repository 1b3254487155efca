"""A tenth of the long run in tests/bench/soak.py."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent / "bench" / "soak.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_grows_or_drifts_over_ten_thousand_stills() -> None:
    run = subprocess.run(
        [sys.executable, SOAK, "--stills", "10000"], capture_output=True, text=True, check=True
    )
    told = dict(pair.split("=") for pair in run.stdout.split())
    assert abs(float(told["resident_growth"].rstrip("%"))) < 1
    assert told["longest_memory"] == told["longest_in_two_epochs"]
    assert int(told["epochs"]) >= 3
    assert int(told["answers"]) == 3 * 625
    assert told["signs_changed"] == "0"
