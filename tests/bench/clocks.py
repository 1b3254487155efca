"""Clocks that jump at random: an hour after the last jump all is as without.

The property of tests/test_clocks.py, with as many examples as asked for. Each example that fails
is printed; the last line says how many did.

    python tests/bench/clocks.py [--cases 2000] [--seed N]
"""

import argparse
import random
import sys
import time
from pathlib import Path

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from clock_world import NOTHING, Jump
from test_clocks import JUMPED, OFFSETS, check


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    chance, failed = random.Random(options.seed), 0
    began, cpu = time.monotonic(), time.process_time()
    for _ in range(options.cases):
        case = a_case(chance)
        try:
            check(*case)
        except AssertionError:
            failed += 1
            print("failed:", *case, flush=True)
    seconds = f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} s of CPU"
    print(f"{options.cases} cases of seed {options.seed}: {failed} failed, {seconds}")
    sys.exit(failed > 0)


def a_case(chance: random.Random) -> tuple[object, ...]:
    jumps = [
        Jump(
            window=chance.randrange(2, JUMPED),
            whose=chance.choice(["writer", "reader", "both", "dock"]),
            offset=chance.choice([NOTHING, *OFFSETS]),
        )
        for _ in range(chance.randint(1, 4))
    ]
    last = chance.choice([NOTHING, *OFFSETS])
    restarts = chance.choice([None, chance.randrange(1, JUMPED)])
    return chance.choice([1, 3]), jumps, last, restarts


if __name__ == "__main__":
    main()
