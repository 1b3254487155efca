"""Retention: for how long a transaction holds the lock of writers, and how many rows go a second.

    python tests/bench/retention.py [--incidents 200000] [--seconds 20] [--folder DIR]

A file holds so many resolved incidents, each with four entries of the trail, two notices, three
stills and two findings behind it, as many findings behind none, and for each five a delivery of
4 kB. Half of all is old. Retention runs once, as it does in production, for some seconds.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median
from threading import Event

import structlog
from sqlalchemy import Engine, text

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from alerts.evidence import retention
from alerts.evidence.retention import DeleteStep, RetentionJob, RetentionPeriods
from kit.storage.fixtures import START
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.transaction import Transaction

DAY = timedelta(days=1)
KEEP = RetentionPeriods(
    incidents=400 * DAY, deliveries=400 * DAY, dismissed=7 * DAY, findings=400 * DAY, stills=DAY
)
NUMBERS = "WITH RECURSIVE n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
AT = "'2024-01-01 00:00:00.000000'"
"""When what is old ended; what is young ends `NOW`."""
NOW = "'2026-11-22 08:00:00.000000'"
FILL = (
    "CREATE TEMP TABLE made AS " + NUMBERS + " SELECT i, lower(hex(randomblob(18))) AS id,"
    f" CASE WHEN i % 2 THEN {AT} ELSE {NOW} END AS at FROM n",
    "INSERT INTO groups (id, receiver, labels, number) VALUES ('group', 'soc', '{{}}', 1)",
    "INSERT INTO incidents (id, camera, rule, rule_version, severity, state, first_seen_at,"
    " opened_at, last_seen_at, closed_at, evidence, revision) SELECT id, 'dock', 'bag', 'r1',"
    " 'high', 'resolved', at, at, at, at, json_array(id || 0, id || 1), 4 FROM made",
    "INSERT INTO audit (number, incident_id, revision, entry, digest) SELECT 4 * i + k + 1, id,"
    " k + 1, printf('%.800c', 'x'), printf('%064d', i) FROM made,"
    " (SELECT 0 AS k UNION SELECT 1 UNION SELECT 2 UNION SELECT 3) ORDER BY 1",
    "INSERT INTO evidence (incident_id, moment, missing, settled_at) SELECT id, moment,"
    " 'forgotten', at FROM made, (SELECT 'at' AS moment UNION SELECT 'before' UNION SELECT"
    " 'after')",
    "INSERT INTO notices (incident_id, revision, receiver, group_id, kind, state, is_current)"
    " SELECT id, k, 'soc', 'group', 'opened', 'told', 0 FROM made,"
    " (SELECT 1 AS k UNION SELECT 4)",
    'INSERT INTO findings (id, window_id, camera, question, question_version, start, "end", score,'
    " margin, answer, since, model, memory_span, incidents) SELECT id || k, 'w', 'dock', 'bag',"
    " 'q1', at, at, 0.9, 1.0, 'yes', at, 'nano', 64.0, k < 2 FROM made,"
    " (SELECT 0 AS k UNION SELECT 1 UNION SELECT 2)",
    "INSERT INTO deliveries (id, group_id, number, receiver, state, attempts, next_at, body,"
    " tried_at, serial) SELECT id, 'group', i, 'soc', 'delivered', 1, at, zeroblob(4096), at, i"
    " FROM made WHERE i % 10 < 2",
    "INSERT INTO delivery_incidents SELECT id, id, 1 FROM made WHERE i % 10 < 2",
)


def fill(engine: Engine, count: int) -> None:
    """Write so many incidents and all that is about them."""
    with engine.begin() as connection:
        for statement in FILL:
            connection.execute(text(statement.format(last=count - 1)))


class TimedStore(AlertStore):
    """A store that measures for how long each transaction holds the lock, by `kind`."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.kind = ""
        self.held = defaultdict[str, list[float]](list)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Keep all that the block writes, and measure."""
        began = 0.0
        with super().transaction() as ledger:
            began = time.perf_counter()
            yield ledger
        self.held[self.kind].append(time.perf_counter() - began)


class TimedRetention(RetentionJob):
    """Retention that says which kind of rows it is at."""

    def __init__(self, store: TimedStore, folder: Path) -> None:
        super().__init__(store, folder, KEEP, Event())
        self._timed = store
        self.rows = defaultdict[str, int](int)
        self.seconds = defaultdict[str, float](float)

    def _run_step(self, step: DeleteStep, now: "retention.datetime") -> int:
        self._timed.kind, began = step.__name__.removeprefix("_forget_"), time.perf_counter()
        count = super()._run_step(step, now)
        self.rows[self._timed.kind] += count
        self.seconds[self._timed.kind] += time.perf_counter() - began
        return count


def main() -> None:
    """Fill a database, run retention, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--incidents", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    retention.MAX_RUN_SECONDS = given.seconds
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        engine = open_database(f"sqlite:///{folder}/longwatch.db")
        began = time.perf_counter()
        fill(engine, given.incidents)
        print(f"{given.incidents} incidents written in {time.perf_counter() - began:.0f} s")
        store = TimedStore(engine)
        keeper = TimedRetention(store, Path(folder) / "evidence")
        keeper.run_once(START + timedelta(minutes=1))
        for kind, held in sorted(store.held.items()):
            times = sorted(1000 * each for each in held)
            print(
                f"{kind:10} {len(times):5} transactions, under the lock median"
                f" {median(times):5.1f} ms, p99 {times[int(0.99 * (len(times) - 1))]:5.1f} ms,"
                f" most {times[-1]:5.1f} ms; {keeper.rows[kind] / keeper.seconds[kind]:7.0f} a"
                f" second with the pauses"
            )
        engine.dispose()


if __name__ == "__main__":
    main()
