"""Two `longwatch analyze` services restarted one after the other, under a load of windows."""

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from kit.chaos.analyzer_kills import CAMERAS, CommittedOffsets, WindowProducer
from kit.deploy.command import run_longwatch
from kit.kafka.broker import Broker
from kit.waiting import wait_for
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import KafkaLog
from storage.log.log import Log, read_range
from storage.records.claims import covered_span, decode_claim
from storage.records.records import CoverageState, Window
from storage.records.topics import COVERAGE, FINDINGS, WINDOWS
from storage.records.wire import decode_finding

ANALYZERS = 2
SITE = """\
cameras: {{{cameras}}}
questions:
  fire: {{ask: "Is there a fire?", every: 16s}}
model: {{name: {model}}}
data: {data}
log:
  kafka: {{bootstrap: ["{broker}"], prefix: "{prefix}", partitions: {partitions},
          session: {session}s, timeout: {timeout}s}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingAnalyzersResult:
    """What came of the windows; seconds are those from a stop until all partitions went on.

    `killed` were in a step for longer than a service has to stop, as on a machine that is busy.
    """

    restarts: int
    killed: int
    windows: int
    lost: int
    shed: int
    answered_twice: int
    went_back: int
    longest: float
    median: float


class AnalyzeService:
    """One `longwatch analyze`, which can be started again."""

    def __init__(self, folder: Path, number: int, kafka_config: KafkaConfig, model: str) -> None:
        self._settings = folder / f"analyze-{number}.yaml"
        self._errors = folder / f"analyze-{number}.log"
        names = {
            "cameras": ", ".join(f"{name}: {{url: 'rtsp://127.0.0.1:9/x'}}" for name in CAMERAS),
            "model": model,
            "data": folder / f"data-{number}",
            "broker": kafka_config.bootstrap[0],
            "prefix": kafka_config.prefix,
            "partitions": kafka_config.partitions,
            "session": round(kafka_config.session),
            "timeout": round(kafka_config.timeout),
        }
        self._settings.write_text(SITE.format(**names))
        self._stack = ExitStack()
        self.killed = 0
        self.start()

    def start(self) -> None:
        words = ("analyze", "-c", self._settings)
        self._process = self._stack.enter_context(run_longwatch(*words, errors=self._errors))

    def wait_until_loaded(self) -> None:
        wait_for(lambda: "model loaded" in self._errors.read_text(), 240)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(60) == 0, self._errors.read_text()
        self.killed += "does not stop, killed" in self._errors.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._stack.close()


def run_rolling_analyzers(
    folder: Path, broker: Broker, restarts: int, model: str, pace: float
) -> RollingAnalyzersResult:
    """Restart so many services in turn; each window is cut `pace` seconds after the one before."""
    kafka_config = broker.place(partitions=6)
    with closing(KafkaLog(kafka_config)) as log, ExitStack() as stack:
        services = list[AnalyzeService]()
        for number in range(ANALYZERS):
            services.append(AnalyzeService(folder, number, kafka_config, model))
            stack.callback(services[-1].kill)
            services[-1].wait_until_loaded()
        producer, offsets = WindowProducer(log, pace), CommittedOffsets(log)
        stack.callback(offsets.stop)
        stack.callback(producer.stop)
        wait_for(lambda: offsets.total() > len(CAMERAS), 120)
        took = [_restart(services[nth % ANALYZERS], log, offsets) for nth in range(restarts)]
        producer.stop()
        wait_for(lambda: offsets.total() >= _end_offset_total(log), 180)
        killed = sum(each.killed for each in services)
        return _result(log, producer.windows, took, offsets.went_back, killed)


def _restart(service: AnalyzeService, log: KafkaLog, watching: CommittedOffsets) -> float:
    """Stop a service and start it again; return after how long every partition went on."""
    began = time.monotonic()
    service.stop()
    offsets_before = {
        camera: watching.offset_of(log.partition_for(WINDOWS, camera)) for camera in CAMERAS
    }
    service.start()
    wait_for(
        lambda: all(
            watching.offset_of(log.partition_for(WINDOWS, name)) > at
            for name, at in offsets_before.items()
        ),
        120,
    )
    took = time.monotonic() - began
    service.wait_until_loaded()
    time.sleep(2.0)
    return took


def _end_offset_total(log: Log) -> int:
    return sum(log.end_offset(partition) for partition in log.partitions(WINDOWS))


def _result(
    log: Log, windows: Sequence[Window], took: Sequence[float], went_back: int, killed: int
) -> RollingAnalyzersResult:
    answered = [decode_finding(value).window_id for value in _entries(log, FINDINGS)]
    claims = [decode_claim(value) for value in _entries(log, COVERAGE)]
    claimed = [claim for claim in claims if claim.state is CoverageState.SHED]
    shed: set[tuple[str, datetime | None]] = {(each.camera, each.start) for each in claimed}
    left = [each for each in windows if each.id not in set(answered)]
    shed_windows = [each for each in left if (each.camera, covered_span(each).start) in shed]
    return RollingAnalyzersResult(
        restarts=len(took),
        killed=killed,
        windows=len(windows),
        lost=len(left) - len(shed_windows),
        shed=len(shed_windows),
        answered_twice=len(answered) - len(set(answered)),
        went_back=went_back,
        longest=round(max(took), 1),
        median=round(median(took), 1),
    )


def _entries(log: Log, topic: str) -> list[bytes]:
    partitions = log.partitions(topic)
    pages = [
        read_range(log, partition, 0, log.end_offset(partition), 1000) for partition in partitions
    ]
    return [entry.value for page in pages for entry in page]
