"""Anything that a producer may put into our topics, and every reader over it.

A case is a batch, or a transaction, of random damage. Behind each an entry is put that every
reader has to come to. What a broker refuses goes straight to the decoder.
"""

import random
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from alerts.worker import AlertsWorker
from analyzer.kv.budget import MemoryPlan
from analyzer.watcher import Watcher
from analyzer.worker import AnalyzerWorker
from deploy.cli.commands.data.tail import _follow, _format_finding, _format_incident, _format_json
from kit.kafka.batches import (
    COMPRESSORS,
    RAW_SNAPPY,
    RecordSpec,
    drain,
    encode_batch,
    encode_records,
    produce,
)
from kit.kafka.broker import Broker
from kit.model.small_model import small_runner
from kit.storage.fixtures import a_finding
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.log.dead_letters import read_dead_letters, requeue
from storage.log.kafka.log import KafkaLog
from storage.log.log import LogEntry, ReadRequest
from storage.log.retention import DEFAULT_RETENTION
from storage.records.claims import Claim, encode_claim
from storage.records.records import CoverageState
from storage.records.topics import COVERAGE, DEAD_LETTERS, FINDINGS, INCIDENTS, WINDOWS
from storage.records.wire import decode_finding, encode_finding

LARGEST = 2**20
SECONDS = 60.0
"""How long a reader may take for a round; it is stalled where one entry does not come."""
_FOREVER = timedelta(days=30_000)
"""A broker drops what a producer dates to 1970, sooner or later."""
TOPICS = (*[FINDINGS] * 10, *[COVERAGE] * 4, *[DEAD_LETTERS] * 3, *[INCIDENTS] * 2, WINDOWS)
FINDING = encode_finding(a_finding())
CLAIM = encode_claim(
    Claim(camera="dock", start=None, end=a_finding().end, state=CoverageState.SHED)
)
EVENT = b'{"specversion":"1.0","type":"longwatch.finding.v1","id":"1","source":"/","data":%s}'
VALUES = (FINDING, CLAIM, EVENT % FINDING, EVENT % b"[]", None, b"", b"[" * 30_000, b"LWde\0\1")
ZEROS = RecordSpec(value=bytes(2**23))
BOMBS = {codec: COMPRESSORS[codec](encode_records(ZEROS)) for codec in (1, 2, 3, 4)}


def junk(rng: random.Random, most: int = 40) -> bytes:
    return rng.randbytes(rng.randrange(most))


def a_record(rng: random.Random) -> RecordSpec:
    size = rng.choice([9, 9, 9, 300, 90_000])
    value = rng.choice([*VALUES, junk(rng, size), FINDING[: rng.randrange(len(FINDING))]])
    names = rng.choice([0, 0, 0, 1, 3, 1200])
    return RecordSpec(
        value=value,
        key=rng.choice([b"dock", None, b"", junk(rng), b"\xf0\x9f\x98\x80" * 600]),
        headers=tuple((junk(rng, 4), rng.choice([None, b"x"])) for _ in range(names)),
        delta=rng.choice([None] * 30 + [rng.randrange(-3, 9), 2**40]),
        after=rng.choice([0] * 9 + [-(2**62), 2**62]),
    )


def damaged(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(out) + 1)
        out[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(out)


def a_batch(rng: random.Random) -> tuple[str, bytes]:
    """Return the kind of a case, and a batch with a right checksum."""
    kind = rng.choice(["records"] * 6 + ["damaged"] * 4 + ["packed", "header", "bomb", "bytes"])
    records = [a_record(rng) for _ in range(rng.randrange(1, 5))]
    codec = rng.choice([0, 0, 1, 2, 3, 4])
    now = int(time.time() * 1000)
    words: dict[str, Any] = {"codec": codec, "at": now}
    words["at"] = rng.choice([now] * 9 + [-1, 0, now + 7_200_000, 2**63 - 1, -(2**63)])
    body, count = encode_records(*records), len(records)
    if kind == "damaged":
        body = damaged(rng, body)
    elif kind == "packed":
        words["packed"] = damaged(rng, COMPRESSORS[codec](body) if codec != 2 else RAW_SNAPPY(body))
    elif kind == "header":
        words |= {"attributes": rng.choice([0x08, 0x10, 0x20, 0x30, 0x40, 0x7F00])}
        words |= {"last": rng.choice([count - 1, -1, 0, 9, 2**31 - 1])}
        words |= {"codec": rng.randrange(8), "magic": rng.choice([2, 2, 2, 0, 1, 3])}
    elif kind == "bomb":
        words |= {"codec": rng.choice([1, 2, 3, 4])}
        body, count, words["packed"] = b"", 1, BOMBS[words["codec"]]
    raw = encode_batch(body, count, **words)
    return kind, damaged(rng, raw) if kind == "bytes" else raw


class KafkaFuzzer:
    """Topics of their own on a broker, with every reader of ours over them."""

    def __init__(self, broker: Broker, folder: Path, seed: int, stack: ExitStack) -> None:
        self.rng = random.Random(seed)
        self.case_counts = Counter[str]()
        kept = tuple(replace(each, keep_for=_FOREVER) for each in DEFAULT_RETENTION)
        kafka_config = broker.place(
            partitions=2, largest=LARGEST, compression="gzip", retention=kept
        )
        self.place = kafka_config
        servers = {"bootstrap_servers": broker.address}
        self.log = stack.enter_context(closing(KafkaLog(kafka_config)))
        self.follower = stack.enter_context(closing(self.log.follow()))
        self.admin = stack.enter_context(closing(KafkaAdminClient(**servers)))
        producer = KafkaProducer(**servers, transactional_id=uuid4().hex)
        self.producer = stack.enter_context(closing(producer))
        self.producer.init_transactions()
        engine = open_database(f"sqlite:///{folder / 'fuzz.db'}")
        stack.callback(engine.dispose)
        self.store = AlertStore(engine)
        self.alerts = AlertsWorker(self.log, self.store, (), keepalive=lambda seconds: None)
        watcher = Watcher(small_runner(), [], MemoryPlan())
        self.analyzer = AnalyzerWorker(self.log, watcher, keepalive=lambda seconds: None)
        self.offsets = {
            partition: 0 for topic in set(TOPICS) for partition in self.log.partitions(topic)
        }
        self.entries = dict.fromkeys(self.offsets, 0)

    def round(self, count: int) -> None:
        """Put so many cases into the log, and read all of them with every reader."""
        ends = dict[str, list[bytes]]()
        for _ in range(count):
            partition = self.log.partitions(self.rng.choice(TOPICS))[self.rng.randrange(2)]
            ends.setdefault(partition, []).append(self._append_case(partition))
        found = self._read_followed(ends)
        for partition, entries in found.items():
            self._read_again(partition, entries)
            for entry in entries:
                assert all(
                    format_entry(entry)
                    for format_entry in (_format_json, _format_finding, _format_incident)
                )
        self._check_judged(ends)
        self._check_analyzed(ends)

    def finish(self) -> None:
        """Look at what was set aside, read it again, and tail what the topics hold."""
        assert sum(1 for _ in read_dead_letters(self.log))
        requeue(self.log)
        for topic in (FINDINGS, INCIDENTS):
            count = sum(self.entries[partition] for partition in self.log.partitions(topic))
            lines = list(islice(_follow(self.log, topic, from_start=True), count))
            assert len(lines) == count

    def _append_case(self, partition: str) -> bytes:
        """Put a case into a part, and an entry behind it; return the entry's value."""
        topic, _, number = partition.rpartition("-")
        where = TopicPartition(self.place.prefix + topic, int(number))
        name = uuid4().hex
        end = encode_finding(replace(a_finding(), window_id=name)) if topic == FINDINGS else None
        end = end or name.encode()
        sentinel = encode_batch(
            encode_records(RecordSpec(value=end)), 1, at=int(time.time() * 1000)
        )
        if self.rng.random() < 0.04:
            self._transaction(where, sentinel)
        else:
            kind, raw = a_batch(self.rng)
            code = produce(self.admin, where, raw)
            self.case_counts[f"{kind}{' refused' if code else ''}"] += 1
            self._check_decoded(raw)
            assert produce(self.admin, where, sentinel) == 0
        return end

    def _transaction(self, where: TopicPartition, behind: bytes) -> None:
        self.producer.begin_transaction()
        for _ in range(self.rng.randrange(1, 4)):
            self.producer.send(where.topic, junk(self.rng), partition=where.partition)
        self.producer.flush()
        assert produce(self.admin, where, behind) == 0  # while it is open
        is_kept = self.rng.random() < 0.5
        (self.producer.commit_transaction if is_kept else self.producer.abort_transaction)()
        self.case_counts["committed" if is_kept else "aborted"] += 1

    def _check_decoded(self, raw: bytes) -> None:
        position = self.rng.choice([0, 0, 1, 7])
        records, after = drain(raw, position, most=4 * LARGEST)
        offsets = [each.offset for each in records]
        assert offsets == sorted(set(offsets))
        assert after > position, "the same would be fetched for ever"

    def _read_followed(self, ends: dict[str, list[bytes]]) -> dict[str, list[LogEntry]]:
        found: dict[str, list[LogEntry]] = {partition: [] for partition in ends}
        left, deadline = {partition: set(values) for partition, values in ends.items()}, _deadline()
        while any(left.values()):
            assert time.monotonic() < deadline, f"the follower misses {left}"
            wanted = {
                partition: ReadRequest(self.offsets[partition], 100)
                for partition in ends
                if left[partition]
            }
            for page in self.follower.read(wanted):
                found[page.partition] += page
                left[page.partition] -= {entry.value for entry in page}
                self.offsets[page.partition] = page.next_offset
                assert page.missed == 0
        return found

    def _read_again(self, partition: str, entries: list[LogEntry]) -> None:
        """Read the same entries by their positions."""
        offset, again, deadline = entries[0].offset, list[LogEntry](), _deadline()
        while len(again) < len(entries):
            page = self.log.read(partition, offset, 77)
            assert page.next_offset > offset or time.monotonic() < deadline, (
                f"{partition} at {offset}"
            )
            again, offset = again + page, page.next_offset
        assert again[: len(entries)] == entries
        self.entries[partition] += len(entries)

    def _check_judged(self, ends: dict[str, list[bytes]]) -> None:
        deadline = _deadline()
        ids = {decode_finding(value).id for value in self._values_of(FINDINGS, ends)}
        while ids:
            assert time.monotonic() < deadline, f"alerts misses {ids}"
            self.alerts.run_once()
            ids -= {each.id for each in self.store.findings(list(ids)[:500])}

    def _check_analyzed(self, ends: dict[str, list[bytes]]) -> None:
        left, deadline = set(self._values_of(WINDOWS, ends)), _deadline()
        while left:
            assert time.monotonic() < deadline, f"the analyzer misses {left}"
            self.analyzer.run_once(Event())
            left -= {dead.value for _, dead in read_dead_letters(self.log)}

    def _values_of(self, topic: str, ends: dict[str, list[bytes]]) -> list[bytes]:
        return [
            value for partition in self.log.partitions(topic) for value in ends.get(partition, [])
        ]


def _deadline() -> float:
    return time.monotonic() + SECONDS


def fuzz(broker: Broker, folder: Path, *, cases: int, seed: int, each: int = 250) -> Counter[str]:
    """Run so many cases; return how many there were of each kind."""
    with ExitStack() as stack:
        made = KafkaFuzzer(broker, folder, seed, stack)
        while (left := cases - made.case_counts.total()) > 0:
            made.round(min(each, left))
        made.finish()
        return made.case_counts
