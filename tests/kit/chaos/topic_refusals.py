"""One `alert` under load while the topic of incidents refuses it, and what must be left of it."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles

from kit.alerts.webhook_receiver import SECRET, RecordingReceiver, run_receiver
from kit.deploy.command import run_longwatch
from kit.kafka.refusals import Refusal, run_refusal
from kit.storage.fixtures import a_finding
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.unpublished import unpublished_revisions
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import KafkaLog
from storage.log.log import Log
from storage.records.topics import DEAD_LETTERS, FINDINGS, INCIDENTS
from storage.records.wire import decode_dead_letter, decode_incident, encode_finding

CAMERAS = tuple(f"camera-{number}" for number in range(24))
CYCLE = 6.0
"""Seconds between two findings of a camera, which open an incident and resolve it by turns."""
GARBAGE_EVERY = 50
"""After so many findings comes an entry that is none."""

RevisionKey = tuple[str, int]
"""A revision: the id of its incident, and its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds from findings to the posts about the incidents that they open."""

    count: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalResult:
    """What a refusal was survived by.

    `unposted` are incidents that no post tells of, `dead_meanwhile` the dead letters that
    were on the log before the refusal ended, of `dead`. `left_out`, `twice` and `out_of_order`
    count revisions on the topic at the end, which had all of them `caught_up` seconds after the
    refusal. `lines` are those of `alert` that name the refusal.
    """

    findings: int
    incidents: int
    unposted: int
    before: Latency
    refusing: Latency
    waiting: int
    left_out: int
    twice: int
    out_of_order: int
    dead: int
    dead_meanwhile: int
    dead_left_out: int
    dead_twice: int
    caught_up: float
    lines: tuple[str, ...]


class MixedFindingProducer:
    """An analyzer's findings, as they come in real time, and now and then something else."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stop = threading.Event()
        self.opened_at: dict[tuple[str, datetime], float] = {}
        """When the finding was given that opens the incident of a camera and first instant."""
        self.findings = self.garbage = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(CYCLE / len(CAMERAS)):
            cycle, place = divmod(self.findings, len(CAMERAS))
            camera, score = CAMERAS[place], 0.1 if (cycle + place) % 2 else 0.9
            now = datetime.now(UTC)
            finding = a_finding(cycle, score, camera)
            finding = replace(finding, start=now - timedelta(seconds=CYCLE), end=now)
            if score > 0.5:
                self.opened_at[camera, now] = time.monotonic()
            self._log.append(FINDINGS, camera, encode_finding(finding))
            self.findings += 1
            if self.findings % GARBAGE_EVERY == 0:
                self._log.append(FINDINGS, camera, b"\x00garbage %d" % self.garbage)
                self.garbage += 1


def run_under_refusal(folder: Path, kind: str, before: float, seconds: float) -> RefusalResult:
    """Let a topic refuse for so many seconds, after others that are the measure for them."""
    with run_refusal(kind) as found, run_receiver() as receiver:
        (folder / "data").mkdir(mode=0o700)
        engine = open_database(f"sqlite:///{folder / 'data' / 'longwatch.db'}")
        site, errors = write_site(folder, found.alert, receiver), folder / "said"
        with (
            closing(KafkaLog(found.owner)) as log,
            run_longwatch("alert", "-c", site, errors=errors) as alert,
            produce_findings(log) as producer,
        ):
            store = AlertStore(engine)
            wait_for(lambda: len(receiver.posts) > len(CAMERAS) or alert.poll() is not None, 120)
            assert alert.poll() is None, errors.read_text()
            wait_for(lambda: len(producer.opened_at) - len(first_post_times(receiver)) <= 2, 120)
            result = _refuse(found, log, store, producer, receiver, before, seconds)
        engine.dispose()
    lines_written = errors.read_text().splitlines()
    lines = [
        str(json.loads(line)["event"]) for line in lines_written if '"topic": "incidents"' in line
    ]
    return replace(result, lines=tuple(each for each in lines if found.log_message in each))


@contextmanager
def produce_findings(log: Log) -> Iterator[MixedFindingProducer]:
    producer = MixedFindingProducer(log)
    try:
        yield producer
    finally:
        producer.stop()


def _refuse(
    found: Refusal,
    log: Log,
    store: AlertStore,
    producer: MixedFindingProducer,
    receiver: RecordingReceiver,
    before: float,
    seconds: float,
) -> RefusalResult:
    began = time.monotonic()
    time.sleep(before)
    found.begin()
    refused = time.monotonic()
    time.sleep(seconds)
    dead_meanwhile, waiting = (
        len(dead_letters_on(log)),
        len(expected_revisions(store)) - len(set(published_revisions(log))),
    )
    ended = time.monotonic()
    found.end()
    freed = time.monotonic()
    producer.stop()
    wait_for(lambda: len(store.incidents()) == len(producer.opened_at), 60)
    wait_for(lambda: len(first_post_times(receiver)) == len(producer.opened_at), 60)
    wait_for(lambda: len(set(published_revisions(log))) == len(expected_revisions(store)), 120)
    caught_up = time.monotonic() - freed
    wait_for(lambda: len(set(dead_letters_on(log))) == producer.garbage, 60)
    posted = first_post_times(receiver)
    latencies = {
        name: posted[name] - at for name, at in producer.opened_at.items() if name in posted
    }
    wanted, has, dead = expected_revisions(store), published_revisions(log), dead_letters_on(log)

    def between(start: float, end: float) -> Latency:
        at = producer.opened_at
        return latency([took for name, took in latencies.items() if start <= at[name] < end])

    return RefusalResult(
        findings=producer.findings,
        incidents=len(store.incidents()),
        unposted=len(producer.opened_at.keys() - posted.keys()),
        before=between(began, refused),
        refusing=between(refused, ended),
        waiting=waiting,
        left_out=len(set(wanted) - set(has)),
        twice=len(has) - len(set(has)),
        out_of_order=out_of_order(wanted, has),
        dead=producer.garbage,
        dead_meanwhile=dead_meanwhile,
        dead_left_out=producer.garbage - len(set(dead)),
        dead_twice=len(dead) - len(set(dead)),
        caught_up=round(caught_up, 1),
        lines=(),
    )


def write_site(folder: Path, kafka_config: KafkaConfig, receiver: RecordingReceiver) -> Path:
    """Write the settings of `alert`, which tells of each change at once."""
    who = kafka_config.sasl
    sasl = who and f"sasl: {{mechanism: PLAIN, user: {who.user}, password: {who.password}}}"
    file = folder / "site.yaml"
    file.write_text(
        f"data: {folder}/data\n"
        f"cameras: {{{', '.join(f'{each}: {{url: rtsp://127.0.0.1/x}}' for each in CAMERAS)}}}\n"
        "questions: {bag: {ask: 'Is a bag left?', every: 16s}}\n"
        "route: {group_by: [camera, rule], group_wait: 0s, group_interval: 1s, rate_limit: none,\n"
        "  digest_after: 1000}\n"
        "rules: [{name: bag-left, when: bag, above: 0.8, below: 0.5, notify: [soc]}]\n"
        "receivers: {soc: {webhook: {allow_private: true,\n"
        f"  url: {receiver.url!r}, secret: {SECRET}}}}}}}\n"
        f"log: {{kafka: {{bootstrap: [{', '.join(map(repr, kafka_config.bootstrap))}],\n"
        f"  partitions: {kafka_config.partitions}, prefix: {kafka_config.prefix}, timeout: 10s,\n"
        f"  replication: {kafka_config.replication or 1}, {sasl or ''}}}}}\n"
    )
    return file


def first_post_times(receiver: RecordingReceiver) -> dict[tuple[str, datetime], float]:
    """Return when the first post came about each incident, by camera and first instant."""
    found = dict[tuple[str, datetime], float]()
    for post in list(receiver.posts):
        for each in json.loads(post.body)["data"]["incidents"]:
            name = each["camera"], datetime.fromisoformat(each["first_seen_at"])
            found.setdefault(name, post.at)
    return found


def expected_revisions(store: AlertStore) -> dict[RevisionKey, str]:
    """Return the camera of each revision that was made, in order."""
    found = dict[RevisionKey, str]()
    for each in unpublished_revisions(store, 0, 10**6):
        assert each.message is not None
        incident = decode_incident(each.message.value)
        found[str(incident.id), incident.revision] = incident.camera
    return found


def published_revisions(log: Log) -> list[RevisionKey]:
    """Return the revisions on the topic, part by part."""
    read = map(decode_incident, _values(log, INCIDENTS))
    return [(str(each.id), each.revision) for each in read]


def dead_letters_on(log: Log) -> list[bytes]:
    """Return what was set aside."""
    return [decode_dead_letter(value).value for value in _values(log, DEAD_LETTERS)]


def out_of_order(wanted: dict[RevisionKey, str], has: Sequence[RevisionKey]) -> int:
    """Count the revisions that come, for the first time, behind a later one of their camera."""
    order = {name: number for number, name in enumerate(wanted)}
    latest, found = Counter[str](), 0
    for name in dict.fromkeys(has):
        camera, number = wanted[name], order[name] + 1
        found += number < latest[camera]
        latest[camera] = max(latest[camera], number)
    return found


def latency(took: Sequence[float]) -> Latency:
    cuts = quantiles(took, n=100, method="inclusive")
    p50, p95, p99 = (round(cuts[at - 1], 3) for at in (50, 95, 99))
    return Latency(count=len(took), p50=p50, p95=p95, p99=p99)


def _values(log: Log, topic: str) -> Iterator[bytes]:
    for partition in log.partitions(topic):
        offset, end = log.start_offset(partition), log.end_offset(partition)
        while offset < end:
            page = log.read(partition, offset, limit=1000)
            yield from (entry.value for entry in page)
            offset = page.next_offset
