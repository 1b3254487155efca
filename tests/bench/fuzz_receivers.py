"""Receivers that answer anything, and deliveries that hold anything: how often `send` raises.

Of twenty cases fourteen are a header, three a report of apprise's process, two a stored delivery
for every kind of receiver, and one goes over a socket, to a webhook and to PagerDuty.

python tests/bench/fuzz_receivers.py [--cases 200000] [--seed N]
"""

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import hypothesis

from kit.alerts.receiver_fuzz import CASES, EACH, ReceiverCase, check, draw_settings, run_raw_server

_ROUND = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    kinds, raised = Counter[str](), list[str]()
    began = time.monotonic()
    with run_raw_server() as server:

        def look(cases: tuple[ReceiverCase, ...]) -> None:
            for case in cases:
                kinds[type(case).__name__] += 1
                try:
                    check(case, server)
                except Exception:  # noqa: BLE001  # it is counted
                    raised.append(f"{case}\n{traceback.format_exc()}")

        seed = options.seed
        while kinds.total() < options.cases:
            number = min(_ROUND, -(-(options.cases - kinds.total()) // EACH))
            hypothesis.seed(seed)(draw_settings(number)(hypothesis.given(CASES)(look)))()
            seed += 1
    counts = " ".join(f"{kind}={count}" for kind, count in sorted(kinds.items()))
    lasted = time.monotonic() - began
    print(
        f"seed={options.seed} cases={kinds.total()} exceptions={len(raised)} seconds={lasted:.0f}"
        f" ({counts})"
    )
    if raised:
        sys.exit(raised[0])


if __name__ == "__main__":
    main()
