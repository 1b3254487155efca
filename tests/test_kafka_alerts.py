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

from alerts.dispatch.describer import DEFAULT_DESCRIBER
from alerts.evidence.retention import RetentionPeriods
from alerts.intake import outage_monitor
from deploy.config.data_dir import StorageLocations
from deploy.logs.setup import LoggingConfig
from deploy.runtime.roles import AlertRole
from kit.alerts.role import IMMEDIATE_POLICY
from kit.alerts.webhook_receiver import (
    BAG_RULE,
    LOG_UNREACHABLE_RULE,
    RecordingReceiver,
    a_webhook,
    run_receiver,
)
from kit.kafka.broker import free_ports, run_broker
from kit.storage.fixtures import WINDOW_LENGTH, a_finding
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import KafkaLog
from storage.records.topics import FINDINGS, INCIDENTS
from storage.records.wire import decode_incident, encode_finding


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage_monitor, "UNREACHABLE_AFTER", timedelta(seconds=2))
    monkeypatch.setattr(outage_monitor, "TICK", timedelta(seconds=1))


@contextmanager
def alerting(
    folder: Path, kafka_config: KafkaConfig, to: RecordingReceiver
) -> Iterator[AlertStore]:
    database, stop = f"sqlite:///{folder / 'longwatch.db'}", Event()
    month = timedelta(days=30)
    with ThreadPoolExecutor() as threads:
        role = AlertRole(
            name="alerts",
            logging=LoggingConfig(),
            rules=[BAG_RULE, LOG_UNREACHABLE_RULE],
            receivers=[a_webhook(to.url)],
            notification_policy=IMMEDIATE_POLICY,
            heartbeat=None,
            describer=DEFAULT_DESCRIBER,
            cameras=("dock",),
            retention=RetentionPeriods(
                incidents=month, deliveries=month, dismissed=month, findings=month, stills=month
            ),
            log_retention=kafka_config.retention,
            clock_tolerance=timedelta(minutes=5),
            locations=StorageLocations(data=folder, log=kafka_config, database=database),
        )
        running = threads.submit(role.run, stop, lambda _: None)
        engine = open_database(database)
        try:
            yield AlertStore(engine)
            assert not running.done(), running.exception()
        finally:
            stop.set()
            engine.dispose()
    running.result()


def posted_states(receiver: RecordingReceiver) -> list[tuple[str, str]]:
    """Return what rules told, and in which state, in order."""
    return [
        (incident["rule"], incident["state"])
        for post in receiver.posts
        for incident in json.loads(post.body)["data"].get("incidents", [])
    ]


def find(log: KafkaLog, number: int) -> None:
    now = datetime.now(UTC)
    finding = replace(a_finding(number), start=now - WINDOW_LENGTH, end=now)
    log.append(FINDINGS, finding.camera, encode_finding(finding))


def test_broker_that_is_away_at_the_start_is_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    kafka_config = KafkaConfig(
        bootstrap=(f"127.0.0.1:{port}",), prefix="x.", partitions=4, timeout=2.0
    )
    with run_receiver() as receiver, alerting(tmp_path, kafka_config, receiver) as store:
        wait_for(lambda: ("log-away", "open") in posted_states(receiver))
        (incident,) = store.incidents()
        assert f"127.0.0.1:{port}" in incident.reason


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_broker_that_goes_away_is_told_and_hears_of_it_when_it_is_back(tmp_path: Path) -> None:
    with run_broker() as broker, run_receiver() as receiver:
        kafka_config = broker.place(timeout=3.0)
        log = KafkaLog(kafka_config)
        with alerting(tmp_path, kafka_config, receiver) as store:
            find(log, 0)
            wait_for(lambda: ("bag", "open") in posted_states(receiver), 60)
            broker.stop(signal.SIGKILL)
            wait_for(lambda: ("log-away", "open") in posted_states(receiver), 60)
            broker.start()
            wait_for(lambda: ("log-away", "resolved") in posted_states(receiver), 90)
            find(log, 1)
            wait_for(lambda: store.counts().findings == 2, 60)
            wait_for(lambda: published(log) == made(store), 60)
        log.close()


def published(log: KafkaLog) -> dict[UUID, list[int]]:
    found = defaultdict[UUID, list[int]](list)
    for partition in log.partitions(INCIDENTS):
        for entry in log.read(partition, 0, 1000):
            incident = decode_incident(entry.value)
            if incident.revision not in found[incident.id]:
                found[incident.id].append(incident.revision)
    return dict(found)


def made(store: AlertStore) -> dict[UUID, list[int]]:
    return {each.id: list(range(1, each.revision + 1)) for each in store.incidents()}
