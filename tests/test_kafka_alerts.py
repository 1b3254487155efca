"""The role of alerts on Kafka that is away at the start, or goes away while it runs."""

import json
import signal
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from uuid import UUID

import pytest
from alerts_fixtures import AWAY, BAG, Receiver, a_webhook, receiving
from alerts_role import ROUTING
from kafka_broker import free_ports, running
from storage_fixtures import EVERY, a_finding, wait_for

from alerts import log_watch
from alerts.retention import KeepFor
from alerts.tickets import PLAIN
from deploy import daemon
from deploy.data import Places
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.kafka_log import KafkaLog
from storage.kafka_place import KafkaPlace
from storage.log import FINDINGS, INCIDENTS
from storage.wire import decode_incident, encode_finding


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_watch, "UNREACHABLE_AFTER", timedelta(seconds=2))
    monkeypatch.setattr(log_watch, "TICK", timedelta(seconds=1))


@contextmanager
def alerting(folder: Path, place: KafkaPlace, to: Receiver) -> Iterator[IncidentStore]:
    database, stop = f"sqlite:///{folder / 'longwatch.db'}", Event()
    month = timedelta(days=30)
    with ThreadPoolExecutor() as threads:
        running = threads.submit(
            daemon.alert,
            rules=[BAG, AWAY],
            receivers=[a_webhook(to.url)],
            routing=ROUTING,
            heartbeat=None,
            describer=PLAIN,
            cameras=("dock",),
            keep=KeepFor(
                incidents=month, deliveries=month, dismissed=month, findings=month, stills=month
            ),
            keep_log=place.retention,
            clock_tolerance=timedelta(minutes=5),
            places=Places(data=folder, log=place, database=database),
            stop=stop,
            promise=lambda _: None,
        )
        engine = open_database(database)
        try:
            yield IncidentStore(engine)
            assert not running.done(), running.exception()
        finally:
            stop.set()
            engine.dispose()
    running.result()


def told(receiver: Receiver) -> list[tuple[str, str]]:
    """Return what rules told, and in which state, in order."""
    return [
        (incident["rule"], incident["state"])
        for post in receiver.posts
        for incident in json.loads(post.body)["data"].get("incidents", [])
    ]


def find(log: KafkaLog, number: int) -> None:
    now = datetime.now(UTC)
    finding = replace(a_finding(number), start=now - EVERY, end=now)
    log.append(FINDINGS, finding.camera, encode_finding(finding))


def test_broker_that_is_away_at_the_start_is_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    place = KafkaPlace(bootstrap=(f"127.0.0.1:{port}",), prefix="x.", partitions=4, timeout=2.0)
    with receiving() as receiver, alerting(tmp_path, place, receiver) as store:
        wait_for(lambda: ("log-away", "open") in told(receiver))
        (incident,) = store.incidents()
        assert f"127.0.0.1:{port}" in incident.reason


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_broker_that_goes_away_is_told_and_hears_of_it_when_it_is_back(tmp_path: Path) -> None:
    with running() as broker, receiving() as receiver:
        place = broker.place(timeout=3.0)
        log = KafkaLog(place)
        with alerting(tmp_path, place, receiver) as store:
            find(log, 0)
            wait_for(lambda: ("bag", "open") in told(receiver), 60)
            broker.stop(signal.SIGKILL)
            wait_for(lambda: ("log-away", "open") in told(receiver), 60)
            broker.start()
            wait_for(lambda: ("log-away", "resolved") in told(receiver), 90)
            find(log, 1)
            wait_for(lambda: store.counts().findings == 2, 60)
            wait_for(lambda: published(log) == made(store), 60)
        log.close()


def published(log: KafkaLog) -> dict[UUID, list[int]]:
    found = defaultdict[UUID, list[int]](list)
    for part in log.parts(INCIDENTS):
        for entry in log.read(part, 0, 1000):
            incident = decode_incident(entry.value)
            if incident.revision not in found[incident.id]:
                found[incident.id].append(incident.revision)
    return dict(found)


def made(store: IncidentStore) -> dict[UUID, list[int]]:
    return {each.id: list(range(1, each.revision + 1)) for each in store.incidents()}
