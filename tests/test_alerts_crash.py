"""Judge and courier killed at random, again and again, and what is left of it."""

import multiprocessing
import os
import random
import signal
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from alerts_fixtures import receiving
from alerts_oracle import Story, stories
from alerts_role import RULE, serve
from storage_fixtures import a_finding, wait_for

from alerts.worker import READER
from storage import wire
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.log import FINDINGS, INCIDENTS, Log, SqliteLog
from storage.records import DeliveryState, Finding, Incident, IncidentState

KILLS = 20
FINDINGS_EACH = 150
CRASHING = multiprocessing.get_context("forkserver")
CRASHING.set_forkserver_preload(["alerts.worker", "alerts.courier"])


def started(data: Path, url: str) -> ForkServerProcess:
    process = CRASHING.Process(target=serve, args=(data, url))
    process.start()
    return process


def reached(store: IncidentStore, position: int) -> bool:
    return store.position(READER, FINDINGS) >= position


def kill(process: ForkServerProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def given_findings(log: Log, chance: random.Random) -> dict[str, list[Finding]]:
    """Append what an analyzer would, every tenth finding twice as after a crash of its own."""
    given: dict[str, list[Finding]] = {"dock": [], "yard": []}
    for number in range(FINDINGS_EACH):
        for camera, findings in given.items():
            score = chance.choice([0.1, 0.6, 0.9, 0.9])
            findings.append(a_finding(number, score, camera))
            again = chance.random() < 0.1
            value = wire.encode_finding(findings[-1])
            log.append(FINDINGS, camera, *([value, value] if again else [value]))
    return given


@pytest.mark.timeout(300)
def test_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    log = SqliteLog(tmp_path / "log.db")
    engine = open_database(f"sqlite:///{tmp_path / 'longwatch.db'}")
    store = IncidentStore(engine)
    given = given_findings(log, chance)
    with receiving() as receiver:
        for _ in range(KILLS):
            goal = store.position(READER, FINDINGS) + chance.randint(1, 6)
            process = started(tmp_path, receiver.url)
            wait_for(partial(reached, store, goal))
            process.join(chance.uniform(0.0, 0.02))
            kill(process)
        assert store.position(READER, FINDINGS) < log.next(FINDINGS), "killed too late to matter"
        assert receiver.posts, "killed before any delivery"
        process = started(tmp_path, receiver.url)
        try:
            wait_for(partial(reached, store, log.next(FINDINGS)), 120)
            wait_for(lambda: store.counts().deliveries[DeliveryState.WAITING] == 0)
        finally:
            kill(process)
    assert_nothing_lost(store, log, given)
    assert set(receiver.ids()) == {str(delivery.id) for delivery in store.deliveries()}
    assert len(receiver.ids()) <= len(store.deliveries()) + KILLS
    log.close()
    engine.dispose()


def assert_nothing_lost(store: IncidentStore, log: Log, given: dict[str, list[Finding]]) -> None:
    stored = store.findings([finding.id for findings in given.values() for finding in findings])
    assert sorted(stored, key=lambda each: each.id) == sorted(
        (finding for findings in given.values() for finding in findings),
        key=lambda each: each.id,
    )
    assert store.counts().findings == len(stored)
    incidents = store.incidents()
    for camera, findings in given.items():
        mine = sorted(
            (incident for incident in incidents if incident.camera == camera),
            key=lambda incident: incident.first_seen_at,
        )
        assert [story_of(incident) for incident in mine] == stories(RULE, findings)
    opened = [incident for incident in incidents if incident.opened_at is not None]
    resolved = [each for each in opened if each.state is IncidentState.RESOLVED]
    deliveries = store.deliveries()
    assert len(deliveries) == len(opened) + len(resolved)
    assert {delivery.state for delivery in deliveries} == {DeliveryState.DELIVERED}
    told = {(each.id, each.revision): each for each in published(log)}
    assert set(told) == {
        (incident.id, revision)
        for incident in incidents
        for revision in range(1, incident.revision + 1)
    }
    assert all(told[incident.id, incident.revision] == incident for incident in incidents)


def published(log: Log) -> list[Incident]:
    entries = log.read(INCIDENTS, 0, limit=10**6)
    return [wire.decode_incident(entry.value) for entry in entries]


def story_of(incident: Incident) -> Story:
    return Story(
        incident.state,
        incident.first_seen_at,
        incident.opened_at,
        incident.last_seen_at,
        incident.closed_at,
    )
