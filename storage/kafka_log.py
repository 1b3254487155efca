"""The log of many machines: topics of Kafka, the camera as the key.

A part is a partition: `findings-3`. Appending is idempotent within a producer and waits for all
replicas, but who tries again after an error may append twice. What goes, goes by the topics'
own retention.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import lru_cache
from itertools import groupby
from threading import Event
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2
from kafka.structs import OffsetAndMetadata

from storage.errors import TooLarge
from storage.events import headers_of
from storage.kafka_client import connected
from storage.kafka_errors import at_start, check_brokers, named
from storage.kafka_place import OVERHEAD, KafkaPlace
from storage.kafka_reader import TopicReader, partition_of
from storage.kafka_share import KafkaShare
from storage.kafka_topics import ensure_topics, identities
from storage.keys import key_of
from storage.log import Entry, InTurn, Message, Page, now_for

_BATCH_BYTES = 2**18
_LOOK_SECONDS = 60.0
_LOOK = 0.1
"""Seconds that a reader waits at most until it looks again."""


class KafkaLog:
    """A log on a Kafka cluster; any number of processes may each open it and use it at once."""

    def __init__(self, place: KafkaPlace) -> None:
        with at_start():
            check_brokers(place)
            ensure_topics(place)
        self._place = place
        self._lock = threading.RLock()
        self._producer: KafkaProducer | None = None
        self._readers: dict[str, TopicReader] = {}
        self._groups: dict[str, KafkaConsumer] = {}
        self._identities: dict[str, tuple[float, str]] = {}

    def parts(self, topic: str) -> tuple[str, ...]:
        """Return the parts of a topic, in order."""
        return tuple(f"{topic}-{number}" for number in range(self._place.partitions))

    def part_of(self, topic: str, key: str) -> str:
        """Return the part that a key is in, as Kafka's own clients reckon it."""
        return f"{topic}-{self._number_of(key)}"

    def identity(self, part: str) -> str:
        """Return what tells a part's topic from any that takes its name; looked up each minute."""
        topic = part.rpartition("-")[0]
        with self._lock:
            until, found = self._identities.get(topic, (0.0, ""))
            now = time.monotonic()
            if now < until:
                return found
            fresh = identities(self._place, {topic, *self._identities})
            self._identities = {name: (now + _LOOK_SECONDS, id) for name, id in fresh.items()}
            return fresh[topic]

    def join(self, reader: str, topic: str) -> KafkaShare:
        """Take a share of a topic among all that joined as the same reader."""
        return KafkaShare(self._place, reader, topic, self.append_messages)

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Write all values, durable on return; return the position of the last in its part.

        Raises StorageDown, where some of them may have been kept, and TooLarge, where none was.
        """
        return self.append_all(topic, [(key, value) for value in values])

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Do the same for values of different keys: (key, value)."""
        at = now_for(values) // 1000
        self._check_sizes(value for _, value in values)
        with named(self._place, topic=self._place.prefix + topic, right="WRITE"):
            producer = self._producing()
            try:
                return self._send(producer, self._place.prefix + topic, topic, values, at)
            except KafkaError:
                self._give_up(producer)
                raise

    def append_messages(self, messages: Sequence[Message]) -> None:
        """Write messages; all of a topic are durable before the first of the next one is sent.

        Raises StorageDown, where the first ones may have been kept, and TooLarge, where none was.
        """
        self._check_sizes(each.value for each in messages)
        for topic, run in groupby(messages, lambda each: each.topic):
            self.append_all(topic, [(each.key, each.value) for each in run])

    def read(self, part: str, position: int, limit: int = 100, key: str | None = None) -> Page:
        """Return at most `limit` entries at or after `position`, in order, perhaps of one key."""
        topic, partition = self._partition(part)
        begin, found = position, list[Entry]()
        while len(found) < limit:
            with named(self._place, topic=self._place.prefix + topic, right="READ"):
                records = self._reader(topic).read(partition, position, limit)
            if not records:
                break
            position = records[-1].offset + 1
            entries = (_entry(part, record) for record in records)
            found += [entry for entry in entries if key in (None, entry.key)]
            if key is None:
                break
        return Page(found[:limit], part=part, position=begin, next=position)

    def follow(self) -> InTurn:
        """Return a reader for who reads on all the time."""
        return InTurn(self)

    def oldest(self, part: str) -> int:
        """Return the first position still kept; `next` when none is."""
        topic, partition = self._partition(part)
        with named(self._place):
            return self._reader(topic).oldest(partition)

    def next(self, part: str) -> int:
        """Return the position that the next append will get."""
        topic, partition = self._partition(part)
        with named(self._place):
            return self._reader(topic).next(partition)

    def committed(self, reader: str, part: str) -> int:
        """Return the position where this reader goes on; 0 when it never committed."""
        _, partition = self._partition(part)
        with self._lock, named(self._place, group=self._place.prefix + reader, right="READ"):
            return self._group(reader).committed(partition) or 0

    def commit(self, reader: str, part: str, position: int) -> None:
        """Keep the position where this reader goes on, where no reader has joined."""
        _, partition = self._partition(part)
        with self._lock, named(self._place, group=self._place.prefix + reader, right="READ"):
            self._group(reader).commit({partition: OffsetAndMetadata(position)})

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when `stop` is set, the time is over, or it is worth a look: no broker tells."""
        stop.wait(min(seconds, _LOOK))

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Do nothing: the topic's own retention does it."""
        return 0

    def close(self) -> None:
        """Let go of the connections; what was appended stays."""
        with self._lock:
            if self._producer is not None:
                self._producer.close(timeout=self._place.timeout)
            for reader in self._readers.values():
                reader.close()
            for group in self._groups.values():
                group.close(autocommit=False)

    def _check_sizes(self, values: Iterable[bytes]) -> None:
        largest = max(map(len, values), default=0)
        if largest > self._place.largest_value:
            raise TooLarge(self._place.name, largest, self._place.largest_value)

    def _send(
        self,
        producer: KafkaProducer,
        name: str,
        topic: str,
        values: Sequence[tuple[str, bytes]],
        at: int,
    ) -> int:
        sent = [
            producer.send(
                name,
                value,
                key=key.encode(),
                headers=headers_of(topic, key, value, self._place.site),
                partition=self._number_of(key),
                timestamp_ms=at,
            )
            for key, value in values
        ]
        position = 0
        for each in sent:
            position = each.get(self._place.timeout).offset
        return position

    def _producing(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = connected(
                    KafkaProducer,
                    self._place,
                    acks="all",
                    enable_idempotence=True,
                    compression_type=self._place.compression,
                    max_request_size=self._place.largest + OVERHEAD,
                    batch_size=_BATCH_BYTES,
                    max_block_ms=int(self._place.timeout * 1000),
                    delivery_timeout_ms=int(self._place.timeout * 1000),
                    allow_auto_create_topics=False,
                )
            return self._producer

    def _give_up(self, producer: KafkaProducer) -> None:
        """Drop a producer that failed, with all that it would still send later, out of order."""
        with self._lock:
            if self._producer is producer:
                self._producer = None
        producer.close(timeout=0)

    def _reader(self, topic: str) -> TopicReader:
        with self._lock:
            if topic not in self._readers:
                self._readers[topic] = TopicReader(self._place, topic)
            return self._readers[topic]

    def _group(self, reader: str) -> KafkaConsumer:
        if reader not in self._groups:
            self._groups[reader] = connected(
                KafkaConsumer,
                self._place,
                group_id=self._place.prefix + reader,
                enable_auto_commit=False,
            )
        return self._groups[reader]

    def _partition(self, part: str) -> tuple[str, TopicPartition]:
        return part.rpartition("-")[0], partition_of(self._place, part)

    def _number_of(self, key: str) -> int:
        return partition_number(key, self._place.partitions)


def partition_number(key: str, partitions: int) -> int:
    """Return the number of the partition that a key is in, as Kafka's own clients compute it."""
    return _hash(key) % partitions


@lru_cache(maxsize=10_000)
def _hash(key: str) -> int:
    return int(murmur2(key.encode()) & 0x7FFFFFFF)


def _entry(part: str, record: Any) -> Entry:
    at = record.timestamp * 1000
    return Entry(part, record.offset, key_of(record.key), at, record.value or b"")
