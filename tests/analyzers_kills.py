"""Analyzers over Kafka killed or stopped at random, against one that nobody hurts."""

import multiprocessing
import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from kafka_broker import Broker
from small_model import small_speaker, window
from storage_fixtures import wait_for

from alerts.worker import AlertsWorker
from analyzer.plan import MemoryPlan
from analyzer.questions import Question
from analyzer.watcher import Watcher
from analyzer.worker import READER, AnalyzerWorker
from storage.claims import covered_by, decode_claim
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.kafka_log import KafkaLog
from storage.kafka_place import KafkaPlace
from storage.log import COVERAGE, FINDINGS, WINDOWS, Log, between
from storage.memory_log import MemoryLog
from storage.records import CoverageState, Finding, Window
from storage.wire import decode_finding, encode_window

CAMERAS = [f"camera-{n}" for n in range(8)]
ANALYZERS = 3
EACH = 16.0
"""Seconds of stream time in a window; it is cut `pace` seconds after the one before."""
QUESTION = Question(
    name="fire",
    ask="Is there a fire?",
    cameras=frozenset(),
    every=timedelta(seconds=EACH),
    look_back=None,
)
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["analyzer.worker", "storage.kafka_log", "small_model"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """What was done, and how the answers compare with those of one analyzer left alone."""

    hurt: int
    windows: int
    answered: int
    shed: int
    missing: int
    findings_twice: int
    same_sign: float
    went_back: int
    stored_findings: int


def analyze(place: KafkaPlace) -> None:
    """Answer about the cameras of its share until killed."""
    import torch

    torch.set_num_threads(1)
    AnalyzerWorker(KafkaLog(place), a_watcher(), lambda _: None).run(threading.Event())


def a_watcher() -> Watcher:
    return Watcher(small_speaker(), [QUESTION], MemoryPlan())


def survive(
    folder: Path, broker: Broker, times: int, chance: random.Random, *, zombies: bool, pace: float
) -> Toll:
    """Hurt analyzers so many times; raises AssertionError where one dies by itself."""
    place = broker.place(partitions=6, timeout=10.0)
    log = KafkaLog(place)
    cut = Cutter(log, pace)
    watching = Positions(log)
    analyzers = [_start(place) for _ in range(ANALYZERS)]
    try:
        wait_for(lambda: watching.total() > 0, 120)
        for _ in range(times):
            number = chance.randrange(ANALYZERS)
            if zombies:
                _stop(analyzers[number], place.session + chance.uniform(1, 3))
            else:
                time.sleep(chance.uniform(0.5, 6.0))
                assert analyzers[number].is_alive(), "an analyzer died by itself"
                os.kill(analyzers[number].pid or 0, signal.SIGKILL)
                analyzers[number].join()
                analyzers[number] = _start(place)
        cut.end()
        wait_for(lambda: watching.total() >= _end(log), 180)
        time.sleep(2.0)  # whoever was stopped may still write
        assert all(process.is_alive() for process in analyzers), "an analyzer died by itself"
    finally:
        cut.end()
        watching.end()
        for process in analyzers:
            process.kill()
            process.join()
    toll = _compare(folder, log, cut.windows, times, watching.went_back)
    log.close()
    return toll


class Cutter:
    """The cameras' windows, put into the log one camera after the other."""

    def __init__(self, log: Log, pace: float) -> None:
        self._log = log
        self._pace = pace / len(CAMERAS)
        self._stop = threading.Event()
        self.windows: list[Window] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(self._pace):
            nth, camera = divmod(number, len(CAMERAS))
            shades = (20 * camera, 255 - 9 * (nth % 20), 7 * nth % 256)
            made = window(nth, camera=CAMERAS[camera], shades=shades)
            self._log.append(WINDOWS, made.camera, encode_window(made))
            self.windows.append(made)
            number += 1


class Positions:
    """Where the group stands, looked at again and again."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self._stands = defaultdict[str, int](int)
        self.went_back = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def total(self) -> int:
        return sum(self._stands.values())

    def of(self, part: str) -> int:
        return self._stands[part]

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.3):
            for part in self._log.parts(WINDOWS):
                at = self._log.committed(READER, part)
                self.went_back += at < self._stands[part]
                self._stands[part] = at


def _start(place: KafkaPlace) -> multiprocessing.process.BaseProcess:
    process = SPAWN.Process(target=analyze, args=(place,), daemon=True)
    process.start()
    return process


def _stop(process: multiprocessing.process.BaseProcess, seconds: float) -> None:
    """Let it hang beyond the group's patience, and go on."""
    assert process.is_alive(), "an analyzer died by itself"
    os.kill(process.pid or 0, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(process.pid or 0, signal.SIGCONT)
    time.sleep(3.0)


def _end(log: Log) -> int:
    return sum(log.next(part) for part in log.parts(WINDOWS))


def entries(log: Log, topic: str) -> list[bytes]:
    found = list[bytes]()
    for part in log.parts(topic):
        found += [entry.value for entry in between(log, part, 0, log.next(part), 1000)]
    return found


def _compare(folder: Path, log: Log, windows: Sequence[Window], hurt: int, went_back: int) -> Toll:
    first = dict[str, Finding]()
    written = [decode_finding(value) for value in entries(log, FINDINGS)]
    for finding in written:
        first.setdefault(finding.window_id, finding)
    claims = [decode_claim(value) for value in entries(log, COVERAGE)]
    shed = {(claim.camera, claim.start) for claim in claims if claim.state is CoverageState.SHED}
    left_out = {each.id for each in windows if (each.camera, covered_by(each).start) in shed}
    missing = {each.id for each in windows} - first.keys() - left_out
    alone = _left_alone(windows)
    agree = sum((first[id].margin > 0) == (alone[id].margin > 0) for id in first)
    return Toll(
        hurt=hurt,
        windows=len(windows),
        answered=len(first),
        shed=len(left_out - first.keys()),
        missing=len(missing),
        findings_twice=len(written) - len(first),
        same_sign=round(agree / len(first), 4),
        went_back=went_back,
        stored_findings=_stored(folder, log),
    )


def _left_alone(windows: Sequence[Window]) -> dict[str, Finding]:
    log = MemoryLog()
    for each in windows:
        log.append(WINDOWS, each.camera, encode_window(each))
    worker, stop = AnalyzerWorker(log, a_watcher(), lambda _: None), threading.Event()
    worker._load.work(0.0, 10**9)  # it takes no time: nothing is shed
    while worker.run_once(stop):
        pass
    found = map(decode_finding, entries(log, FINDINGS))
    return {finding.window_id: finding for finding in found}


def _stored(folder: Path, log: Log) -> int:
    engine = open_database(f"sqlite:///{folder / 'longwatch.db'}")
    store = IncidentStore(engine)
    worker = AlertsWorker(log, store, (), lambda _: None)
    while worker.run_once():
        pass
    count = store.counts().findings
    engine.dispose()
    return count
