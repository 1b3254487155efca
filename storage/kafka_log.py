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

from kafka import KafkaConsumer
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.partitioner.default import murmur2
from kafka.producer.future import FutureRecordMetadata
from kafka.structs import OffsetAndMetadata

from storage.errors import StorageBlocked, TooLarge
from storage.events import headers_of
from storage.kafka_client import connected
from storage.kafka_errors import at_start, check_brokers, named
from storage.kafka_follower import KafkaFollower
from storage.kafka_place import KafkaPlace
from storage.kafka_producer import ExplainingProducer, connected_producer
from storage.kafka_reader import TopicReader, partition_of
from storage.kafka_share import KafkaShare
from storage.kafka_topics import ensure_topics
from storage.kafka_watch import TopicWatch
from storage.log import Entry, Message, Page, now_for

_LOOK = 0.1
"""Seconds that a reader waits at most until it looks again."""


class KafkaLog:
    """A log on a Kafka cluster; any number of processes may each open it and use it at once."""

    def __init__(self, place: KafkaPlace, *, reading: bool = False) -> None:
        with at_start():
            check_brokers(place)
            topics = ensure_topics(place, making=not reading)
        self._place = place
        self._topics = TopicWatch(place, topics, making=not reading)
        self._lock = threading.RLock()
        self._producers: dict[str | None, ExplainingProducer] = {}
        self._readers: dict[str, TopicReader] = {}
        self._groups: dict[str, KafkaConsumer] = {}
        self._lent: list[KafkaFollower | KafkaShare] = []

    def parts(self, topic: str) -> tuple[str, ...]:
        """Return the parts of a topic, in order: those that we write to, then what was added."""
        return tuple(f"{topic}-{number}" for number in range(self._topics.partitions(topic)))

    def part_of(self, topic: str, key: str) -> str:
        """Return the part that a key is in, as Kafka's own clients reckon it."""
        return f"{topic}-{self._number_of(key)}"

    def identity(self, part: str) -> str:
        """Return what tells a part's topic from any that takes its name, from the last look."""
        return self._topics.identity(_topic_of(part))

    def join(self, reader: str, topic: str) -> KafkaShare:
        """Take a share of a topic among all that joined as the same reader."""
        share = KafkaShare(self._place, reader, topic, self.append_messages)
        self._lent.append(share)
        return share

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Write all values, durable on return; return the position of the last in its part.

        Raises StorageDown, which says what was kept, and TooLarge, where nothing was.
        """
        return self.append_all(topic, [(key, value) for value in values])

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Do the same for values of different keys: (key, value)."""
        at = now_for(values) // 1000
        self._check_sizes(value for _, value in values)
        sent = list[FutureRecordMetadata]()
        try:
            with named(self._place, topic=self._place.prefix + topic, right="WRITE"):
                producer, began = self._producing(topic), time.monotonic()
                try:
                    return self._send(producer, topic, values, at, sent)
                except KafkaError as error:
                    if isinstance(error, KafkaTimeoutError):
                        error.__cause__ = producer.last_error(began)
                    self._give_up(producer)
                    raise
        except StorageBlocked as error:
            error.kept = self._kept([key for key, _ in values], sent)
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
        if not self._is_there(part):
            return Page([], part=part, position=position, next=position)
        topic, found, at, missed = _topic_of(part), list[Entry](), position, 0
        while len(found) < limit:
            with named(self._place, topic=self._place.prefix + topic, right="READ"):
                page = self._reader(topic).read(part, at, limit)
            if key is None:
                return page
            found += [entry for entry in page if entry.key == key]
            at, missed = page.next, missed + page.missed
            if at == page.position:
                break
        if len(found) > limit:
            at = found[limit - 1].position + 1
        return Page(found[:limit], part=part, position=position, next=at, missed=missed)

    def follow(self) -> KafkaFollower:
        """Return a reader for who reads on all the time."""
        follower = KafkaFollower(self._place, self._is_there)
        self._lent.append(follower)
        return follower

    def oldest(self, part: str) -> int:
        """Return the first position still kept; `next` when none is."""
        if not self._is_there(part):
            return 0
        with named(self._place):
            return self._reader(_topic_of(part)).oldest(part)

    def next(self, part: str) -> int:
        """Return the position that the next append will get."""
        if not self._is_there(part):
            return 0
        with named(self._place):
            return self._reader(_topic_of(part)).next(part)

    def committed(self, reader: str, part: str) -> int:
        """Return the position where this reader goes on; 0 when it never committed."""
        partition = partition_of(self._place, part)
        with self._lock, named(self._place, group=self._place.prefix + reader, right="READ"):
            return self._group(reader).committed(partition) or 0

    def commit(self, reader: str, part: str, position: int) -> None:
        """Keep the position where this reader goes on, where no reader has joined."""
        partition = partition_of(self._place, part)
        with self._lock, named(self._place, group=self._place.prefix + reader, right="READ"):
            self._group(reader).commit({partition: OffsetAndMetadata(position)})

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when `stop` is set, the time is over, or it is worth a look: no broker tells."""
        stop.wait(min(seconds, _LOOK))

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Do nothing: the topic's own retention does it."""
        return 0

    def close(self) -> None:
        """Let go of all connections, its followers' and shares' too; what was appended stays."""
        for each in self._lent:
            each.close()
        self._topics.close()
        with self._lock:
            for producer in self._producers.values():
                producer.close(timeout=self._place.timeout)
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
        producer: ExplainingProducer,
        topic: str,
        values: Sequence[tuple[str, bytes]],
        at: int,
        sent: list[FutureRecordMetadata],
    ) -> int:
        """Send values, note them in `sent`, and return the offset of the last, once all are."""
        for key, value in values:
            record = producer.send(
                self._place.prefix + topic,
                value,
                key=key.encode(),
                headers=headers_of(topic, key, value, self._place.site),
                partition=self._number_of(key),
                timestamp_ms=at,
            )
            sent.append(record)
        return int([record.get(self._place.timeout).offset for record in sent][-1])

    def _kept(self, keys: Sequence[str], sent: Sequence[FutureRecordMetadata]) -> frozenset[int]:
        """Return which of the records sent are acknowledged, see `StorageBlocked`."""
        kept, lost = set[int](), set[int]()
        for index, (key, record) in enumerate(zip(keys, sent, strict=False)):
            number = self._number_of(key)
            if number not in lost and record.succeeded():
                kept.add(index)
            else:
                lost.add(number)
        return frozenset(kept)

    def _producing(self, topic: str) -> ExplainingProducer:
        compression = self._place.compression_of(topic)
        with self._lock:
            if compression not in self._producers:
                self._producers[compression] = connected_producer(self._place, compression)
            return self._producers[compression]

    def _give_up(self, producer: ExplainingProducer) -> None:
        """Drop a producer that failed, with all that it would still send later, out of order."""
        with self._lock:
            self._producers = {
                codec: each for codec, each in self._producers.items() if each is not producer
            }
        producer.abandon()

    def _reader(self, topic: str) -> TopicReader:
        with self._lock:
            if topic not in self._readers:
                self._readers[topic] = TopicReader(self._place)
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

    def _is_there(self, part: str) -> bool:
        topic, _, number = part.rpartition("-")
        return self._topics.is_there(topic, int(number))

    def _number_of(self, key: str) -> int:
        return partition_number(key, self._place.partitions)


def partition_number(key: str, partitions: int) -> int:
    """Return the number of the partition that a key is in, as Kafka's own clients compute it."""
    return _hash(key) % partitions


@lru_cache(maxsize=10_000)
def _hash(key: str) -> int:
    return int(murmur2(key.encode()) & 0x7FFFFFFF)


def _topic_of(part: str) -> str:
    return part.rpartition("-")[0]
