"""Windows of 400 kB and findings of 1 kB through each log, beside the bare client doing the same.

SqliteLog beside sqlite3 with the same pragmas and commits; KafkaLog beside kafka-python with the
same settings and acknowledgements, on one broker of Apache Kafka. In each round both do the same
work one right after the other, and who begins takes turns; medians, and the median of the ratios
of ours to the bare client's throughput. `read` is from any position, `follow` all parts at once;
each reader is connected and at the end before what it reads is appended.

    python tests/bench/log.py [sqlite] [kafka] [--rounds 5] [--windows 200] [--findings 20000]
"""

import argparse
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event

# Before this folder, in which a file would stand for the package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from kit.kafka.broker import Broker, run_broker
from kit.storage.fixtures import a_finding
from storage.log.kafka.client.config import KafkaConfig, client_options
from storage.log.kafka.client.producer import _BATCH_BYTES
from storage.log.kafka.fetch.consumer import _MIN_FETCH_BYTES
from storage.log.kafka.log import KafkaLog, partition_number_for_key
from storage.log.log import Log, ReadRequest, TailReader
from storage.log.sqlite.log import SqliteLog
from storage.records.cloudevents import build_headers
from storage.records.topics import FINDINGS, WINDOWS
from storage.records.wire import encode_finding
from storage.sqlite_connection import PRAGMAS

CAMERAS = [f"camera-{n}" for n in range(8)]
WINDOW = os.urandom(400_000)
FINDING = encode_finding(replace(a_finding(), window_id="w" * 380, model="m" * 200))
WARM = 8
"""Appends that come before those that are timed."""
BATCH = {WINDOWS: 1, FINDINGS: 100}
"""Values of an append; a reader asks for as many as it handles at a time."""
PAGE = {WINDOWS: 8, FINDINGS: 500}
Work = Callable[[str, bytes, int], None]
Pair = tuple[Log, tuple[Work, Work]]


def batches(topic: str, count: int) -> Iterator[tuple[str, int]]:
    for n in range(0, count, BATCH[topic]):
        yield CAMERAS[n // BATCH[topic] % len(CAMERAS)], BATCH[topic]


def ours_append(log: Log) -> Work:
    def work(topic: str, value: bytes, count: int) -> None:
        for camera, many in batches(topic, count):
            log.append(topic, camera, *[value] * many)

    return work


def ours_read(log: Log) -> Work:
    def work(topic: str, value: bytes, count: int) -> None:
        starts, counts = warm_counts(log, topic, count), counts_of(log, topic, count)
        for partition, many in counts.items():
            offset = starts[partition]
            while offset < starts[partition] + many:
                offset = log.read(partition, offset, PAGE[topic]).next_offset

    return work


def ours_follow(log: Log, follower: TailReader) -> Work:
    def work(topic: str, value: bytes, count: int) -> None:
        starts, got = warm_counts(log, topic, count), 0
        offsets = {partition: starts[partition] for partition in log.partitions(topic)}
        while got < count:
            pages = follower.read(
                {partition: ReadRequest(at, PAGE[topic]) for partition, at in offsets.items()}
            )
            offsets |= {page.partition: page.next_offset for page in pages}
            got += sum(map(len, pages))
            if not pages:
                follower.wait(Event(), 1.0)

    return work


def counts_of(log: Log, topic: str, count: int) -> Counter[str]:
    """Return how many values of so many are in each part."""
    counts = Counter[str]()
    for camera, many in batches(topic, count):
        counts[log.partition_for(topic, camera)] += many
    return counts


def warm_counts(log: Log, topic: str, count: int) -> Counter[str]:
    """Return where a reader begins: behind what warmed it, unless it is warmed now."""
    warm = WARM * BATCH[topic]
    return Counter() if count == warm else counts_of(log, topic, warm)


def sqlite_bare(path: Path) -> tuple[Work, Work]:
    db = sqlite3.connect(path, isolation_level=None)
    for pragma in PRAGMAS:
        db.execute(pragma)
    db.execute("CREATE TABLE entries (topic TEXT, position INTEGER, key TEXT, at INTEGER,"
               " value BLOB, UNIQUE (topic, position))")  # fmt: skip
    ends = defaultdict[str, int](int)

    def append(topic: str, value: bytes, count: int) -> None:
        for camera, many in batches(topic, count):
            first = ends[topic]
            ends[topic] += many
            rows = [(topic, first + n, camera, time.time_ns(), value) for n in range(many)]
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows)
            db.execute("COMMIT")

    def read(topic: str, value: bytes, count: int) -> None:
        for position in range(0, count, PAGE[topic]):
            db.execute(
                "SELECT position, key, at, value FROM entries WHERE topic = ? AND position >= ?"
                " ORDER BY position LIMIT ?",
                (topic, position, PAGE[topic]),
            ).fetchall()

    return append, read


@contextmanager
def kafka_bare(kafka_config: KafkaConfig) -> Iterator[tuple[Work, Work]]:
    KafkaLog(kafka_config).close()  # the topics
    producers = {
        topic: KafkaProducer(
            **client_options(kafka_config),
            acks="all",
            compression_type=kafka_config.compression_of(topic),
            max_request_size=kafka_config.largest,
            batch_size=_BATCH_BYTES,
        )
        for topic in (WINDOWS, FINDINGS)
    }
    consumer = KafkaConsumer(
        **client_options(kafka_config),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=kafka_config.largest,
        fetch_max_bytes=_MIN_FETCH_BYTES,
        metrics_enabled=False,
    )

    def append(topic: str, value: bytes, count: int) -> None:
        for camera, many in batches(topic, count):
            name, key = kafka_config.prefix + topic, camera.encode()
            headers = build_headers(
                topic, camera, value
            )  # of the last, as all of a batch are alike
            send = producers[topic].send
            sent = [send(name, value, key=key, headers=headers) for _ in range(many)]
            for each in sent:
                each.get(30)

    def read(topic: str, value: bytes, count: int) -> None:
        parts = [
            TopicPartition(kafka_config.prefix + topic, n) for n in range(kafka_config.partitions)
        ]
        if set(parts) != consumer.assignment():
            consumer.assign(parts)
        starts = Counter[int]()
        if count != WARM * BATCH[topic]:
            for camera, many in batches(topic, WARM * BATCH[topic]):
                starts[partition_number_for_key(camera, kafka_config.partitions)] += many
        for each in parts:
            if consumer.position(each) != starts[each.partition]:
                consumer.seek(each, starts[each.partition])
        got = 0
        while got < count:
            found = consumer.poll(1000, max_records=PAGE[topic])
            got += sum(map(len, found.values()))

    with closing(consumer), closing(producers[WINDOWS]), closing(producers[FINDINGS]):
        yield append, read


def timed(work: Work, topic: str, value: bytes, count: int) -> float:
    began = time.perf_counter()
    work(topic, value, count)
    return count / (time.perf_counter() - began)


def compare(
    place: Callable[[], AbstractContextManager[Pair]], rounds: int, counts: dict[str, int]
) -> dict[str, list[tuple[float, float]]]:
    """Return values a second, ours and the bare client's, by kind of work: a pair a round."""
    rates = defaultdict[str, list[tuple[float, float]]](list)
    for number in range(rounds):
        with place() as (log, (append, read)), closing(log.follow()) as follower:
            for topic, value in ((WINDOWS, WINDOW), (FINDINGS, FINDING)):
                works = {
                    "append": (ours_append(log), append),
                    "read": (ours_read(log), read),
                    "follow": (ours_follow(log, follower), read),
                }
                for pair in works.values():
                    for work in pair:
                        work(topic, value, WARM * BATCH[topic])
                for what, pair in works.items():
                    both = {}
                    for side in (0, 1) if number % 2 else (1, 0):
                        both[side] = timed(pair[side], topic, value, counts[topic])
                    rates[f"{what} {topic}"].append((both[0], both[1]))
    return rates


@contextmanager
def sqlite() -> Iterator[Pair]:
    with (
        tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder,
        closing(SqliteLog(Path(folder) / "log.db")) as log,
    ):
        yield log, sqlite_bare(Path(folder) / "bare.db")


@contextmanager
def kafka(broker: Broker) -> Iterator[Pair]:
    with closing(KafkaLog(broker.place())) as log, kafka_bare(broker.place()) as bare:
        yield log, bare


def print_rates(name: str, rates: dict[str, list[tuple[float, float]]], *, as_json: bool) -> None:
    for what, pairs in rates.items():
        mine, theirs = (median(side) for side in zip(*pairs, strict=True))
        ratio = median(a / b for a, b in pairs)
        if as_json:
            row = {"log": name, "work": what, "ours": mine, "bare": theirs, "ratio": ratio}
            print(json.dumps(row))
        else:
            print(f"{name:7} {what:16} {mine:9.0f}/s  bare {theirs:9.0f}/s  {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", nargs="*", default=["sqlite", "kafka"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--findings", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    counts = {WINDOWS: options.windows, FINDINGS: options.findings}
    if "sqlite" in options.logs:
        print_rates("sqlite", compare(sqlite, options.rounds, counts), as_json=options.json)
    if "kafka" in options.logs:
        with run_broker() as broker:
            rates = compare(partial(kafka, broker), options.rounds, counts)
        print_rates("kafka", rates, as_json=options.json)


if __name__ == "__main__":
    main()
