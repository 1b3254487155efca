"""`longwatch alert` upgraded under load, in both orders: new before the old ends, and after.

With `--killed` and `--frozen`, so many times more the old one is killed -9 while the new one
stands by, or hangs for 20 s and goes on. With `--old`, each upgrade begins from an older release
on a database of its own: the folder is made by `pip install --no-deps --target DIR WHEEL`. What
is posted twice is counted there, and must have the same id; once the new one has migrated the
database, the older release is started again, and must be refused. With `--analyzers`, two
`longwatch analyze` are restarted so many times in turn instead, under a load of windows.

    python tests/bench/upgrades.py [--upgrades 20] [--killed N] [--frozen N] [--old DIR]
    python tests/bench/upgrades.py --analyzers 20
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from statistics import median

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from kit.chaos.alert_process import AlertProcess
from kit.chaos.rolling_analyzers import run_rolling_analyzers
from kit.chaos.rolling_upgrade import (
    ORDERS,
    Upgrade,
    UpgradeResult,
    UpgradeSite,
    beside_first,
    frozen,
    killed,
    old_first,
    run_site,
)
from kit.kafka.broker import Broker, run_broker
from kit.postgres.server import BIN, Postgres, run_postgres

Order = Callable[[UpgradeSite, AlertProcess], AlertProcess]
EXPECTED = {"posted_twice", "revisions_twice", "out_of_order"}
"""What may happen beside a release that knows no lease, as far as it has the same id."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrades", type=int, default=20)
    parser.add_argument("--killed", type=int, default=0)
    parser.add_argument("--frozen", type=int, default=0)
    parser.add_argument("--old", type=Path)
    parser.add_argument("--analyzers", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    if options.analyzers:
        analyzers(options.analyzers)
        return
    with (
        tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder,
        run_broker() as broker,
        run_postgres(durable=True) as server,
    ):
        if options.old:
            mixed = islice(cycle((beside_first, old_first)), options.upgrades)
            for number, order in enumerate(mixed):
                place = Path(folder) / str(number)
                place.mkdir()
                from_older(place, broker, server, order, options.old.resolve())
        else:
            orders: list[Order] = [*islice(cycle(ORDERS), options.upgrades)]
            orders += [killed] * options.killed + [frozen] * options.frozen
            new_ones(Path(folder), broker, server, orders)
    print(f"seconds={time.monotonic() - began:.0f}")


def analyzers(restarts: int) -> None:
    with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder, run_broker() as broker:
        result = run_rolling_analyzers(Path(folder), broker, restarts, "nano", pace=8.0)
    print(" ".join(f"{name}={count}" for name, count in asdict(result).items()))
    if result.lost or result.shed:
        sys.exit("windows that nobody read")


def new_ones(folder: Path, broker: Broker, server: Postgres, orders: Sequence[Order]) -> None:
    with run_site(folder, broker, server.create_database()) as site:
        generation = site.start()
        generation.wait_for_line("leads")
        time.sleep(3.0)
        for order in orders:
            generation = order(site, generation)
            print(site.upgrades[-1], flush=True)
        result = site.finish()
    show(site.upgrades)
    # A post or an append under way at that moment may have been taken, which nobody knows.
    is_cut = {killed, frozen} & set(orders)
    conclude(result, {"posted_twice", "revisions_twice"} if is_cut else set())


def from_older(folder: Path, broker: Broker, server: Postgres, order: Order, code: Path) -> None:
    url = server.create_database("template0")
    with run_site(folder, broker, url) as site:
        old = site.start(code)
        site.wait_until_posted(old)
        time.sleep(3.0)
        new = order(site, old)
        print(site.upgrades[-1], flush=True)
        time.sleep(3.0)
        result = site.finish()
        site.stop(new)
        before = dump(url)
        refused = site.start(code)
        code_of_end = refused.process.wait(120)
        site.processes.remove(refused)
        is_changed = dump(url) != before
        print(refused.stderr.strip().splitlines()[-1])
        print(f"refused with {code_of_end}, database changed: {is_changed}")
    conclude(result, EXPECTED)
    if code_of_end != 2 or is_changed:
        sys.exit("the older release was not refused")


def dump(url: str) -> str:
    """Return all that a database holds, as SQL."""
    done = subprocess.run([BIN / "pg_dump", url], capture_output=True, text=True, check=True)
    # Newer ones of PostgreSQL 15 begin and end a dump with a random word.
    kept = [
        each for each in done.stdout.splitlines() if not each.startswith(("\\restrict", "\\unr"))
    ]
    return "\n".join(kept)


def show(upgrades: Sequence[Upgrade]) -> None:
    for name in dict.fromkeys(each.order for each in upgrades):
        found = [each for each in upgrades if each.order == name]
        figures = {
            figure: [getattr(each, figure) for each in found]
            for figure in ("quiet", "late", "retired")
        }
        shown = " ".join(f"{f}={median(v):.1f}/{max(v):.1f}" for f, v in figures.items())
        print(f"{name}: {len(found)} upgrades, seconds (median/most): {shown}")


def conclude(result: UpgradeResult, expected: set[str]) -> None:
    print(" ".join(f"{name}={count}" for name, count in asdict(result).items()), flush=True)
    if wrong := {name: result.wrong[name] for name in result.wrong.keys() - expected}:
        sys.exit(f"wrong: {wrong}")


if __name__ == "__main__":
    main()
