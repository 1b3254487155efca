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

from alerts_fixtures import Receiver, receiving
from alerts_kills import CRASHING, compare, compare_posts, is_told
from alerts_role import serve
from broker_cluster import place_on, wait_until_in_sync
from kafka_broker import Broker, wait_for_brokers
from storage_fixtures import a_finding, wait_for

from alerts.reading import READER
from storage import wire
from storage.database import open_database
from storage.errors import StorageBlocked
from storage.incidents import IncidentStore
from storage.kafka_log import KafkaLog
from storage.kafka_place import KafkaPlace
from storage.log import FINDINGS, Log
from storage.records import Finding

PAUSE = 0.02
"""Seconds between two findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
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


class Giver:
    """An analyzer's findings, each appended until the log says that it has it."""

    def __init__(
        self, log: Log, cameras: Sequence[str], chance: random.Random, pause: float = PAUSE
    ) -> None:
        self._log = log
        self._chance = chance
        self._pause = pause
        self._stop = threading.Event()
        self.given: dict[str, list[Finding]] = {camera: [] for camera in cameras}
        self.again = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            camera = self._chance.choice(list(self.given))
            findings = self.given[camera]
            score = self._chance.choice([0.1, 0.6, 0.9, 0.9])
            findings.append(a_finding(len(findings), score, camera))
            value = wire.encode_finding(findings[-1])
            while True:
                try:
                    self._log.append(FINDINGS, camera, value)
                    break
                except StorageBlocked:
                    self.again += 1


class Load:
    """Findings given all the time, and alerts that judge them into a database and notify."""

    def __init__(
        self, log: KafkaLog, store: IncidentStore, receiver: Receiver, giver: Giver
    ) -> None:
        self.log = log
        self.store = store
        self._receiver = receiver
        self._giver = giver
        self.parts = {log.part_of(FINDINGS, camera) for camera in giver.given}

    def judged(self) -> dict[str, int]:
        """Return up to where each part is judged."""
        return {part: self.store.position(READER, part) for part in self.parts}

    def settle(self, process: ForkServerProcess) -> None:
        """End what is given, and wait until all of it is judged and told."""
        self._giver.end()
        self._wait_until_read(process)
        wait_for(partial(is_told, self.store), 120)
        assert process.is_alive(), "alerts died by itself"

    def toll(self, stops: int, seconds: Sequence[float]) -> Toll:
        """Compare all with the oracle; raises AssertionError where anything is lost or twice."""
        given = self._giver.given
        compare(self.store, self.log, given)
        compare_posts(self._receiver, self.store, 0)
        return Toll(
            stops=stops,
            findings=sum(map(len, given.values())),
            again=self._giver.again,
            incidents=len(self.store.incidents()),
            deliveries=len(self.store.deliveries()),
            longest=round(max(seconds), 2),
            median=round(median(seconds), 2),
        )

    def _wait_until_read(self, process: ForkServerProcess) -> None:
        """Wait as long as it goes on: so few are judged at a time that it takes a while."""
        stood, since = 0, time.monotonic()
        while True:
            ends = {part: self.log.next(part) for part in self.parts}
            judged = self.judged()
            if all(judged[part] >= end for part, end in ends.items()):
                return
            assert process.is_alive(), "alerts died by itself"
            if sum(judged.values()) > stood:
                stood, since = sum(judged.values()), time.monotonic()
            assert time.monotonic() < since + 30, f"read up to {judged} of {ends}"
            time.sleep(0.5)


class Gaps:
    """How long each part stands still while findings are given, the longest of each."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._stop = threading.Event()
        self._judged = load.judged()
        self._since = dict.fromkeys(self._judged, time.monotonic())
        self._longest = dict.fromkeys(self._judged, 0.0)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> list[float]:
        self._stop.set()
        self._thread.join()
        return list(self._longest.values())

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            for part, position in self._load.judged().items():
                now = time.monotonic()
                self._longest[part] = max(self._longest[part], now - self._since[part])
                if position > self._judged[part]:
                    self._judged[part], self._since[part] = position, now


@contextmanager
def under_load(
    folder: Path, place: KafkaPlace, cameras: Sequence[str], chance: random.Random
) -> Iterator[tuple[Load, ForkServerProcess]]:
    """Give findings to a process of alerts, from which something has come already."""
    engine = open_database(f"sqlite:///{folder / 'longwatch.db'}")
    with closing(KafkaLog(place)) as log, receiving() as receiver:
        process = CRASHING.Process(target=serve, args=(folder, receiver.url, "", "", place))
        process.start()
        giver = Giver(log, cameras, random.Random(chance.random()))
        load = Load(log, IncidentStore(engine), receiver, giver)
        try:
            wait_for(lambda: all(load.judged().values()), 60)
            yield load, process
        finally:
            giver.end()
            process.kill()
            process.join()
    engine.dispose()


def survive(folder: Path, broker: Broker, stops: int, chance: random.Random) -> Toll:
    """Stop the only broker so many times; raises AssertionError where anything is lost or twice."""
    place = broker.place(timeout=3.0)
    with under_load(folder, place, ["dock", "yard"], chance) as (load, process):
        took = [_stop(broker, load, chance) for _ in range(stops)]
        load.settle(process)
        return load.toll(stops, took)


def roll(folder: Path, brokers: Sequence[Broker], restarts: int, chance: random.Random) -> Toll:
    """Restart so many of the brokers, one after the other, as an upgrade does."""
    place = place_on(brokers, partitions=6)
    cameras = [f"camera-{n}" for n in range(12)]
    with under_load(folder, place, cameras, chance) as (load, process):
        gaps = Gaps(load)
        try:
            for broker in islice(cycle(brokers), restarts):
                time.sleep(3.0)
                broker.stop()
                broker.start()
                wait_for_brokers(list(brokers))
                wait_until_in_sync(brokers)
            time.sleep(5.0)
        finally:
            longest = gaps.end()
        load.settle(process)
        return load.toll(restarts, longest)


def _stop(broker: Broker, load: Load, chance: random.Random) -> float:
    """Stop at some moment; return how long it took to go on once it was back."""
    time.sleep(chance.uniform(0.2, 1.0))
    number = chance.choice([signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL])
    if number == signal.SIGSTOP:
        broker.signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0.5, 6.0))
        stood = sum(load.judged().values())
        broker.signal(signal.SIGCONT)
    else:
        broker.stop(number)
        time.sleep(chance.uniform(0.0, 2.0))
        stood = sum(load.judged().values())
        broker.start()
    back = time.monotonic()
    wait_for(lambda: sum(load.judged().values()) > stood, 60)
    return time.monotonic() - back
