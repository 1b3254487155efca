"""PostgreSQL restarted a hundred times under alerts, against an oracle.

python tests/bench/restarts.py [--restarts 100] [--seed N]
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

from postgres_fixtures import serving
from postgres_restarts import survive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder,
        serving(durable=True) as server,
    ):
        chance = random.Random(options.seed)
        toll = survive(Path(folder), server, options.restarts, chance)
    told = " ".join(f"{name}={count}" for name, count in asdict(toll).items())
    lasted = time.monotonic() - began
    print(f"seed={options.seed} {told} lost=0 twice=0 seconds={lasted:.0f}")
    if toll.longest > 10:
        sys.exit("it took longer than 10 s to go on")


if __name__ == "__main__":
    main()
