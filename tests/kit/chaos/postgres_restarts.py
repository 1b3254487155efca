"""PostgreSQL restarted again and again under alerts, and what must be left of it."""

import random
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from alerts.intake.cursor import READER
from kit.alerts.role import compete, serve
from kit.alerts.webhook_receiver import RecordingReceiver, run_receiver
from kit.chaos.alerts_kills import (
    FORK_SERVER,
    append_findings,
    assert_matches_oracle,
    assert_posts_match,
    is_settled,
)
from kit.postgres.server import Postgres
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.errors import StorageBlocked
from storage.log.log import Log
from storage.log.sqlite.log import SqliteLog
from storage.records.records import Finding
from storage.records.topics import FINDINGS

FINDINGS_PER_RESTART = 30
"""Findings of each camera for one restart: more than are judged before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresRestartResult:
    """What the restarts were survived by, and how many seconds it took to go on."""

    restarts: int
    findings: int
    incidents: int
    deliveries: int
    longest: float
    median: float


def run_postgres_restarts(
    folder: Path, server: Postgres, restarts: int, rng: random.Random
) -> PostgresRestartResult:
    """Restart so many times under load and compare with the oracle; raises AssertionError."""
    log, database = SqliteLog(folder / "log.db"), server.create_database()
    engine = open_database(database)
    store = AlertStore(engine)
    given: dict[str, list[Finding]] = {"dock": [], "yard": []}
    try:
        with run_receiver() as receiver:
            arguments = (folder, receiver.url, "", database)
            processes = [
                FORK_SERVER.Process(target=serve, args=arguments),
                FORK_SERVER.Process(target=compete, args=(folder, "", database)),
            ]
            for process in processes:
                process.start()
            try:
                took = list[float]()
                for n in range(1, restarts + 1):
                    took.append(_restart(server, store, log, given, rng, FINDINGS_PER_RESTART * n))
                    assert all(process.is_alive() for process in processes), "one died by itself"
                wait_for(lambda: _judged_offset(store) >= log.end_offset(FINDINGS), 300)
                wait_for(partial(is_settled, store), 120)
                assert not any(process.exitcode for process in processes), "one died by itself"
            finally:
                for process in processes:
                    process.kill()
                    process.join()
        return _result(store, log, given, receiver, took)
    finally:
        log.close()
        engine.dispose()


def _restart(
    server: Postgres,
    store: AlertStore,
    log: Log,
    given: dict[str, list[Finding]],
    rng: random.Random,
    each: int,
) -> float:
    """Restart at some moment under load; return how long it took to go on once it was back."""
    start = _judged_offset(store)
    append_findings(log, rng, each, given)
    wait_for(lambda: _judged_offset(store) > start)
    time.sleep(rng.uniform(0.0, 0.1))
    server.stop(rng.choice(["immediate", "fast"]))
    time.sleep(rng.uniform(0.0, 0.2))
    server.start()
    back = time.monotonic()
    offset = _offset_once_up(store)
    assert offset < log.end_offset(FINDINGS), "all was judged before the restart"
    wait_for(lambda: _judged_offset(store) > offset)
    return time.monotonic() - back


def _judged_offset(store: AlertStore) -> int:
    return store.committed_offset(READER, FINDINGS)


def _offset_once_up(store: AlertStore) -> int:
    while True:
        try:
            return _judged_offset(store)
        except StorageBlocked:
            time.sleep(0.01)


def _result(
    store: AlertStore,
    log: Log,
    given: dict[str, list[Finding]],
    receiver: RecordingReceiver,
    took: list[float],
) -> PostgresRestartResult:
    assert_matches_oracle(store, log, given)
    assert_posts_match(receiver, store, len(took))
    assert store.verify_audit().problem is None
    return PostgresRestartResult(
        restarts=len(took),
        findings=sum(map(len, given.values())),
        incidents=len(store.incidents()),
        deliveries=len(store.deliveries()),
        longest=round(max(took), 2),
        median=round(median(took), 2),
    )
