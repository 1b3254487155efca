"""Alerts killed -9 five hundred times over a stream of findings, against an oracle.

A second judge competes all the time; with `--without` a protection is taken out, and it must fail.

    python tests/bench/kills.py [--kills 500] [--seed N] [--without key|swap|immediate]
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from alerts_kills import survive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--without", choices=["key", "swap", "immediate"], default="")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder:
        chance = random.Random(options.seed)
        toll = survive(Path(folder), options.kills, chance, options.without)
    told = " ".join(f"{name}={count}" for name, count in asdict(toll).items())
    lasted = time.monotonic() - began
    print(f"seed={options.seed} {told} lost=0 doubled=0 without_a_row=0 seconds={lasted:.0f}")


if __name__ == "__main__":
    main()
