"""What restarts of one of two analyzers over Kafka cost: with static membership, and without.

python tests/bench/restarts.py [--times 5] [--pace 4]
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

# Before this folder, in which a file would stand for the package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from kit.chaos.analyzer_restarts import run_analyzer_restarts
from kit.kafka.broker import run_broker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--pace", type=float, default=4.0, help="seconds between two windows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with run_broker() as broker:
        for is_static in (False, True):
            cost = run_analyzer_restarts(
                broker, options.times, is_static=is_static, pace=options.pace
            )
            figures = " ".join(f"{name}={count}" for name, count in asdict(cost).items())
            print(f"{'static' if is_static else 'dynamic'} {figures}", flush=True)
            if cost.missing or cost.went_back:
                sys.exit("windows missing, or a position that went back")


if __name__ == "__main__":
    main()
