"""PostgreSQL fails over to its standby under alerts, again and again, each time with a new pair.

`killed`: the primary is killed, the standby is synchronous. `switched-over`: it is stopped.
`behind`: it is killed, and the standby, which is asynchronous, had received nothing for a while.
What is left is compared with an oracle: nothing may be lost or twice, and judging has to go on
within 15 s of the promotion.

    python tests/bench/failover.py killed|switched-over|behind [--times N] [--seed N]
"""

import argparse
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from kit.chaos.postgres_failover import FailoverKind, FailoverResult, fail_over

LONGEST = 15


def once(how: FailoverKind, rng: random.Random) -> FailoverResult:
    with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder:
        return fail_over(Path(folder), how, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("how", choices=[each.replace(" ", "-") for each in FailoverKind])
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print(f"seed={options.seed}")
    tolls = list[FailoverResult]()
    for _ in range(options.times):
        tolls.append(once(FailoverKind(options.how.replace("-", " ")), rng))
        print(*(f"{name}={count}" for name, count in asdict(tolls[-1]).items()), flush=True)
    seconds = [each.seconds for each in tolls]
    print(f"longest={max(seconds)} median={median(seconds)}: all else as the oracle has it")
    if max(seconds) > LONGEST:
        sys.exit(f"it took longer than {LONGEST} s to go on")


if __name__ == "__main__":
    main()
