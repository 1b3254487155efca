"""A camera and all roles hurt in every way for a while: no second may be unexplained.

`longwatch run` on a real RTSP camera; roles are killed, the camera stops, hangs, freezes and is
covered, the log is trimmed and damaged, and the disk is full. The last line says how many times
what was done, what became of the seconds, and how many nobody accounts for.

    python tests/bench/coverage.py [--seconds 1800] [--seed N]
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from kit.chaos.coverage_faults import CoverageRun, run_with_faults
from kit.model.small_model import save_checkpoint
from kit.storage.fixtures import small_disk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder:
        place = Path(folder)
        model = save_checkpoint(place / "model")
        with small_disk(place / "disk", "256m") as disk:
            rng = random.Random(options.seed)
            run = CoverageRun(folder=place, disk=disk, model=model, rng=rng)
            found = run_with_faults(run, options.seconds)
    for way, times in sorted(Counter(run.injected).items()):
        print(f"{way}: {times}")
    seconds = " ".join(f"{state}={lasted:.1f}" for state, lasted in found["seconds"].items())
    print(
        f"seed={options.seed} faults={len(run.injected)} kills={run.kills} {seconds} "
        f"waiting={found['waiting']:.1f} untold={found['untold']:.1f} "
        f"unexplained={found['unexplained']:g}"
    )


if __name__ == "__main__":
    main()
