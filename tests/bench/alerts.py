"""How many findings a second are judged and stored, beside plain inserts of the same rows.

    python tests/bench/alerts.py [--cameras 1000] [--rounds 3] [--json]
    python tests/bench/alerts.py --claims 2000     # what it costs to fold claims of coverage
    python tests/bench/alerts.py --latency 40      # from a finding to database and post
    python tests/bench/alerts.py --idle 20         # CPU seconds of alerts with nothing to do
    python tests/bench/alerts.py --idle 20 --kafka 48    # the same on Kafka, of so many partitions

A thousand cameras with ten questions each, asked every 16 s, make 625 findings a second. One
camera in fifty has an incident going on. Nothing is acknowledged before it is durable: batches
are committed with `synchronous=FULL`.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.queues import Queue
from pathlib import Path

from sqlalchemy import insert

# Before this folder, in which this file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from alerts.dispatch.describer import DEFAULT_DESCRIBER
from alerts.evidence.retention import RetentionPeriods
from alerts.rules.rule import Rule
from alerts.worker import BATCH, AlertsWorker
from deploy.config.data_dir import StorageLocations
from deploy.logs.setup import LoggingConfig
from deploy.runtime.process import stop_on_signals
from deploy.runtime.roles import AlertRole
from kit.alerts.role import IMMEDIATE_POLICY
from kit.alerts.webhook_receiver import a_webhook, run_receiver
from kit.kafka.broker import run_broker
from kit.storage.fixtures import WINDOW_LENGTH, a_finding
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.log.kafka.client.config import KafkaConfig
from storage.log.open_log import open_log
from storage.log.retention import DEFAULT_RETENTION
from storage.log.sqlite.log import PARTITIONS, SqliteLog
from storage.records.claims import Claim, encode_claim
from storage.records.records import CoverageState, Finding
from storage.records.topics import COVERAGE, FINDINGS
from storage.records.wire import encode_finding

QUESTIONS = [f"question-{n}" for n in range(10)]
WANTED = 3000.0


def findings(cameras: int, rounds: int) -> Iterator[list[Finding]]:
    """Yield what an analyzer says in each round."""
    rng = random.Random(7)
    going_on = {(rng.randrange(cameras), rng.choice(QUESTIONS)) for _ in range(cameras // 50)}
    for number in range(rounds):
        plain = a_finding(number)
        yield [
            replace(
                plain,
                window_id=f"camera-{camera}@{plain.start.isoformat(timespec='milliseconds')}",
                camera=f"camera-{camera}",
                question=question,
                score=0.95 if (camera, question) in going_on else rng.random() * 0.5,
            )
            for camera in range(cameras)
            for question in QUESTIONS
        ]


def judged(folder: Path, rounds: list[list[Finding]]) -> float:
    """Return the findings a second that the alerts role judges and stores."""
    log = SqliteLog(folder / "log.db")
    for each in rounds:
        log.append_all(FINDINGS, [(finding.camera, encode_finding(finding)) for finding in each])
    engine = open_database(f"sqlite:///{folder / 'longwatch.db'}")
    rules = [Rule(name=q, question=q, above=0.9, below=0.5, for_=WINDOW_LENGTH) for q in QUESTIONS]
    worker = AlertsWorker(log, AlertStore(engine), rules, lambda _: None)
    began, done = time.perf_counter(), 0
    while handled := worker.run_once():
        done += handled
    elapsed = time.perf_counter() - began
    engine.dispose()
    log.close()
    return done / elapsed


def inserted(folder: Path, rounds: list[list[Finding]], together: int) -> float:
    """Return the findings a second that a loop of inserts stores, so many in a transaction."""
    engine = open_database(f"sqlite:///{folder / f'plain-{together}.db'}")
    all_of_them = [finding for each in rounds for finding in each]
    if together == 1:
        all_of_them = all_of_them[:2000]
    began = time.perf_counter()
    for first in range(0, len(all_of_them), together):
        with engine.begin() as connection:
            for finding in all_of_them[first : first + together]:
                row = {"id": finding.id, **asdict(finding)}
                connection.execute(insert(tables.findings), row)
    elapsed = time.perf_counter() - began
    engine.dispose()
    return len(all_of_them) / elapsed


def folded(folder: Path, count: int) -> float:
    """Return the milliseconds of CPU for a claim: windows of 50 cameras, waiting and analysed."""
    log = SqliteLog(folder / "claims.db", partitions=PARTITIONS)
    period, now = timedelta(seconds=16), datetime.now(UTC)
    first = now - count // 100 * period
    for number in range(count // 100):
        start, end = first + number * period, first + (number + 1) * period
        states = (CoverageState.WAITING, CoverageState.ANALYSED)
        claims = [
            Claim(camera=f"camera-{camera}", start=start, end=end, state=state)
            for state in states
            for camera in range(50)
        ]
        log.append_all(COVERAGE, [(each.camera, encode_claim(each)) for each in claims])
    engine = open_database(f"sqlite:///{folder / 'claims-longwatch.db'}")
    down = Rule(name="down", question="health/camera_down", above=0.5, below=0.5)
    worker = AlertsWorker(log, AlertStore(engine), [down], lambda _: None)
    began, done = time.process_time(), 0
    while handled := worker.run_once():
        done += handled
    elapsed = time.process_time() - began
    engine.dispose()
    log.close()
    return elapsed / done * 1000


KEPT = list(RetentionPeriods.model_fields)


def alert_here(data: Path, url: str, kafka_config: Path | KafkaConfig) -> None:
    """Be the process of alerts, with one rule and a webhook that is told at once."""
    role = AlertRole(
        name="alerts",
        logging=LoggingConfig(),
        rules=[Rule(name="bag", question="bag", above=0.8, below=0.5, notify=("soc",))],
        receivers=[a_webhook(url)] if url else [],
        notification_policy=IMMEDIATE_POLICY,
        heartbeat=None,
        describer=DEFAULT_DESCRIBER,
        cameras=(),
        retention=RetentionPeriods(**dict.fromkeys(KEPT, timedelta(days=30))),
        log_retention=DEFAULT_RETENTION,
        clock_tolerance=timedelta(minutes=5),
        locations=StorageLocations(
            data=data, log=kafka_config, database=f"sqlite:///{data / 'longwatch.db'}"
        ),
    )
    role.run(stop_on_signals(), lambda _: None)


@contextmanager
def alerting(data: Path, url: str, kafka_config: Path | KafkaConfig) -> Iterator[int]:
    """Run alerts in a process of its own, and give its id."""
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=alert_here, args=(data, url, kafka_config))
    process.start()
    try:
        yield process.pid or 0
    finally:
        process.terminate()
        process.join()


def receive(urls: "Queue[str]", posts: "Queue[tuple[float, bytes]]") -> None:
    """Be the process of a receiver, and tell of every post when it came."""
    with run_receiver() as receiver:
        urls.put(receiver.url)
        sent = 0
        while True:
            for post in receiver.posts[sent:]:
                posts.put((post.at, post.body))
                sent += 1
            time.sleep(0.02)


def delays(
    data: Path, count: int, kafka_config: Path | KafkaConfig
) -> tuple[list[float], list[float]]:
    """Return the seconds from the append of findings, one by one, to the database and the posts."""
    spawn = multiprocessing.get_context("spawn")
    urls, posts = spawn.Queue(), spawn.Queue()
    receiver = spawn.Process(target=receive, args=(urls, posts), daemon=True)
    receiver.start()
    log, rng = open_log(kafka_config), random.Random(7)
    stored, posted = list[float](), list[float]()
    engine = open_database(f"sqlite:///{data / 'longwatch.db'}")
    store = AlertStore(engine)
    with alerting(data, urls.get(), kafka_config):
        for number in range(count + 1):
            time.sleep(rng.uniform(0.3, 0.8) if number else 3.0)
            now = datetime.now(UTC)
            finding = replace(
                a_finding(number, camera=f"camera-{number}", question="bag", score=0.95),
                start=now - WINDOW_LENGTH,
                end=now,
            )
            appended = time.monotonic()
            log.append(FINDINGS, finding.camera, encode_finding(finding))
            while not store.findings([finding.id]):
                time.sleep(0.002)
            stored.append(time.monotonic() - appended)
            at, _ = posts.get(timeout=10)
            posted.append(at - appended)
    receiver.terminate()
    log.close()
    engine.dispose()
    return stored[1:], posted[1:]


def idle(data: Path, seconds: float, kafka_config: Path | KafkaConfig) -> float:
    """Return the milliseconds of CPU that alerts takes in a second with nothing to do."""
    open_log(kafka_config).close()
    with alerting(data, "", kafka_config) as process:
        time.sleep(8)
        before = cpu_of(process)
        time.sleep(seconds)
        return (cpu_of(process) - before) / seconds * 1000


def cpu_of(process: int) -> float:
    """Return the seconds of CPU that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def log_place(folder: Path, partitions: int) -> Iterator[Path | KafkaConfig]:
    """Give the place of a new log: a file, or topics on a broker that runs meanwhile."""
    if not partitions:
        yield folder / "log.db"
        return
    with run_broker() as broker:
        yield broker.place(partitions=partitions)


def print_delays(what: str, seconds: list[float]) -> None:
    """Print the middle, the late and the worst."""
    found = sorted(seconds)
    middle, late = found[len(found) // 2], found[int(len(found) * 0.95)]
    print(f"finding to {what}: p50 {middle:.3f} s, p95 {late:.3f} s, worst {found[-1]:.3f} s")


def print_other(
    folder: Path, options: argparse.Namespace, kafka_config: Path | KafkaConfig
) -> None:
    """Print the figures that were asked for."""
    if options.claims:
        print(f"folding a claim: {folded(folder, options.claims):.3f} ms of CPU")
    if options.latency:
        stored, posted = delays(folder, options.latency, kafka_config)
        print_delays("database", stored)
        print_delays("post", posted)
    if options.idle:
        took = idle(folder, options.idle, kafka_config)
        print(f"alerts with nothing to do: {took:.1f} ms of CPU a second")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--claims", type=int, default=0)
    parser.add_argument("--latency", type=int, default=0)
    parser.add_argument("--idle", type=float, default=0.0)
    parser.add_argument("--kafka", type=int, default=0, help="partitions; without it SQLite")
    options = parser.parse_args()
    if options.claims or options.latency or options.idle:
        with (
            tempfile.TemporaryDirectory(dir=Path.cwd()) as folder,
            log_place(Path(folder), options.kafka) as place,
        ):
            print_other(Path(folder), options, place)
        return
    rounds = list(findings(options.cameras, options.rounds))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        ours = judged(Path(folder), rounds)
        batched = inserted(Path(folder), rounds, BATCH)
        single = inserted(Path(folder), rounds, 1)
    figures = {"judged": ours, "inserted_in_batches": batched, "inserted_one_by_one": single}
    if options.json:
        print(json.dumps(figures))
        return
    print(f"judged and stored       {ours:8.0f} findings/s (wanted: {WANTED:.0f})")
    print(f"plain loop, {BATCH} a commit {batched:8.0f} rows/s: ours is {ours / batched:.2f} of it")
    print(f"plain loop, one a commit{single:8.0f} rows/s: ours is {ours / single:.2f} times it")


if __name__ == "__main__":
    main()
