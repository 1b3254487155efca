"""Two analyzers over Kafka, one of which is restarted again and again as an upgrade would do it."""

import statistics
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from analyzer.worker import GROUP, AnalyzerWorker
from kit.chaos.analyzer_kills import (
    CAMERAS,
    CommittedOffsets,
    WindowProducer,
    a_watcher,
    entry_values,
)
from kit.kafka.broker import Broker
from kit.waiting import wait_for
from storage.errors import StorageError
from storage.log.kafka.client.config import KafkaConfig, StaticMember
from storage.log.kafka.groups.membership import KafkaGroupMembership
from storage.log.kafka.log import KafkaLog
from storage.records.claims import covered_span, decode_claim
from storage.records.records import CoverageState
from storage.records.topics import COVERAGE, FINDINGS, WINDOWS
from storage.records.wire import decode_finding


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartCost:
    """What restarts cost.

    `rebalances` is how often the group settled anew, `moved` how often the other analyzer lost, or
    got, a partition: none, where the new one joins while the group settles; `first` and `last` are
    the seconds from a stop until the first, and the last, partition of the stopped one went on.
    """

    restarts: int
    windows: int
    missing: int
    twice: int
    rebalances: int
    moved: int
    went_back: int
    first: float
    last: float


class AnalyzerThread:
    """An analyzer in a thread, which notes how its partitions change."""

    def __init__(self, kafka_config: KafkaConfig) -> None:
        self._log = KafkaLog(kafka_config)
        self._stop = threading.Event()
        self._worker = AnalyzerWorker(self._log, a_watcher(), lambda _: None)
        self._threads = [
            threading.Thread(target=work)
            for work in (lambda: self._worker.run(self._stop), self._record_partitions)
        ]
        self.partitions = frozenset[str]()
        self.moved = 0
        for each in self._threads:
            each.start()

    @property
    def generation(self) -> int:
        """Return how often its group has settled."""
        share = self._worker._membership
        assert isinstance(share, KafkaGroupMembership)
        return int(share._member.state.generation_id)

    def stop(self) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()
        self._log.close()

    def _record_partitions(self) -> None:
        while not self._stop.wait(0.02):
            with suppress(StorageError):
                partitions = self._worker._membership.partitions()
                self.moved += len(partitions ^ self.partitions)
                self.partitions = partitions


def run_analyzer_restarts(
    broker: Broker, times: int, *, is_static: bool, pace: float = 4.0
) -> RestartCost:
    """Restart one of two analyzers so many times, while windows come, and count what it cost."""
    kafka_config = broker.place(partitions=6, session=8.0)
    log = KafkaLog(kafka_config)
    producer, offsets = WindowProducer(log, pace), CommittedOffsets(log)
    steady = AnalyzerThread(_with_static_name(kafka_config, "stays", is_static))
    restarted = AnalyzerThread(_with_static_name(kafka_config, "goes", is_static))
    waits = list[tuple[float, float]]()
    try:
        _wait_until_shared(steady, restarted)
        before, generation = steady.moved, steady.generation
        for _ in range(times):
            time.sleep(pace)
            began, offsets_before = time.monotonic(), _committed_offsets(log, restarted.partitions)
            restarted.stop()
            restarted = AnalyzerThread(_with_static_name(kafka_config, "goes", is_static))
            waits.append(_resume_seconds(log, offsets_before, began))
            _wait_until_shared(steady, restarted)
        moved, rebalances = steady.moved - before, steady.generation - generation
        producer.stop()
        wait_for(lambda: offsets.total() >= sum(map(log.end_offset, log.partitions(WINDOWS))), 120)
    finally:
        producer.stop()
        offsets.stop()
        steady.stop()
        restarted.stop()
    first, last = (round(statistics.median(each), 1) for each in zip(*waits, strict=True))
    missing, twice = _count_missing_and_repeated(log, producer)
    log.close()
    return RestartCost(
        restarts=times,
        windows=len(producer.windows),
        missing=missing,
        twice=twice,
        rebalances=rebalances,
        moved=moved,
        went_back=offsets.went_back,
        first=first,
        last=last,
    )


def _with_static_name(kafka_config: KafkaConfig, name: str, is_static: bool) -> KafkaConfig:
    return (
        replace(kafka_config, static=StaticMember(name=name, session=30.0))
        if is_static
        else kafka_config
    )


def _wait_until_shared(*analyzers: AnalyzerThread) -> None:
    wait_for(lambda: [len(each.partitions) for each in analyzers] == [3, 3], 60)


def _committed_offsets(log: KafkaLog, partitions: frozenset[str]) -> dict[str, int]:
    """Return where the parts stand to which windows come."""
    busy = {log.partition_for(WINDOWS, camera) for camera in CAMERAS}
    return {partition: log.committed(GROUP, partition) for partition in partitions & busy}


def _resume_seconds(log: KafkaLog, stood: dict[str, int], began: float) -> tuple[float, float]:
    """Return the seconds until the first and the last of these parts went on."""
    took, waiting = list[float](), dict(stood)
    while waiting:
        time.sleep(0.02)
        for partition, offset in list(waiting.items()):
            if log.committed(GROUP, partition) > offset:
                del waiting[partition]
                took.append(time.monotonic() - began)
    return took[0], took[-1]


def _count_missing_and_repeated(log: KafkaLog, cut: WindowProducer) -> tuple[int, int]:
    """Return how many windows were neither judged nor shed, and how many judged twice."""
    found = [decode_finding(value).window_id for value in entry_values(log, FINDINGS)]
    claims = map(decode_claim, entry_values(log, COVERAGE))
    shed = {(each.camera, each.start) for each in claims if each.state is CoverageState.SHED}
    left = [each for each in cut.windows if (each.camera, covered_span(each).start) not in shed]
    return len({each.id for each in left} - set(found)), len(found) - len(set(found))
