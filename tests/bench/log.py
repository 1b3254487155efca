"""Windows of 400 kB and findings of 1 kB through each log, beside the bare client doing the same.

SqliteLog beside sqlite3 with the same pragmas and commits; KafkaLog beside kafka-python with the
same settings and acknowledgements, on the broker of the tests (noida-db, or Tansu). Rounds take
turns; medians, and the ratio of ours to the bare client's throughput.

    python tests/bench/log.py [--rounds 5] [--windows 40] [--findings 4000] [--json]
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

# Before this folder, in which a file would stand for the package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from broker_fixtures import running
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from storage_fixtures import a_finding

from storage.events import headers_of
from storage.kafka_log import KafkaLog
from storage.kafka_place import KafkaPlace, client_options
from storage.kafka_producer import _BATCH_BYTES
from storage.log import FINDINGS, WINDOWS, Log
from storage.sqlite import PRAGMAS
from storage.sqlite_log import SqliteLog
from storage.wire import encode_finding

CAMERAS = [f"camera-{n}" for n in range(8)]
WINDOW = os.urandom(400_000)
FINDING = encode_finding(replace(a_finding(), window_id="w" * 400, model="m" * 200))
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
        there = Counter[str]()
        for camera, many in batches(topic, count):
            there[log.part_of(topic, camera)] += many
        for part, end in there.items():
            position = 0
            while position < end:
                position = log.read(part, position, PAGE[topic])[-1].position + 1

    return work


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
        for position in range(0, ends[topic], PAGE[topic]):
            db.execute(
                "SELECT position, key, at, value FROM entries WHERE topic = ? AND position >= ?"
                " ORDER BY position LIMIT ?",
                (topic, position, PAGE[topic]),
            ).fetchall()

    return append, read


def kafka_bare(place: KafkaPlace) -> tuple[Work, Work]:
    KafkaLog(place).close()  # the topics
    producer = KafkaProducer(
        **client_options(place),
        acks="all",
        compression_type=place.compression,
        max_request_size=place.largest,
        batch_size=_BATCH_BYTES,
    )

    def append(topic: str, value: bytes, count: int) -> None:
        for camera, many in batches(topic, count):
            name, key = place.prefix + topic, camera.encode()
            headers = headers_of(topic, camera, value)  # of the last, as all of a batch are alike
            sent = [producer.send(name, value, key=key, headers=headers) for _ in range(many)]
            for each in sent:
                each.get(30)

    def read(topic: str, value: bytes, count: int) -> None:
        parts = [TopicPartition(place.prefix + topic, n) for n in range(place.partitions)]
        with closing(
            KafkaConsumer(
                **client_options(place),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                max_partition_fetch_bytes=place.largest,
            )
        ) as consumer:
            consumer.assign(parts)
            got = 0
            while got < count:
                found = consumer.poll(1000, max_records=PAGE[topic])
                got += sum(map(len, found.values()))

    return append, read


def timed(work: Work, topic: str, value: bytes, count: int) -> float:
    began = time.perf_counter()
    work(topic, value, count)
    return count / (time.perf_counter() - began)


def compare(
    place: Callable[[], AbstractContextManager[Pair]], rounds: int, counts: dict[str, int]
) -> dict[str, tuple[float, float]]:
    """Return the medians of ours and the bare client's values a second, for each kind of work."""
    rates = defaultdict[str, list[tuple[float, float]]](list)
    for number in range(rounds):
        with place() as (log, bare), closing(log):
            for topic, value in ((WINDOWS, WINDOW), (FINDINGS, FINDING)):
                for what, mine, theirs in (
                    ("append", ours_append(log), bare[0]),
                    ("read", ours_read(log), bare[1]),
                ):
                    pair = [(0, mine), (1, theirs)]
                    both = {}
                    for side, work in pair if number % 2 else pair[::-1]:
                        both[side] = timed(work, topic, value, counts[topic])
                    rates[f"{what} {topic}"].append((both[0], both[1]))
    return {
        name: (median(a for a, _ in pairs), median(b for _, b in pairs))
        for name, pairs in rates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--findings", type=int, default=4000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    counts = {WINDOWS: options.windows, FINDINGS: options.findings}

    for name, place in (
        ("sqlite", sqlite),
        ("tansu", partial(kafka, "tansu")),
        ("noida-db", partial(kafka, "noida-db")),
    ):
        told(name, compare(place, options.rounds, counts), as_json=options.json)


@contextmanager
def sqlite() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder:
        yield SqliteLog(Path(folder) / "log.db"), sqlite_bare(Path(folder) / "bare.db")


@contextmanager
def kafka(name: str) -> Iterator[Pair]:
    with running(name) as broker:  # of its own: noida-db grows slow with what it holds
        yield KafkaLog(broker.place()), kafka_bare(broker.place())


def told(name: str, rates: dict[str, tuple[float, float]], *, as_json: bool) -> None:
    for what, (mine, theirs) in rates.items():
        if as_json:
            print(json.dumps({"log": name, "work": what, "ours": mine, "bare": theirs}))
        else:
            print(f"{name:9} {what:16} {mine:9.0f}/s  bare {theirs:9.0f}/s  {mine / theirs:.2f}")


if __name__ == "__main__":
    main()
