"""What a past costs: the same work on a database with 0, 20,000 and 200,000 incidents behind it.

    python tests/bench/history.py [--sizes 0,20000,200000] [--only look-1,findings]
        [--databases sqlite,postgresql] [--rounds 9] [--idle 5] [--json]

Medians of several rounds, in which the sizes take turns: a look of the router at a group with 1
and with 50 new incidents, a batch of 500 findings judged and stored, the CPU of an idle second of
the loops of `alert` (judge, router, courier, keeper of evidence), the 50 newest incidents as
`incidents list` asks for them, the command itself, and `coverage` of 30 days, which hold 1,500
intervals. Each should cost within WANTED of what it costs with the least past.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from itertools import count
from pathlib import Path
from statistics import median

import structlog

# Before this folder, in which a file stands for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from history_fixtures import CAMERAS, ENDS, INTERVAL, RULE, fill
from postgres_fixtures import serving
from routing_fixtures import AT_ONCE, an_open
from sqlalchemy import Engine, text
from storage_fixtures import START, a_finding, by_rule

from alerts.courier import Courier
from alerts.evidence import EvidenceKeeper
from alerts.router import Router
from alerts.worker import BATCH, AlertsWorker
from deploy.coverage import fields, parts, reckon
from deploy.data import DATABASE_FILE
from storage.coverage import CoverageStore
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.log import FINDINGS
from storage.memory_log import MemoryLog
from storage.records import Span
from storage.routing import News
from storage.wire import encode_finding

WANTED = 1.2
NAMES = ("look-1", "look-50", "findings", "list", "command", "coverage", "idle")
Figures = dict[str, dict[int, float]]
SIZES = (0, 20_000, 200_000)
ENDING = (
    "UPDATE incidents SET state = 'resolved', closed_at = last_seen_at WHERE id = :id",
    "UPDATE notices SET is_current = (1 = 0) WHERE incident_id = :id",
)
WAITING = " WHERE state = 'waiting'"
LEAST = 100
"""Incidents that are there in any case, so that there are 50 to list."""
SLOW, FEW_ROUNDS = ("command", "coverage", "idle"), 3
_NUMBERS = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A database with a past, and a folder beside it."""

    engine: Engine
    url: str
    folder: Path

    @property
    def store(self) -> IncidentStore:
        return IncidentStore(self.engine)


def look(past: Past, members: int) -> float:
    """Return the seconds that the router takes for a group in which so much is new."""
    store, router = past.store, Router(past.store, AT_ONCE)
    version = next(_NUMBERS)
    incidents = [an_open(1000 * version + number) for number in range(members)]
    with store.transaction() as ledger:
        ledger.save([by_rule(each) for each in incidents])
        for each in incidents:
            ledger.routing.notify(each, News.OPENED, AT_ONCE.groups_of(each, ["soc"]))
    began = time.perf_counter()
    assert router.run_once(START) == 1
    took = time.perf_counter() - began
    end(store, [each.id for each in incidents])
    return took


def end(store: IncidentStore, ids: Sequence[object]) -> None:
    """Close incidents and be done with all of them, so that the next round finds none."""
    with store.transaction() as ledger:
        for id in ids:
            for statement in ENDING:
                ledger.connection.execute(text(statement), {"id": str(id)})
        ledger.connection.execute(text("UPDATE deliveries SET state = 'delivered'" + WAITING))


def findings(past: Past) -> float:
    """Return the seconds that a batch of findings takes, of all cameras, none of them an alarm."""
    log, number = MemoryLog(), next(_NUMBERS)
    each = [
        replace(
            a_finding(0, 0.1, CAMERAS[n % len(CAMERAS)]), window_id=f"{number}-{n}", question="bag"
        )
        for n in range(BATCH)
    ]
    log.append_all(FINDINGS, [(finding.camera, encode_finding(finding)) for finding in each])
    worker = AlertsWorker(log, past.store, [RULE], lambda _: None)
    with past.store.transaction() as ledger:
        ledger.connection.execute(text("DELETE FROM positions"))
    began = time.perf_counter()
    assert worker.run_once() == BATCH
    return time.perf_counter() - began


def idle(past: Past, seconds: float) -> float:
    """Return the CPU seconds that the loops take in a second in which nothing happens."""
    log, store, stop = MemoryLog(), past.store, threading.Event()
    loops: list[Callable[[threading.Event], None]] = [
        AlertsWorker(log, store, [RULE], lambda _: None).run,
        Router(store, AT_ONCE).run,
        Courier(store, []).run,
        EvidenceKeeper(log, store, past.folder / "evidence").run,
    ]
    threads = [threading.Thread(target=each, args=(stop,)) for each in loops]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    cpu, wall = time.process_time(), time.perf_counter()
    time.sleep(seconds)
    used, took = time.process_time() - cpu, time.perf_counter() - wall
    stop.set()
    for thread in threads:
        thread.join()
    return used / took


def listed(past: Past) -> float:
    """Return the seconds that the 50 newest incidents take."""
    began = time.perf_counter()
    past.store.incidents(limit=50)
    return time.perf_counter() - began


def coverage(past: Past) -> float:
    """Return the seconds that a month of a camera takes, as JSON and as a picture."""
    from rich.console import Console

    span = Span(start=ENDS - 1500 * INTERVAL, end=ENDS)
    began = time.perf_counter()
    store = CoverageStore(past.engine)
    extent = store.extent("dock")
    assert extent is not None
    found = reckon("dock", store.between("dock", span), span, extent)
    json.dumps(fields(found))
    console = Console(file=StringIO(), width=120)
    for part in parts(found):
        console.print(part)
    return time.perf_counter() - began


def measures(idle_for: float) -> dict[str, Callable[[Past], float]]:
    """Return what is measured, by name."""
    return {
        "look-1": lambda past: look(past, 1),
        "look-50": lambda past: look(past, 50),
        "findings": findings,
        "list": listed,
        "command": command,
        "coverage": coverage,
        "idle": lambda past: idle(past, idle_for),
    }


@contextmanager
def databases(kind: str, sizes: Sequence[int]) -> Iterator[Iterator[tuple[int, Past]]]:
    """Make a database of each size, one after another; the server or the files end with it."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "sqlite":
            yield ((size, made(None, size, Path(folder) / str(size))) for size in sizes)
            return
        with serving(durable=True) as server:
            yield ((size, made(server.new(), size, Path(folder) / str(size))) for size in sizes)


def made(url: str | None, size: int, folder: Path) -> Past:
    """Make a database with a past; a month of coverage is there in any case."""
    folder.mkdir()
    url = url or f"sqlite:///{folder / DATABASE_FILE}"
    engine = open_database(url)
    fill(engine, max(size, LEAST), AT_ONCE, intervals=max(size // len(CAMERAS), 1500))
    return Past(engine=engine, url=url, folder=folder)


def command(past: Past) -> float:
    """Return the seconds of `longwatch incidents list`, most of them the start of Python."""
    config = past.folder / "longwatch.yaml"
    database = "" if past.url.startswith("sqlite") else f"database: {past.url}\n"
    config.write_text(f"data: {past.folder}\n{database}")
    words = [sys.executable, "-m", "deploy.cli", "incidents", "list", "--config", str(config)]
    began = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    return time.perf_counter() - began


def measured(kind: str, names: Sequence[str], options: argparse.Namespace) -> Figures:
    """Return the seconds of each measure, by its name and the size of the past.

    The sizes take turns, so that what else the machine does meets all of them.
    """
    found: Figures = {}
    with databases(kind, options.sizes) as made_one_by_one:
        pasts = dict(made_one_by_one)
        for name in names:
            rounds = FEW_ROUNDS if name in SLOW else options.rounds
            once = measures(options.idle)[name]
            turns = [{size: once(past) for size, past in pasts.items()} for _ in range(rounds + 1)]
            found[name] = {size: median(turn[size] for turn in turns[1:]) for size in pasts}
        for past in pasts.values():
            past.engine.dispose()
    return found


def show(kind: str, found: Figures) -> bool:
    """Print a table; return whether each measure is flat."""
    flat = True
    for name, by_size in found.items():
        least = by_size[min(by_size)]
        ratios = {size: seconds / least for size, seconds in by_size.items()}
        cells = "  ".join(f"{1000 * s:9.2f} ms {ratios[n]:5.2f}" for n, s in by_size.items())
        is_flat = max(ratios.values()) <= WANTED
        flat &= is_flat
        print(f"{kind:10} {name:9} {cells}  {'' if is_flat else f'NOT within {WANTED}'}")
    return flat


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(int, text.split(","))))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=_numbers, default=SIZES)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--idle", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    names, kinds = options.only.split(","), options.databases.split(",")
    found = {kind: measured(kind, names, options) for kind in kinds}
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'':20} " + "  ".join(f"{size:>9} incidents" for size in options.sizes))
    for kind, figures in found.items():
        show(kind, figures)


if __name__ == "__main__":
    main()
