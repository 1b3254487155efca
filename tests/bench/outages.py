"""A broker stopped fifty times, or PostgreSQL restarted a hundred times, under alerts.

The broker is stopped by SIGTERM and by SIGSTOP. What is left is compared with an oracle: nothing
may be lost or twice, and it has to go on within 10 s.

    python tests/bench/outages.py broker|postgres [--times N] [--seed N]
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

import broker_stops
import postgres_restarts
from kafka_broker import running
from postgres_fixtures import serving

TIMES = {"broker": 50, "postgres": 100}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=TIMES)
    parser.add_argument("--times", type=int)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    times, chance = options.times or TIMES[options.what], random.Random(options.seed)
    began = time.monotonic()
    toll: broker_stops.Toll | postgres_restarts.Toll
    with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder:
        if options.what == "broker":
            with running() as broker:
                toll = broker_stops.survive(Path(folder), broker, times, chance)
        else:
            with serving(durable=True) as server:
                toll = postgres_restarts.survive(Path(folder), server, times, chance)
    told = " ".join(f"{name}={count}" for name, count in asdict(toll).items())
    lasted = time.monotonic() - began
    print(f"seed={options.seed} {told} seconds={lasted:.0f}: all else as the oracle has it")
    if toll.longest > 10:
        sys.exit("it took longer than 10 s to go on")


if __name__ == "__main__":
    main()
