"""Alerts killed -9 five hundred times over a stream of findings, against an oracle.

A second judge competes all the time. Nothing may be lost, twice, or without a row; with `--without`
a protection is taken out, and it must fail.

    python tests/bench/kills.py [--kills 500] [--seed N] [--without key|swap|immediate] [--postgres]
"""

import argparse
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from kit.chaos.alerts_kills import run_alerts_kills
from kit.postgres.server import run_postgres


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--without", choices=["key", "swap", "immediate"], default="")
    parser.add_argument("--postgres", action="store_true", help="on a server, not in a file")
    options = parser.parse_args()
    began = time.monotonic()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="longwatch-bench-"))
        rng = random.Random(options.seed)
        url = (
            stack.enter_context(run_postgres(durable=True)).create_database()
            if options.postgres
            else ""
        )
        result = run_alerts_kills(Path(folder), options.kills, rng, options.without, url)
    figures = " ".join(f"{name}={count}" for name, count in asdict(result).items())
    lasted = time.monotonic() - began
    print(f"seed={options.seed} {figures} seconds={lasted:.0f}: all else as the oracle has it")


if __name__ == "__main__":
    main()
