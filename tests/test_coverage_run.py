"""A real camera, all roles, and everything that may happen to them: no second is unexplained."""

import random
from pathlib import Path

import pytest

from kit.chaos.coverage_faults import CoverageRun, run_with_faults
from kit.storage.fixtures import small_disk
from storage.records.records import CoverageState

RARE = {"waiting", "corrupt", "overloaded", "moved"}
TRIMMED = {"analyzer_down", "shed"}
"""What a trimmed log costs is found by the analyzer at its start, or by `alert` before that."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("gstreamer")
def test_every_second_of_a_run_that_is_hurt_is_explained(tmp_path: Path, checkpoint: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with small_disk(tmp_path / "disk", "256m") as disk:
        run = CoverageRun(folder=tmp_path, disk=disk, model=checkpoint, rng=random.Random(seed))
        found = run_with_faults(run, seconds=0)
    print(found)
    assert set(run.injected) == set(run.faults)
    assert found["unexplained"] == 0
    assert found["holes"] == []
    assert found["waiting"] + found["untold"] < 20
    told = sum(found["seconds"].values()) + found["waiting"]
    assert told == pytest.approx(sum(each["seconds"] for each in found["intervals"]))
    states = {state for state, lasted in found["seconds"].items() if lasted}
    assert states >= set(CoverageState) - RARE - TRIMMED
    assert states & TRIMMED
