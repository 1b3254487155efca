"""How many findings a second are judged and stored, beside plain inserts of the same rows.

    python tests/bench/alerts.py [--cameras 1000] [--rounds 3] [--json]

A thousand cameras with ten questions each, asked every 16 s, make 625 findings a second. One
camera in fifty has an incident going on. Nothing is acknowledged before it is durable: batches
are committed with `synchronous=FULL`.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from sqlalchemy import insert

# Before this folder, in which this file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from storage_fixtures import EVERY, a_finding

from alerts.rules import Rule
from alerts.worker import BATCH, AlertsWorker
from storage import tables
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.log import FINDINGS
from storage.records import Finding
from storage.sqlite_log import SqliteLog
from storage.wire import encode_finding

QUESTIONS = [f"question-{n}" for n in range(10)]
WANTED = 3000.0


def findings(cameras: int, rounds: int) -> Iterator[list[Finding]]:
    """Yield what an analyzer says in each round."""
    chance = random.Random(7)
    going_on = {(chance.randrange(cameras), chance.choice(QUESTIONS)) for _ in range(cameras // 50)}
    for number in range(rounds):
        plain = a_finding(number)
        yield [
            replace(
                plain,
                window_id=f"camera-{camera}@{plain.start.isoformat(timespec='milliseconds')}",
                camera=f"camera-{camera}",
                question=question,
                score=0.95 if (camera, question) in going_on else chance.random() * 0.5,
            )
            for camera in range(cameras)
            for question in QUESTIONS
        ]


def judged(folder: Path, rounds: list[list[Finding]]) -> float:
    """Return the findings a second that the alerts role judges and stores."""
    log = SqliteLog(folder / "log.db")
    for each in rounds:
        log.append_all(FINDINGS, [(finding.camera, encode_finding(finding)) for finding in each])
    engine = open_database(f"sqlite:///{folder / 'longwatch.db'}")
    rules = [Rule(name=q, question=q, above=0.9, below=0.5, for_=EVERY) for q in QUESTIONS]
    worker = AlertsWorker(log, IncidentStore(engine), rules, lambda _: None)
    began, done = time.perf_counter(), 0
    while handled := worker.run_once():
        done += handled
    elapsed = time.perf_counter() - began
    engine.dispose()
    log.close()
    return done / elapsed


def inserted(folder: Path, rounds: list[list[Finding]], together: int) -> float:
    """Return the findings a second that a loop of inserts stores, so many in a transaction."""
    engine = open_database(f"sqlite:///{folder / f'plain-{together}.db'}")
    all_of_them = [finding for each in rounds for finding in each]
    if together == 1:
        all_of_them = all_of_them[:2000]
    began = time.perf_counter()
    for first in range(0, len(all_of_them), together):
        with engine.begin() as connection:
            for finding in all_of_them[first : first + together]:
                row = {"id": finding.id, **asdict(finding)}
                connection.execute(insert(tables.findings), row)
    elapsed = time.perf_counter() - began
    engine.dispose()
    return len(all_of_them) / elapsed


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = list(findings(options.cameras, options.rounds))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        ours = judged(Path(folder), rounds)
        batched = inserted(Path(folder), rounds, BATCH)
        single = inserted(Path(folder), rounds, 1)
    figures = {"judged": ours, "inserted_in_batches": batched, "inserted_one_by_one": single}
    if options.json:
        print(json.dumps(figures))
        return
    print(f"judged and stored       {ours:8.0f} findings/s (wanted: {WANTED:.0f})")
    print(f"plain loop, {BATCH} a commit {batched:8.0f} rows/s: ours is {ours / batched:.2f} of it")
    print(f"plain loop, one a commit{single:8.0f} rows/s: ours is {ours / single:.2f} times it")


if __name__ == "__main__":
    main()
