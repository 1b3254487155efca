"""A broker stopped again and again under alerts, and what must be left of it."""

import random
import signal
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from statistics import median

from alerts_fixtures import receiving
from alerts_kills import CRASHING, compare, compare_posts, is_told
from alerts_role import acknowledged, serve
from kafka_broker import Broker
from storage_fixtures import a_finding, wait_for

from alerts.reading import READER
from storage import wire
from storage.database import open_database
from storage.errors import StorageBlocked
from storage.incidents import IncidentStore
from storage.kafka_log import KafkaLog
from storage.log import FINDINGS
from storage.records import Finding

PAUSE = 0.02
"""Seconds between two findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """What the stops were survived by, and how many seconds it took to go on.

    `lost_by_broker` are findings and revisions that it had acknowledged.
    """

    stops: int
    findings: int
    lost_by_broker: int
    again: int
    incidents: int
    deliveries: int
    longest: float
    median: float


class Giver:
    """An analyzer's findings, each appended until the log says that it has it."""

    def __init__(self, log: KafkaLog, chance: random.Random) -> None:
        self._log = log
        self._chance = chance
        self._stop = threading.Event()
        self.given: dict[str, list[Finding]] = {"dock": [], "yard": []}
        self.again = 0
        self.places = defaultdict[tuple[str, int], list[str]](list)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE):
            camera = self._chance.choice(["dock", "yard"])
            findings = self.given[camera]
            score = self._chance.choice([0.1, 0.6, 0.9, 0.9])
            findings.append(a_finding(len(findings), score, camera))
            value = wire.encode_finding(findings[-1])
            while True:
                try:
                    position = self._log.append(FINDINGS, camera, value)
                    self.places[self._log.part_of(FINDINGS, camera), position].append(
                        findings[-1].id
                    )
                    break
                except StorageBlocked:
                    self.again += 1


def survive(folder: Path, broker: Broker, stops: int, chance: random.Random) -> Toll:
    """Stop the broker so many times and compare with the oracle; raises AssertionError."""
    place = broker.place(timeout=3.0)
    log = KafkaLog(place)
    engine = open_database(f"sqlite:///{folder / 'longwatch.db'}")
    store = IncidentStore(engine)
    with receiving() as receiver:
        process = CRASHING.Process(target=serve, args=(folder, receiver.url, "", "", place))
        process.start()
        giver = Giver(log, random.Random(chance.random()))
        try:
            wait_for(lambda: _judged(store, log) > 0, 60)
            took = [_stop(broker, store, log, chance) for _ in range(stops)]
            giver.end()
            _wait_until_read(store, log, process)
            given = {name: _kept(log, store, name, giver) for name in giver.given}
            total = sum(map(len, given.values()))
            assert store.counts().findings == total
            wait_for(partial(is_told, store), 120)
            assert process.is_alive(), "alerts died by itself"
        finally:
            giver.end()
            process.kill()
            process.join()
    untold = compare(store, log, given, acknowledged(folder))
    compare_posts(receiver, store, stops)
    found = Toll(
        stops=stops,
        findings=total,
        lost_by_broker=sum(map(len, giver.given.values())) - total + untold,
        again=giver.again,
        incidents=len(store.incidents()),
        deliveries=len(store.deliveries()),
        longest=round(max(took), 2),
        median=round(median(took), 2),
    )
    log.close()
    engine.dispose()
    return found


def _kept(log: KafkaLog, store: IncidentStore, camera: str, giver: Giver) -> list[Finding]:
    """Return the findings that were judged, or that the broker has where nothing was before.

    noida-db may forget the last that it acknowledged before SIGTERM, and then gives the same
    positions again: who has read there already does not look again. Kafka itself would tell its
    readers, by the epoch of the partition's leader.
    """
    used_again = {id for ids in giver.places.values() for id in ids[1:]}
    given = giver.given[camera]
    part, position, found = log.part_of(FINDINGS, camera), 0, set[str]()
    end = log.next(part)
    while position < end:
        page = log.read(part, position, 1000)
        found |= {wire.decode_finding(entry.value).id for entry in page if entry.key == camera}
        position = page[-1].position + 1
    found -= used_again
    found |= {finding.id for finding in store.findings([each.id for each in given])}
    return [finding for finding in given if finding.id in found]


def _wait_until_read(store: IncidentStore, log: KafkaLog, process: ForkServerProcess) -> None:
    """Wait as long as it goes on: so few are judged at a time that it takes a while."""
    stood, since = 0, time.monotonic()
    while True:
        ends = {part: log.next(part) for part in log.parts(FINDINGS)}
        stands = {part: store.position(READER, part) for part in ends}
        if all(stands[part] >= end for part, end in ends.items()):
            return
        assert process.is_alive(), "alerts died by itself"
        if sum(stands.values()) > stood:
            stood, since = sum(stands.values()), time.monotonic()
        assert time.monotonic() < since + 30, f"read up to {stands} of {ends}"
        time.sleep(0.5)


def _judged(store: IncidentStore, log: KafkaLog) -> int:
    return sum(store.position(READER, part) for part in log.parts(FINDINGS))


def _stop(broker: Broker, store: IncidentStore, log: KafkaLog, chance: random.Random) -> float:
    """Stop at some moment; return how long it took to go on once it was back."""
    time.sleep(chance.uniform(0.2, 1.0))
    if chance.random() < 0.5:
        broker.signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0.5, 6.0))
        stood = _judged(store, log)
        broker.signal(signal.SIGCONT)
    else:
        broker.stop()
        time.sleep(chance.uniform(0.0, 2.0))
        stood = _judged(store, log)
        broker.start()
    back = time.monotonic()
    wait_for(lambda: _judged(store, log) > stood, 60)
    return time.monotonic() - back
