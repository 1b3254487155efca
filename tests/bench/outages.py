"""Brokers and servers stopped under alerts, and clusters that start cold.

`broker`: the only broker is stopped by SIGTERM, SIGKILL and SIGSTOP. `postgres`: the server is
restarted. `rolling`: three brokers are restarted one after the other. What is left is compared
with an oracle: nothing may be lost or twice, and it has to go on within 10 s, under `rolling`
within 15 s. `first-starts`: a log with topics to be made is opened on three brokers that are
coming up; none may fail. `refusing`: the topic `incidents` refuses what `alert` writes, in four
ways, for some minutes each; findings must come to webhooks as fast as before.

    python tests/bench/outages.py broker|postgres|rolling|first-starts [--times N] [--seed N]
    python tests/bench/outages.py refusing [--minutes 5] [--kind right|replicas|quota|clock]
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from kit.chaos import broker_stops, postgres_restarts
from kit.chaos.topic_refusals import run_under_refusal
from kit.kafka.broker import run_broker, run_cluster
from kit.kafka.cluster import first_starts
from kit.kafka.refusals import KINDS
from kit.postgres.server import run_postgres

BEFORE = 60.0
"""Seconds without a refusal, which are the measure for those with it."""
Toll = broker_stops.BrokerStopResult | postgres_restarts.PostgresRestartResult
TIMES = {"broker": 50, "postgres": 100, "rolling": 3, "first-starts": 20}
LONGEST = {"broker": 10, "postgres": 10, "rolling": 15}


def broker(folder: Path, times: int, rng: random.Random) -> Toll:
    with run_broker() as only:
        return broker_stops.run_broker_stops(folder, only, times, rng)


def postgres(folder: Path, times: int, rng: random.Random) -> Toll:
    with run_postgres(durable=True) as server:
        return postgres_restarts.run_postgres_restarts(folder, server, times, rng)


def rolling(folder: Path, times: int, rng: random.Random) -> Toll:
    with run_cluster() as brokers:
        return broker_stops.run_rolling_restart(folder, brokers, times, rng)


OUTAGES: dict[str, Callable[[Path, int, random.Random], Toll]] = {
    "broker": broker,
    "postgres": postgres,
    "rolling": rolling,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*TIMES, "refusing"])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--times", type=int)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    if options.what == "refusing":
        refuse(options.kind or KINDS, options.minutes)
        return
    times = options.times or TIMES[options.what]
    if options.what == "first-starts":
        start_cold(times)
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder:
        result = OUTAGES[options.what](Path(folder), times, random.Random(options.seed))
    figures = " ".join(f"{name}={count}" for name, count in asdict(result).items())
    lasted = time.monotonic() - began
    print(f"seed={options.seed} {figures} seconds={lasted:.0f}: all else as the oracle has it")
    if result.longest > LONGEST[options.what]:
        sys.exit(f"it took longer than {LONGEST[options.what]} s to go on")


def refuse(kinds: Sequence[str], minutes: float) -> None:
    """Print what each refusal was survived by; end with an error where anything is wrong."""
    failed = False
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder:
            result = run_under_refusal(Path(folder), kind, BEFORE, minutes * 60)
        before, then = result.before, result.refusing
        print(
            f"{kind}, {minutes:g} minutes: {result.findings} findings, {result.incidents} incidents"
        )
        print(f"  before:   p50 {before.p50} p95 {before.p95} p99 {before.p99} s of {before.count}")
        print(f"  refusing: p50 {then.p50} p95 {then.p95} p99 {then.p99} s of {then.count}")
        print(f"  ratio:    p50 {then.p50 / before.p50:.2f} p95 {then.p95 / before.p95:.2f}")
        print(f"  {result.unposted} incidents without a post, {result.waiting} revisions waited")
        print(f"  left out {result.left_out}, twice {result.twice}", end=", ")
        print(f"out of order {result.out_of_order}")
        print(f"  dead letters: {result.dead}, {result.dead_meanwhile} of them meanwhile,", end=" ")
        print(f"left out {result.dead_left_out}, twice {result.dead_twice}")
        print(f"  all on the topic {result.caught_up} s after it")
        print(*(f"  said: {line}" for line in result.lines), sep="\n", flush=True)
        wrong = (
            result.unposted,
            result.left_out,
            result.twice,
            result.out_of_order,
            result.dead_left_out,
        )
        failed |= any(wrong)
    if failed:
        sys.exit("something was lost, twice or out of order")


def start_cold(times: int) -> None:
    failed, longest, median = first_starts(times)
    print(f"starts={times} failed={failed} longest={longest:.1f} median={median:.1f}")
    if failed:
        sys.exit("a first start failed")


if __name__ == "__main__":
    main()
