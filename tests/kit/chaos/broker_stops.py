"""Brokers stopped and restarted under alerts, and what must be left of it."""

import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from statistics import median

from alerts.intake.cursor import READER
from kit.alerts.role import serve
from kit.alerts.webhook_receiver import RecordingReceiver, run_receiver
from kit.chaos.alerts_kills import (
    FORK_SERVER,
    assert_matches_oracle,
    assert_posts_match,
    is_settled,
)
from kit.kafka.broker import Broker, wait_for_brokers
from kit.kafka.cluster import place_on, wait_until_in_sync
from kit.storage.fixtures import a_finding
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.errors import StorageBlocked
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import KafkaLog
from storage.log.log import Log
from storage.records import wire
from storage.records.records import Finding
from storage.records.topics import FINDINGS

PAUSE = 0.02
"""Seconds between two findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerStopResult:
    """What the stops were survived by, and how many seconds nothing went on.

    That is counted from when the broker is back, or, where others stay, all the time and for
    each part.
    """

    stops: int
    findings: int
    again: int
    incidents: int
    deliveries: int
    longest: float
    median: float


class RetryingFindingProducer:
    """An analyzer's findings, each appended until the log says that it has it."""

    def __init__(
        self, log: Log, cameras: Sequence[str], rng: random.Random, pause: float = PAUSE
    ) -> None:
        self._log = log
        self._rng = rng
        self._pause = pause
        self._stop = threading.Event()
        self.produced: dict[str, list[Finding]] = {camera: [] for camera in cameras}
        self.again = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            camera = self._rng.choice(list(self.produced))
            findings = self.produced[camera]
            score = self._rng.choice([0.1, 0.6, 0.9, 0.9])
            findings.append(a_finding(len(findings), score, camera))
            value = wire.encode_finding(findings[-1])
            while True:
                try:
                    self._log.append(FINDINGS, camera, value)
                    break
                except StorageBlocked:
                    self.again += 1


class AlertsUnderLoad:
    """Findings given all the time, and alerts that judge them into a database and notify."""

    def __init__(
        self,
        log: KafkaLog,
        store: AlertStore,
        receiver: RecordingReceiver,
        producer: RetryingFindingProducer,
    ) -> None:
        self.log = log
        self.store = store
        self._receiver = receiver
        self._producer = producer
        self.partitions = {log.partition_for(FINDINGS, camera) for camera in producer.produced}

    def judged_offsets(self) -> dict[str, int]:
        """Return up to where each part is judged."""
        return {
            partition: self.store.committed_offset(READER, partition)
            for partition in self.partitions
        }

    def finish(self, process: ForkServerProcess) -> None:
        """End what is given, and wait until all of it is judged and told."""
        self._producer.stop()
        self._wait_until_read(process)
        wait_for(partial(is_settled, self.store), 120)
        assert process.is_alive(), "alerts died by itself"

    def result(self, stops: int, seconds: Sequence[float]) -> BrokerStopResult:
        """Compare all with the oracle; raises AssertionError where anything is lost or twice."""
        given = self._producer.produced
        assert_matches_oracle(self.store, self.log, given)
        assert_posts_match(self._receiver, self.store, 0)
        return BrokerStopResult(
            stops=stops,
            findings=sum(map(len, given.values())),
            again=self._producer.again,
            incidents=len(self.store.incidents()),
            deliveries=len(self.store.deliveries()),
            longest=round(max(seconds), 2),
            median=round(median(seconds), 2),
        )

    def _wait_until_read(self, process: ForkServerProcess) -> None:
        """Wait as long as it goes on: so few are judged at a time that it takes a while."""
        judged_total, since = 0, time.monotonic()
        while True:
            ends = {partition: self.log.end_offset(partition) for partition in self.partitions}
            judged = self.judged_offsets()
            if all(judged[partition] >= end for partition, end in ends.items()):
                return
            assert process.is_alive(), "alerts died by itself"
            if sum(judged.values()) > judged_total:
                judged_total, since = sum(judged.values()), time.monotonic()
            assert time.monotonic() < since + 30, f"read up to {judged} of {ends}"
            time.sleep(0.5)


class StallMeter:
    """How long each part stands still while findings are given, the longest of each."""

    def __init__(self, load: AlertsUnderLoad) -> None:
        self._load = load
        self._stop = threading.Event()
        self._offsets = load.judged_offsets()
        self._since = dict.fromkeys(self._offsets, time.monotonic())
        self._longest = dict.fromkeys(self._offsets, 0.0)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> list[float]:
        self._stop.set()
        self._thread.join()
        return list(self._longest.values())

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            for part, position in self._load.judged_offsets().items():
                now = time.monotonic()
                self._longest[part] = max(self._longest[part], now - self._since[part])
                if position > self._offsets[part]:
                    self._offsets[part], self._since[part] = position, now


@contextmanager
def run_alerts_under_load(
    folder: Path, kafka_config: KafkaConfig, cameras: Sequence[str], rng: random.Random
) -> Iterator[tuple[AlertsUnderLoad, ForkServerProcess]]:
    """Give findings to a process of alerts, from which something has come already."""
    engine = open_database(f"sqlite:///{folder / 'longwatch.db'}")
    with closing(KafkaLog(kafka_config)) as log, run_receiver() as receiver:
        process = FORK_SERVER.Process(
            target=serve, args=(folder, receiver.url, "", "", kafka_config)
        )
        process.start()
        producer = RetryingFindingProducer(log, cameras, random.Random(rng.random()))
        load = AlertsUnderLoad(log, AlertStore(engine), receiver, producer)
        try:
            wait_for(lambda: all(load.judged_offsets().values()), 60)
            yield load, process
        finally:
            producer.stop()
            process.kill()
            process.join()
    engine.dispose()


def run_broker_stops(
    folder: Path, broker: Broker, stops: int, rng: random.Random
) -> BrokerStopResult:
    """Stop the only broker so many times; raises AssertionError where anything is lost or twice."""
    kafka_config = broker.place(timeout=3.0)
    with run_alerts_under_load(folder, kafka_config, ["dock", "yard"], rng) as (load, process):
        took = [_stop(broker, load, rng) for _ in range(stops)]
        load.finish(process)
        return load.result(stops, took)


def run_rolling_restart(
    folder: Path, brokers: Sequence[Broker], restarts: int, rng: random.Random
) -> BrokerStopResult:
    """Restart so many of the brokers, one after the other, as an upgrade does."""
    kafka_config = place_on(brokers, partitions=6)
    cameras = [f"camera-{n}" for n in range(12)]
    with run_alerts_under_load(folder, kafka_config, cameras, rng) as (load, process):
        gaps = StallMeter(load)
        try:
            for broker in islice(cycle(brokers), restarts):
                time.sleep(3.0)
                broker.stop()
                broker.start()
                wait_for_brokers(list(brokers))
                wait_until_in_sync(brokers)
            time.sleep(5.0)
        finally:
            longest = gaps.stop()
        load.finish(process)
        return load.result(restarts, longest)


def _stop(broker: Broker, load: AlertsUnderLoad, rng: random.Random) -> float:
    """Stop at some moment; return how long it took to go on once it was back."""
    time.sleep(rng.uniform(0.2, 1.0))
    number = rng.choice([signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL])
    if number == signal.SIGSTOP:
        broker.signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0.5, 6.0))
        before = sum(load.judged_offsets().values())
        broker.signal(signal.SIGCONT)
    else:
        broker.stop(number)
        time.sleep(rng.uniform(0.0, 2.0))
        before = sum(load.judged_offsets().values())
        broker.start()
    back = time.monotonic()
    wait_for(lambda: sum(load.judged_offsets().values()) > before, 60)
    return time.monotonic() - back
