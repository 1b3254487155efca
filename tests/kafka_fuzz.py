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
from kafka_batches import PACK, RAW_SNAPPY, Rec, batch, body_of, drained, produce
from kafka_broker import Broker
from small_model import small_speaker
from storage_fixtures import a_finding

from alerts.worker import AlertsWorker
from analyzer.plan import MemoryPlan
from analyzer.watcher import Watcher
from analyzer.worker import AnalyzerWorker
from deploy.cli_tail import _as_json, _finding, _follow, _incident
from storage.claims import Claim, encode_claim
from storage.database import open_database
from storage.dead import append_again, set_aside
from storage.incidents import IncidentStore
from storage.kafka_log import KafkaLog
from storage.log import COVERAGE, DEAD, FINDINGS, INCIDENTS, WINDOWS, Entry, Want
from storage.records import CoverageState
from storage.retention import RETENTION
from storage.wire import decode_finding, encode_finding

LARGEST = 2**20
SECONDS = 60.0
"""How long a reader may take for a round; it is stalled where one entry does not come."""
_FOR_EVER = timedelta(days=30_000)
"""A broker drops what a producer dates to 1970, sooner or later."""
TOPICS = (*[FINDINGS] * 10, *[COVERAGE] * 4, *[DEAD] * 3, *[INCIDENTS] * 2, WINDOWS)
FINDING = encode_finding(a_finding())
CLAIM = encode_claim(
    Claim(camera="dock", start=None, end=a_finding().end, state=CoverageState.SHED)
)
EVENT = b'{"specversion":"1.0","type":"longwatch.finding.v1","id":"1","source":"/","data":%s}'
VALUES = (FINDING, CLAIM, EVENT % FINDING, EVENT % b"[]", None, b"", b"[" * 30_000, b"LWde\0\1")
ZEROS = Rec(value=bytes(2**23))
BOMBS = {codec: PACK[codec](body_of(ZEROS)) for codec in (1, 2, 3, 4)}


def junk(dice: random.Random, most: int = 40) -> bytes:
    return dice.randbytes(dice.randrange(most))


def a_record(dice: random.Random) -> Rec:
    size = dice.choice([9, 9, 9, 300, 90_000])
    value = dice.choice([*VALUES, junk(dice, size), FINDING[: dice.randrange(len(FINDING))]])
    names = dice.choice([0, 0, 0, 1, 3, 1200])
    return Rec(
        value=value,
        key=dice.choice([b"dock", None, b"", junk(dice), b"\xf0\x9f\x98\x80" * 600]),
        headers=tuple((junk(dice, 4), dice.choice([None, b"x"])) for _ in range(names)),
        delta=dice.choice([None] * 30 + [dice.randrange(-3, 9), 2**40]),
        after=dice.choice([0] * 9 + [-(2**62), 2**62]),
    )


def damaged(dice: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(len(out) + 1)
        out[at : at + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
    return bytes(out)


def a_batch(dice: random.Random) -> tuple[str, bytes]:
    """Return the kind of a case, and a batch with a right checksum."""
    kind = dice.choice(["records"] * 6 + ["damaged"] * 4 + ["packed", "header", "bomb", "bytes"])
    records = [a_record(dice) for _ in range(dice.randrange(1, 5))]
    codec = dice.choice([0, 0, 1, 2, 3, 4])
    now = int(time.time() * 1000)
    words: dict[str, Any] = {"codec": codec, "at": now}
    words["at"] = dice.choice([now] * 9 + [-1, 0, now + 7_200_000, 2**63 - 1, -(2**63)])
    body, count = body_of(*records), len(records)
    if kind == "damaged":
        body = damaged(dice, body)
    elif kind == "packed":
        words["packed"] = damaged(dice, PACK[codec](body) if codec != 2 else RAW_SNAPPY(body))
    elif kind == "header":
        words |= {"attributes": dice.choice([0x08, 0x10, 0x20, 0x30, 0x40, 0x7F00])}
        words |= {"last": dice.choice([count - 1, -1, 0, 9, 2**31 - 1])}
        words |= {"codec": dice.randrange(8), "magic": dice.choice([2, 2, 2, 0, 1, 3])}
    elif kind == "bomb":
        words |= {"codec": dice.choice([1, 2, 3, 4])}
        body, count, words["packed"] = b"", 1, BOMBS[words["codec"]]
    raw = batch(body, count, **words)
    return kind, damaged(dice, raw) if kind == "bytes" else raw


class Fuzz:
    """Topics of their own on a broker, with every reader of ours over them."""

    def __init__(self, broker: Broker, folder: Path, seed: int, stack: ExitStack) -> None:
        self.dice = random.Random(seed)
        self.seen = Counter[str]()
        kept = tuple(replace(each, keep_for=_FOR_EVER) for each in RETENTION)
        place = broker.place(partitions=2, largest=LARGEST, compression="gzip", retention=kept)
        self.place = place
        servers = {"bootstrap_servers": broker.address}
        self.log = stack.enter_context(closing(KafkaLog(place)))
        self.follower = stack.enter_context(closing(self.log.follow()))
        self.admin = stack.enter_context(closing(KafkaAdminClient(**servers)))
        producer = KafkaProducer(**servers, transactional_id=uuid4().hex)
        self.ours = stack.enter_context(closing(producer))
        self.ours.init_transactions()
        engine = open_database(f"sqlite:///{folder / 'fuzz.db'}")
        stack.callback(engine.dispose)
        self.store = IncidentStore(engine)
        self.alerts = AlertsWorker(self.log, self.store, (), promise=lambda seconds: None)
        watcher = Watcher(small_speaker(), [], MemoryPlan())
        self.analyzer = AnalyzerWorker(self.log, watcher, promise=lambda seconds: None)
        self.positions = {part: 0 for topic in set(TOPICS) for part in self.log.parts(topic)}
        self.entries = dict.fromkeys(self.positions, 0)

    def round(self, count: int) -> None:
        """Put so many cases into the log, and read all of them with every reader."""
        ends = dict[str, list[bytes]]()
        for _ in range(count):
            part = self.log.parts(self.dice.choice(TOPICS))[self.dice.randrange(2)]
            ends.setdefault(part, []).append(self._put(part))
        found = self._followed(ends)
        for part, entries in found.items():
            self._read_again(part, entries)
            for entry in entries:
                assert all(told(entry) for told in (_as_json, _finding, _incident))
        self._judged(ends)
        self._watched(ends)

    def finish(self) -> None:
        """Look at what was set aside, read it again, and tail what the topics hold."""
        assert sum(1 for _ in set_aside(self.log))
        append_again(self.log)
        for topic in (FINDINGS, INCIDENTS):
            count = sum(self.entries[part] for part in self.log.parts(topic))
            lines = list(islice(_follow(self.log, topic, from_start=True), count))
            assert len(lines) == count

    def _put(self, part: str) -> bytes:
        """Put a case into a part, and an entry behind it; return the entry's value."""
        topic, _, number = part.rpartition("-")
        where = TopicPartition(self.place.prefix + topic, int(number))
        name = uuid4().hex
        end = encode_finding(replace(a_finding(), window_id=name)) if topic == FINDINGS else None
        end = end or name.encode()
        behind = batch(body_of(Rec(value=end)), 1, at=int(time.time() * 1000))
        if self.dice.random() < 0.04:
            self._transaction(where, behind)
        else:
            kind, raw = a_batch(self.dice)
            code = produce(self.admin, where, raw)
            self.seen[f"{kind}{' refused' if code else ''}"] += 1
            self._decoded(raw)
            assert produce(self.admin, where, behind) == 0
        return end

    def _transaction(self, where: TopicPartition, behind: bytes) -> None:
        self.ours.begin_transaction()
        for _ in range(self.dice.randrange(1, 4)):
            self.ours.send(where.topic, junk(self.dice), partition=where.partition)
        self.ours.flush()
        assert produce(self.admin, where, behind) == 0  # while it is open
        is_kept = self.dice.random() < 0.5
        (self.ours.commit_transaction if is_kept else self.ours.abort_transaction)()
        self.seen["committed" if is_kept else "aborted"] += 1

    def _decoded(self, raw: bytes) -> None:
        position = self.dice.choice([0, 0, 1, 7])
        records, after = drained(raw, position, most=4 * LARGEST)
        offsets = [each.offset for each in records]
        assert offsets == sorted(set(offsets))
        assert after > position, "the same would be fetched for ever"

    def _followed(self, ends: dict[str, list[bytes]]) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {part: [] for part in ends}
        left, deadline = {part: set(values) for part, values in ends.items()}, _deadline()
        while any(left.values()):
            assert time.monotonic() < deadline, f"the follower misses {left}"
            wanted = {part: Want(self.positions[part], 100) for part in ends if left[part]}
            for page in self.follower.read(wanted):
                found[page.part] += page
                left[page.part] -= {entry.value for entry in page}
                self.positions[page.part] = page.next
                assert page.missed == 0
        return found

    def _read_again(self, part: str, entries: list[Entry]) -> None:
        """Read the same entries by their positions."""
        position, again, deadline = entries[0].position, list[Entry](), _deadline()
        while len(again) < len(entries):
            page = self.log.read(part, position, 77)
            assert page.next > position or time.monotonic() < deadline, f"{part} at {position}"
            again, position = again + page, page.next
        assert again[: len(entries)] == entries
        self.entries[part] += len(entries)

    def _judged(self, ends: dict[str, list[bytes]]) -> None:
        deadline = _deadline()
        ids = {decode_finding(value).id for value in self._in(FINDINGS, ends)}
        while ids:
            assert time.monotonic() < deadline, f"alerts misses {ids}"
            self.alerts.run_once()
            ids -= {each.id for each in self.store.findings(list(ids)[:500])}

    def _watched(self, ends: dict[str, list[bytes]]) -> None:
        left, deadline = set(self._in(WINDOWS, ends)), _deadline()
        while left:
            assert time.monotonic() < deadline, f"the analyzer misses {left}"
            self.analyzer.run_once(Event())
            left -= {dead.value for _, dead in set_aside(self.log)}

    def _in(self, topic: str, ends: dict[str, list[bytes]]) -> list[bytes]:
        return [value for part in self.log.parts(topic) for value in ends.get(part, [])]


def _deadline() -> float:
    return time.monotonic() + SECONDS


def fuzz(broker: Broker, folder: Path, *, cases: int, seed: int, each: int = 250) -> Counter[str]:
    """Run so many cases; return how many there were of each kind."""
    with ExitStack() as stack:
        made = Fuzz(broker, folder, seed, stack)
        while (left := cases - made.seen.total()) > 0:
            made.round(min(each, left))
        made.finish()
        return made.seen
