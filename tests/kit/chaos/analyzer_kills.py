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

from alerts.worker import AlertsWorker
from analyzer.kv.budget import MemoryPlan
from analyzer.questions.question import Question
from analyzer.watcher import Watcher
from analyzer.worker import GROUP, AnalyzerWorker
from kit.kafka.broker import Broker
from kit.model.small_model import small_runner, window
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import KafkaLog
from storage.log.log import Log, read_range
from storage.log.memory_log import MemoryLog
from storage.records.claims import covered_span, decode_claim
from storage.records.records import CoverageState, Finding, Window
from storage.records.topics import COVERAGE, FINDINGS, WINDOWS
from storage.records.wire import decode_finding, encode_window

CAMERAS = [f"camera-{n}" for n in range(8)]
ANALYZERS = 3
WINDOW_SECONDS = 16.0
"""Seconds of stream time in a window; it is cut `pace` seconds after the one before."""
QUESTION = Question(
    name="fire",
    ask="Is there a fire?",
    cameras=frozenset(),
    every=timedelta(seconds=WINDOW_SECONDS),
    look_back=None,
)
FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(
    ["analyzer.worker", "storage.log.kafka.log", "kit.model.small_model"]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzerKillResult:
    """What was done, and how the answers compare with those of one analyzer left alone."""

    faults: int
    windows: int
    answered: int
    shed: int
    missing: int
    findings_twice: int
    same_sign: float
    went_back: int
    stored_findings: int


def analyze(kafka_config: KafkaConfig) -> None:
    """Answer about the cameras of its share until killed."""
    import torch

    torch.set_num_threads(1)
    AnalyzerWorker(KafkaLog(kafka_config), a_watcher(), lambda _: None).run(threading.Event())


def a_watcher() -> Watcher:
    return Watcher(small_runner(), [QUESTION], MemoryPlan())


def run_analyzer_kills(
    folder: Path, broker: Broker, times: int, rng: random.Random, *, zombies: bool, pace: float
) -> AnalyzerKillResult:
    """Hurt analyzers so many times; raises AssertionError where one dies by itself."""
    kafka_config = broker.place(partitions=6, timeout=10.0)
    log = KafkaLog(kafka_config)
    producer = WindowProducer(log, pace)
    offsets = CommittedOffsets(log)
    analyzers = [_start(kafka_config) for _ in range(ANALYZERS)]
    try:
        wait_for(lambda: offsets.total() > 0, 120)
        for _ in range(times):
            number = rng.randrange(ANALYZERS)
            if zombies:
                _stop(analyzers[number], kafka_config.session + rng.uniform(1, 3))
            else:
                time.sleep(rng.uniform(0.5, 6.0))
                assert analyzers[number].is_alive(), "an analyzer died by itself"
                os.kill(analyzers[number].pid or 0, signal.SIGKILL)
                analyzers[number].join()
                analyzers[number] = _start(kafka_config)
        producer.stop()
        wait_for(lambda: offsets.total() >= _end_offset_total(log), 180)
        time.sleep(2.0)  # whoever was stopped may still write
        assert all(process.is_alive() for process in analyzers), "an analyzer died by itself"
    finally:
        producer.stop()
        offsets.stop()
        for process in analyzers:
            process.kill()
            process.join()
    result = _compare(folder, log, producer.windows, times, offsets.went_back)
    log.close()
    return result


class WindowProducer:
    """The cameras' windows, put into the log one camera after the other."""

    def __init__(self, log: Log, pace: float) -> None:
        self._log = log
        self._pace = pace / len(CAMERAS)
        self._stop = threading.Event()
        self.windows: list[Window] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
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


class CommittedOffsets:
    """Where the group stands, looked at again and again."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self._offsets = defaultdict[str, int](int)
        self.went_back = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def total(self) -> int:
        return sum(self._offsets.values())

    def offset_of(self, partition: str) -> int:
        return self._offsets[partition]

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.3):
            for partition in self._log.partitions(WINDOWS):
                at = self._log.committed(GROUP, partition)
                self.went_back += at < self._offsets[partition]
                self._offsets[partition] = at


def _start(kafka_config: KafkaConfig) -> multiprocessing.process.BaseProcess:
    process = FORK_SERVER.Process(target=analyze, args=(kafka_config,), daemon=True)
    process.start()
    return process


def _stop(process: multiprocessing.process.BaseProcess, seconds: float) -> None:
    """Let it hang beyond the group's patience, and go on."""
    assert process.is_alive(), "an analyzer died by itself"
    os.kill(process.pid or 0, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(process.pid or 0, signal.SIGCONT)
    time.sleep(3.0)


def _end_offset_total(log: Log) -> int:
    return sum(log.end_offset(partition) for partition in log.partitions(WINDOWS))


def entry_values(log: Log, topic: str) -> list[bytes]:
    found = list[bytes]()
    for partition in log.partitions(topic):
        found += [
            entry.value for entry in read_range(log, partition, 0, log.end_offset(partition), 1000)
        ]
    return found


def _compare(
    folder: Path, log: Log, windows: Sequence[Window], hurt: int, went_back: int
) -> AnalyzerKillResult:
    first = dict[str, Finding]()
    written = [decode_finding(value) for value in entry_values(log, FINDINGS)]
    for finding in written:
        first.setdefault(finding.window_id, finding)
    claims = [decode_claim(value) for value in entry_values(log, COVERAGE)]
    shed = {(claim.camera, claim.start) for claim in claims if claim.state is CoverageState.SHED}
    left_out = {each.id for each in windows if (each.camera, covered_span(each).start) in shed}
    missing = {each.id for each in windows} - first.keys() - left_out
    undisturbed = _undisturbed_findings(windows)
    agree = sum((first[id].margin > 0) == (undisturbed[id].margin > 0) for id in first)
    return AnalyzerKillResult(
        faults=hurt,
        windows=len(windows),
        answered=len(first),
        shed=len(left_out - first.keys()),
        missing=len(missing),
        findings_twice=len(written) - len(first),
        same_sign=round(agree / len(first), 4),
        went_back=went_back,
        stored_findings=_count_stored_findings(folder, log),
    )


def _undisturbed_findings(windows: Sequence[Window]) -> dict[str, Finding]:
    log = MemoryLog()
    for each in windows:
        log.append(WINDOWS, each.camera, encode_window(each))
    worker, stop = AnalyzerWorker(log, a_watcher(), lambda _: None), threading.Event()
    worker._load.record_batch(0.0, 10**9)  # it takes no time: nothing is shed
    while worker.run_once(stop):
        pass
    found = map(decode_finding, entry_values(log, FINDINGS))
    return {finding.window_id: finding for finding in found}


def _count_stored_findings(folder: Path, log: Log) -> int:
    engine = open_database(f"sqlite:///{folder / 'longwatch.db'}")
    store = AlertStore(engine)
    worker = AlertsWorker(log, store, (), lambda _: None)
    while worker.run_once():
        pass
    count = store.counts().findings
    engine.dispose()
    return count
