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

from sqlalchemy import Engine, text

from alerts.dispatch.dispatcher import Dispatcher
from alerts.evidence.keeper import EvidenceKeeper
from alerts.notify.courier import Courier
from alerts.worker import BATCH, AlertsWorker
from deploy.cli.coverage_summary import summarize_coverage
from deploy.cli.render.coverage import coverage_fields, coverage_parts
from deploy.config.data_dir import DATABASE_FILE
from kit.alerts.history import CAMERAS, HISTORY_END, INTERVAL, RULE, fill_history
from kit.alerts.routing import AT_ONCE, an_open_incident
from kit.postgres.server import run_postgres
from kit.storage.fixtures import START, a_finding, by_rule
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.rows.coverage import CoverageStore
from storage.log.memory_log import MemoryLog
from storage.records.notifications import ChangeKind
from storage.records.records import TimeSpan
from storage.records.topics import FINDINGS
from storage.records.wire import encode_finding

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
class HistoryDatabase:
    """A database with a past, and a folder beside it."""

    engine: Engine
    url: str
    folder: Path

    @property
    def open_store(self) -> AlertStore:
        return AlertStore(self.engine)


def dispatch(past: HistoryDatabase, members: int) -> float:
    """Return the seconds that the router takes for a group in which so much is new."""
    store, dispatcher = past.open_store, Dispatcher(past.open_store, AT_ONCE)
    version = next(_NUMBERS)
    incidents = [an_open_incident(1000 * version + number) for number in range(members)]
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(each) for each in incidents])
        for each in incidents:
            transaction.notifications.enqueue(
                each, ChangeKind.OPENED, AT_ONCE.group_labels(each, ["soc"])
            )
    began = time.perf_counter()
    assert dispatcher.run_once(START) == 1
    took = time.perf_counter() - began
    end(store, [each.id for each in incidents])
    return took


def end(store: AlertStore, ids: Sequence[object]) -> None:
    """Close incidents and be done with all of them, so that the next round finds none."""
    with store.transaction() as transaction:
        for id in ids:
            for statement in ENDING:
                transaction.connection.execute(text(statement), {"id": str(id)})
        transaction.connection.execute(text("UPDATE deliveries SET state = 'delivered'" + WAITING))


def findings(past: HistoryDatabase) -> float:
    """Return the seconds that a batch of findings takes, of all cameras, none of them an alarm."""
    log, number = MemoryLog(), next(_NUMBERS)
    each = [
        replace(
            a_finding(0, 0.1, CAMERAS[n % len(CAMERAS)]), window_id=f"{number}-{n}", question="bag"
        )
        for n in range(BATCH)
    ]
    log.append_all(FINDINGS, [(finding.camera, encode_finding(finding)) for finding in each])
    worker = AlertsWorker(log, past.open_store, [RULE], lambda _: None)
    with past.open_store.transaction() as transaction:
        transaction.connection.execute(text("DELETE FROM positions"))
    began = time.perf_counter()
    assert worker.run_once() == BATCH
    return time.perf_counter() - began


def idle(past: HistoryDatabase, seconds: float) -> float:
    """Return the CPU seconds that the loops take in a second in which nothing happens."""
    log, store, stop = MemoryLog(), past.open_store, threading.Event()
    loops: list[Callable[[threading.Event], None]] = [
        AlertsWorker(log, store, [RULE], lambda _: None).run,
        Dispatcher(store, AT_ONCE).run,
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


def listed(past: HistoryDatabase) -> float:
    """Return the seconds that the 50 newest incidents take."""
    began = time.perf_counter()
    past.open_store.incidents(limit=50)
    return time.perf_counter() - began


def coverage(past: HistoryDatabase) -> float:
    """Return the seconds that a month of a camera takes, as JSON and as a picture."""
    from rich.console import Console

    span = TimeSpan(start=HISTORY_END - 1500 * INTERVAL, end=HISTORY_END)
    began = time.perf_counter()
    store = CoverageStore(past.engine)
    extent = store.extent("dock")
    assert extent is not None
    found = summarize_coverage("dock", store.between("dock", span), span, extent)
    json.dumps(coverage_fields(found))
    console = Console(file=StringIO(), width=120)
    for part in coverage_parts(found):
        console.print(part)
    return time.perf_counter() - began


def measures(idle_for: float) -> dict[str, Callable[[HistoryDatabase], float]]:
    """Return what is measured, by name."""
    return {
        "look-1": lambda past: dispatch(past, 1),
        "look-50": lambda past: dispatch(past, 50),
        "findings": findings,
        "list": listed,
        "command": command,
        "coverage": coverage,
        "idle": lambda past: idle(past, idle_for),
    }


@contextmanager
def databases(kind: str, sizes: Sequence[int]) -> Iterator[Iterator[tuple[int, HistoryDatabase]]]:
    """Make a database of each size, one after another; the server or the files end with it."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "sqlite":
            yield ((size, make_database(None, size, Path(folder) / str(size))) for size in sizes)
            return
        with run_postgres(durable=True) as server:
            yield (
                (size, make_database(server.create_database(), size, Path(folder) / str(size)))
                for size in sizes
            )


def make_database(url: str | None, size: int, folder: Path) -> HistoryDatabase:
    """Make a database with a past; a month of coverage is there in any case."""
    folder.mkdir()
    url = url or f"sqlite:///{folder / DATABASE_FILE}"
    engine = open_database(url)
    fill_history(engine, max(size, LEAST), AT_ONCE, intervals=max(size // len(CAMERAS), 1500))
    return HistoryDatabase(engine=engine, url=url, folder=folder)


def command(past: HistoryDatabase) -> float:
    """Return the seconds of `longwatch incidents list`, most of them the start of Python."""
    config = past.folder / "longwatch.yaml"
    database = "" if past.url.startswith("sqlite") else f"database: {past.url}\n"
    config.write_text(f"data: {past.folder}\n{database}")
    words = [sys.executable, "-m", "deploy", "incidents", "list", "--config", str(config)]
    began = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    return time.perf_counter() - began


def measure(kind: str, names: Sequence[str], options: argparse.Namespace) -> Figures:
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
    found = {kind: measure(kind, names, options) for kind in kinds}
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'':20} " + "  ".join(f"{size:>9} incidents" for size in options.sizes))
    for kind, figures in found.items():
        show(kind, figures)


if __name__ == "__main__":
    main()
