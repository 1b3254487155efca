"""Three analyzers over Kafka, eight cameras: killed -9 a hundred times, or stopped fifty times.

A stopped one hangs beyond the group's patience and then goes on, as if nothing had been. The
answers are compared with those of one analyzer that nobody hurts.

    python tests/bench/analyzers.py [--kills 100 | --zombies 50] [--pace 4] [--seed N]
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

# Before this folder, in which a file would stand for the package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from kit.chaos.analyzer_kills import run_analyzer_kills
from kit.kafka.broker import run_broker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--zombies", type=int, default=0)
    parser.add_argument("--pace", type=float, default=4.0, help="seconds between two windows")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder,
        run_broker() as broker,
    ):
        result = run_analyzer_kills(
            Path(folder),
            broker,
            options.zombies or options.kills,
            random.Random(options.seed),
            zombies=options.zombies > 0,
            pace=options.pace,
        )
    figures = " ".join(f"{name}={count}" for name, count in asdict(result).items())
    print(f"seed={options.seed} {figures} seconds={time.monotonic() - began:.0f}")
    wrong = result.missing or result.went_back or result.stored_findings != result.answered
    if wrong or result.same_sign < 0.98:
        sys.exit("windows missing, a position that went back, or answers that differ")


if __name__ == "__main__":
    main()
