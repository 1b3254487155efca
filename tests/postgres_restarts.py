"""PostgreSQL restarted again and again under alerts, and what must be left of it."""

import random
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from alerts_fixtures import Receiver, receiving
from alerts_kills import CRASHING, compare, compare_posts, give, is_told
from alerts_role import compete, serve
from postgres_fixtures import Postgres
from storage_fixtures import wait_for

from alerts.reading import READER
from storage.database import open_database
from storage.errors import StorageBlocked
from storage.incidents import IncidentStore
from storage.log import FINDINGS, Log
from storage.records import Finding
from storage.sqlite_log import SqliteLog

EACH = 30
"""Findings of each camera for one restart: more than are judged before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """What the restarts were survived by, and how many seconds it took to go on."""

    restarts: int
    findings: int
    incidents: int
    deliveries: int
    longest: float
    median: float


def survive(folder: Path, server: Postgres, restarts: int, chance: random.Random) -> Toll:
    """Restart so many times under load and compare with the oracle; raises AssertionError."""
    log, database = SqliteLog(folder / "log.db"), server.new()
    engine = open_database(database)
    store = IncidentStore(engine)
    given: dict[str, list[Finding]] = {"dock": [], "yard": []}
    try:
        with receiving() as receiver:
            arguments = (folder, receiver.url, "", database)
            processes = [
                CRASHING.Process(target=serve, args=arguments),
                CRASHING.Process(target=compete, args=(folder, "", database)),
            ]
            for process in processes:
                process.start()
            try:
                took = list[float]()
                for n in range(1, restarts + 1):
                    took.append(_restart(server, store, log, given, chance, EACH * n))
                    assert all(process.is_alive() for process in processes), "one died by itself"
                wait_for(lambda: _position(store) >= log.next(FINDINGS), 300)
                wait_for(partial(is_told, store), 120)
                assert not any(process.exitcode for process in processes), "one died by itself"
            finally:
                for process in processes:
                    process.kill()
                    process.join()
        return _told(store, log, given, receiver, took)
    finally:
        log.close()
        engine.dispose()


def _restart(
    server: Postgres,
    store: IncidentStore,
    log: Log,
    given: dict[str, list[Finding]],
    chance: random.Random,
    each: int,
) -> float:
    """Restart at some moment under load; return how long it took to go on once it was back."""
    start = _position(store)
    give(log, chance, each, given)
    wait_for(lambda: _position(store) > start)
    time.sleep(chance.uniform(0.0, 0.1))
    server.stop(chance.choice(["immediate", "fast"]))
    time.sleep(chance.uniform(0.0, 0.2))
    server.start()
    back = time.monotonic()
    stood = _when_up(store)
    assert stood < log.next(FINDINGS), "all was judged before the restart"
    wait_for(lambda: _position(store) > stood)
    return time.monotonic() - back


def _position(store: IncidentStore) -> int:
    return store.position(READER, FINDINGS)


def _when_up(store: IncidentStore) -> int:
    while True:
        try:
            return _position(store)
        except StorageBlocked:
            time.sleep(0.01)


def _told(
    store: IncidentStore,
    log: Log,
    given: dict[str, list[Finding]],
    receiver: Receiver,
    took: list[float],
) -> Toll:
    compare(store, log, given)
    compare_posts(receiver, store, len(took))
    assert store.verify().problem is None
    return Toll(
        restarts=len(took),
        findings=sum(map(len, given.values())),
        incidents=len(store.incidents()),
        deliveries=len(store.deliveries()),
        longest=round(max(took), 2),
        median=round(median(took), 2),
    )
