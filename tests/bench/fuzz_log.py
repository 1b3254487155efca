"""Batches of anything on Kafka, read by every reader: how often one ends, or does not come on.

python tests/bench/fuzz_log.py [--cases 20000] [--seed N]
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import structlog

from kit.kafka.broker import run_broker
from kit.kafka.fuzz import fuzz

_EACH = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"seed={options.seed}", flush=True)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    began = time.monotonic()
    seen = Counter[str]()
    with run_broker() as broker:
        while (left := options.cases - seen.total()) > 0:  # on topics of their own each time
            seed, cases = options.seed + seen.total(), min(_EACH, left)
            with tempfile.TemporaryDirectory() as folder:
                seen += fuzz(broker, Path(folder), cases=cases, seed=seed)
            print(f"{seen.total()} in {time.monotonic() - began:.0f} s", flush=True)
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(seen.items()))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    print(
        f"cases={seen.total()} crashes=0 stalls=0 seconds={time.monotonic() - began:.0f}"
        f" memory={most} MB ({counts})"
    )


if __name__ == "__main__":
    main()
