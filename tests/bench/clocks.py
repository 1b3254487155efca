"""Clocks that jump at random: an hour after the last jump all is as without.

The property of tests/test_clock_jumps.py, with as many examples as asked for. It prints each
example that fails; the last line counts them.

    python tests/bench/clocks.py [--cases 2000] [--seed N]
"""

import argparse
import random
import sys
import time
from datetime import timedelta
from pathlib import Path

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from kit.simulation.clock_simulation import NOTHING, ClockJump
from test_clock_jumps import JUMPED, OFFSETS, check


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    rng, failed = random.Random(options.seed), 0
    began, cpu = time.monotonic(), time.process_time()
    for _ in range(options.cases):
        case = a_case(rng)
        try:
            check(*case)
        except AssertionError:
            failed += 1
            print("failed:", *case, flush=True)
    seconds = f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} s of CPU"
    print(f"{options.cases} cases of seed {options.seed}: {failed} failed, {seconds}")
    sys.exit(failed > 0)


def a_case(rng: random.Random) -> tuple[int, list[ClockJump], timedelta, int | None]:
    jumps = [
        ClockJump(
            window=rng.randrange(2, JUMPED),
            whose=rng.choice(["writer", "reader", "both", "dock"]),
            offset=rng.choice([NOTHING, *OFFSETS]),
        )
        for _ in range(rng.randint(1, 4))
    ]
    last = rng.choice([NOTHING, *OFFSETS])
    restarts = rng.choice([None, rng.randrange(1, JUMPED)])
    return rng.choice([1, 3]), jumps, last, restarts


if __name__ == "__main__":
    main()
