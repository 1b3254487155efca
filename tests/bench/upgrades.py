"""`longwatch alert` upgraded under load, in both orders: new before the old ends, and after.

`--killed` and `--frozen`: so many times more, the old one is killed -9 while the new one stands
by, or hangs for 20 s and goes on. With `--old`, the folder of an older release (`pip install
--no-deps --target DIR WHEEL`), one in two generations is that release.

    python tests/bench/upgrades.py [--upgrades 20] [--killed N] [--frozen N] [--old DIR]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice, cycle
from pathlib import Path
from statistics import median

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from kafka_broker import running
from postgres_fixtures import serving
from rolling_upgrade import ORDERS, Generation, Site, a_site, frozen, killed

Order = Callable[[Site, Generation], Generation]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrades", type=int, default=20)
    parser.add_argument("--killed", type=int, default=0)
    parser.add_argument("--frozen", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    orders: list[Order] = list(islice(cycle(ORDERS), options.upgrades))
    orders += [killed] * options.killed + [frozen] * options.frozen
    with (
        tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder,
        running() as broker,
        serving(durable=True) as server,
        a_site(Path(folder), broker, server.new()) as site,
    ):
        generation = site.start()
        generation.wait_until_said("leads")
        time.sleep(3.0)
        for order in orders:
            generation = order(site, generation)
            print(site.upgrades[-1], flush=True)
        toll = site.settle()
    for name in dict.fromkeys(each.order for each in site.upgrades):
        found = [each for each in site.upgrades if each.order == name]
        figures = {
            figure: sorted(getattr(each, figure) for each in found)
            for figure in ("quiet", "late", "retired")
        }
        shown = " ".join(f"{f}={median(v):.1f}/{v[-1]:.1f}" for f, v in figures.items())
        print(f"{name}: {len(found)} upgrades, seconds (median/most): {shown}")
    print(" ".join(f"{name}={count}" for name, count in asdict(toll).items()), end=" ")
    print(f"seconds={time.monotonic() - began:.0f}")
    if wrong := toll.wrong:
        sys.exit(f"wrong: {wrong}")


if __name__ == "__main__":
    main()
