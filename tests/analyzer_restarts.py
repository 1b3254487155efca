"""Two analyzers over Kafka, one of which is restarted again and again as an upgrade would do it."""

import statistics
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from analyzers_kills import CAMERAS, Cutter, Positions, a_watcher, entries
from kafka_broker import Broker
from storage_fixtures import wait_for

from analyzer.worker import READER, AnalyzerWorker
from storage.claims import covered_by, decode_claim
from storage.errors import StorageError
from storage.kafka_log import KafkaLog
from storage.kafka_place import KafkaPlace, StaticMember
from storage.kafka_share import KafkaShare
from storage.log import COVERAGE, FINDINGS, WINDOWS
from storage.records import CoverageState
from storage.wire import decode_finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
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


class Analyzer:
    """An analyzer in a thread, which notes how its partitions change."""

    def __init__(self, place: KafkaPlace) -> None:
        self._log = KafkaLog(place)
        self._stop = threading.Event()
        self._worker = AnalyzerWorker(self._log, a_watcher(), lambda _: None)
        self._threads = [
            threading.Thread(target=work)
            for work in (lambda: self._worker.run(self._stop), self._note)
        ]
        self.parts = frozenset[str]()
        self.moved = 0
        for each in self._threads:
            each.start()

    @property
    def generation(self) -> int:
        """Return how often its group has settled."""
        share = self._worker._share
        assert isinstance(share, KafkaShare)
        return int(share._member.state.generation_id)

    def stop(self) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()
        self._log.close()

    def _note(self) -> None:
        while not self._stop.wait(0.02):
            with suppress(StorageError):
                parts = self._worker._share.parts()
                self.moved += len(parts ^ self.parts)
                self.parts = parts


def restart(broker: Broker, times: int, *, is_static: bool, pace: float = 4.0) -> Cost:
    """Restart one of two analyzers so many times, while windows come, and count what it cost."""
    place = broker.place(partitions=6, session=8.0)
    log = KafkaLog(place)
    cut, watching = Cutter(log, pace), Positions(log)
    stays = Analyzer(_named(place, "stays", is_static))
    goes = Analyzer(_named(place, "goes", is_static))
    waits = list[tuple[float, float]]()
    try:
        _wait_until_shared(stays, goes)
        before, generation = stays.moved, stays.generation
        for _ in range(times):
            time.sleep(pace)
            began, stood = time.monotonic(), _stands(log, goes.parts)
            goes.stop()
            goes = Analyzer(_named(place, "goes", is_static))
            waits.append(_until_all_went_on(log, stood, began))
            _wait_until_shared(stays, goes)
        moved, rebalances = stays.moved - before, stays.generation - generation
        cut.end()
        wait_for(lambda: watching.total() >= sum(map(log.next, log.parts(WINDOWS))), 120)
    finally:
        cut.end()
        watching.end()
        stays.stop()
        goes.stop()
    first, last = (round(statistics.median(each), 1) for each in zip(*waits, strict=True))
    missing, twice = _judged(log, cut)
    log.close()
    return Cost(
        restarts=times,
        windows=len(cut.windows),
        missing=missing,
        twice=twice,
        rebalances=rebalances,
        moved=moved,
        went_back=watching.went_back,
        first=first,
        last=last,
    )


def _named(place: KafkaPlace, name: str, is_static: bool) -> KafkaPlace:
    return replace(place, static=StaticMember(name=name, session=30.0)) if is_static else place


def _wait_until_shared(*analyzers: Analyzer) -> None:
    wait_for(lambda: [len(each.parts) for each in analyzers] == [3, 3], 60)


def _stands(log: KafkaLog, parts: frozenset[str]) -> dict[str, int]:
    """Return where the parts stand to which windows come."""
    busy = {log.part_of(WINDOWS, camera) for camera in CAMERAS}
    return {part: log.committed(READER, part) for part in parts & busy}


def _until_all_went_on(log: KafkaLog, stood: dict[str, int], began: float) -> tuple[float, float]:
    """Return the seconds until the first and the last of these parts went on."""
    took, waiting = list[float](), dict(stood)
    while waiting:
        time.sleep(0.02)
        for part, position in list(waiting.items()):
            if log.committed(READER, part) > position:
                del waiting[part]
                took.append(time.monotonic() - began)
    return took[0], took[-1]


def _judged(log: KafkaLog, cut: Cutter) -> tuple[int, int]:
    """Return how many windows were neither judged nor shed, and how many judged twice."""
    found = [decode_finding(value).window_id for value in entries(log, FINDINGS)]
    claims = map(decode_claim, entries(log, COVERAGE))
    shed = {(each.camera, each.start) for each in claims if each.state is CoverageState.SHED}
    left = [each for each in cut.windows if (each.camera, covered_by(each).start) not in shed]
    return len({each.id for each in left} - set(found)), len(found) - len(set(found))
