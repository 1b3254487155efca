"""Two `longwatch analyze` services restarted one after the other, under a load of windows."""

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from analyzers_kills import CAMERAS, Cutter, Positions
from deploy_fixtures import running
from kafka_broker import Broker
from storage_fixtures import wait_for

from storage.claims import covered_by, decode_claim
from storage.kafka_log import KafkaLog
from storage.kafka_place import KafkaPlace
from storage.log import COVERAGE, FINDINGS, WINDOWS, Log, between
from storage.records import CoverageState, Window
from storage.wire import decode_finding

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
class Toll:
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


class Service:
    """One `longwatch analyze`, which can be started again."""

    def __init__(self, folder: Path, number: int, place: KafkaPlace, model: str) -> None:
        self._settings = folder / f"analyze-{number}.yaml"
        self._errors = folder / f"analyze-{number}.log"
        names = {
            "cameras": ", ".join(f"{name}: {{url: 'rtsp://127.0.0.1:9/x'}}" for name in CAMERAS),
            "model": model,
            "data": folder / f"data-{number}",
            "broker": place.bootstrap[0],
            "prefix": place.prefix,
            "partitions": place.partitions,
            "session": round(place.session),
            "timeout": round(place.timeout),
        }
        self._settings.write_text(SITE.format(**names))
        self._held = ExitStack()
        self.killed = 0
        self.start()

    def start(self) -> None:
        words = ("analyze", "-c", self._settings)
        self._process = self._held.enter_context(running(*words, errors=self._errors))

    def wait_until_loaded(self) -> None:
        wait_for(lambda: "model loaded" in self._errors.read_text(), 240)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(60) == 0, self._errors.read_text()
        self.killed += "does not stop, killed" in self._errors.read_text()

    def end(self) -> None:
        self._process.kill()
        self._held.close()


def roll(folder: Path, broker: Broker, restarts: int, model: str, pace: float) -> Toll:
    """Restart so many services in turn; each window is cut `pace` seconds after the one before."""
    place = broker.place(partitions=6)
    with closing(KafkaLog(place)) as log, ExitStack() as held:
        services = list[Service]()
        for number in range(ANALYZERS):
            services.append(Service(folder, number, place, model))
            held.callback(services[-1].end)
            services[-1].wait_until_loaded()
        cut, watching = Cutter(log, pace), Positions(log)
        held.callback(watching.end)
        held.callback(cut.end)
        wait_for(lambda: watching.total() > len(CAMERAS), 120)
        took = [_restart(services[nth % ANALYZERS], log, watching) for nth in range(restarts)]
        cut.end()
        wait_for(lambda: watching.total() >= _end(log), 180)
        killed = sum(each.killed for each in services)
        return _toll(log, cut.windows, took, watching.went_back, killed)


def _restart(service: Service, log: KafkaLog, watching: Positions) -> float:
    """Stop a service and start it again; return after how long every partition went on."""
    began = time.monotonic()
    service.stop()
    stood = {camera: watching.of(log.part_of(WINDOWS, camera)) for camera in CAMERAS}
    service.start()
    wait_for(
        lambda: all(watching.of(log.part_of(WINDOWS, name)) > at for name, at in stood.items()), 120
    )
    took = time.monotonic() - began
    service.wait_until_loaded()
    time.sleep(2.0)
    return took


def _end(log: Log) -> int:
    return sum(log.next(part) for part in log.parts(WINDOWS))


def _toll(
    log: Log, windows: Sequence[Window], took: Sequence[float], went_back: int, killed: int
) -> Toll:
    answered = [decode_finding(value).window_id for value in _entries(log, FINDINGS)]
    claims = [decode_claim(value) for value in _entries(log, COVERAGE)]
    claimed = [claim for claim in claims if claim.state is CoverageState.SHED]
    shed: set[tuple[str, datetime | None]] = {(each.camera, each.start) for each in claimed}
    left = [each for each in windows if each.id not in set(answered)]
    told = [each for each in left if (each.camera, covered_by(each).start) in shed]
    return Toll(
        restarts=len(took),
        killed=killed,
        windows=len(windows),
        lost=len(left) - len(told),
        shed=len(told),
        answered_twice=len(answered) - len(set(answered)),
        went_back=went_back,
        longest=round(max(took), 1),
        median=round(median(took), 1),
    )


def _entries(log: Log, topic: str) -> list[bytes]:
    parts = log.parts(topic)
    pages = [between(log, part, 0, log.next(part), 1000) for part in parts]
    return [entry.value for page in pages for entry in page]
