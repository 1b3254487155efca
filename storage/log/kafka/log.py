"""The log of many machines: topics of Kafka, the camera as the key.

Appending is idempotent within a producer and waits for all replicas; a caller that retries after
an error may append twice. Entries are dropped by the topics' own retention.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
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
from storage.log.kafka.admin.topic_monitor import TopicMonitor
from storage.log.kafka.admin.topics import ensure_topics
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.errors import check_brokers, refused_as_unfit, translate_errors
from storage.log.kafka.client.network import create_client, to_topic_partition
from storage.log.kafka.client.producer import ExplainingProducer, create_producer
from storage.log.kafka.fetch.reader import TopicReader
from storage.log.kafka.fetch.tail_reader import KafkaTailReader
from storage.log.kafka.groups.membership import KafkaGroupMembership
from storage.log.log import LogEntry, LogMessage, LogPage, append_timestamp
from storage.log.partitions import partition_number, topic_of
from storage.records.cloudevents import build_headers

_POLL_SECONDS = 0.1
"""Seconds that a reader waits at most."""


class KafkaLog:
    """A log on a Kafka cluster; any number of processes may each open it and use it at once."""

    def __init__(self, config: KafkaConfig, *, read_only: bool = False) -> None:
        with refused_as_unfit():
            check_brokers(config)
            topics = ensure_topics(config, create_missing=not read_only)
        self._config = config
        self._topic_monitor = TopicMonitor(config, topics, create_missing=not read_only)
        self._lock = threading.RLock()
        self._producers: dict[str | None, ExplainingProducer] = {}
        self._readers: dict[str, TopicReader] = {}
        self._group_consumers: dict[str, KafkaConsumer] = {}
        self._opened: list[KafkaTailReader | KafkaGroupMembership] = []

    def partitions(self, topic: str) -> tuple[str, ...]:
        """Return the partitions of a topic, in order: those that we write to, then those added."""
        return tuple(
            f"{topic}-{number}" for number in range(self._topic_monitor.partition_count(topic))
        )

    def partition_for(self, topic: str, key: str) -> str:
        """Return the partition that a key is in, as Kafka's own clients compute it."""
        return f"{topic}-{self._partition_number(key)}"

    def identity(self, partition: str) -> str:
        """Return the id of the topic of a partition, as of the last refresh."""
        return self._topic_monitor.identity(topic_of(partition))

    def join_group(self, group: str, topic: str) -> KafkaGroupMembership:
        """Join the consumer group that shares the partitions of a topic."""
        membership = KafkaGroupMembership(self._config, group, topic, self.append_messages)
        self._opened.append(membership)
        return membership

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Append all values, durable on return; return the offset of the last one.

        Raises StorageDown, which says which values are durable, and TooLarge, after which none is.
        """
        return self.append_all(topic, [(key, value) for value in values])

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Append (key, value) pairs, as `append` does."""
        at = append_timestamp(values) // 1000
        self._check_sizes(value for _, value in values)
        sent = list[FutureRecordMetadata]()
        try:
            with self._translate_errors(topic, "WRITE"):
                producer, began = self._get_producer(topic), time.monotonic()
                try:
                    return self._send(producer, topic, values, at, sent)
                except KafkaError as error:
                    if isinstance(error, KafkaTimeoutError):
                        error.__cause__ = producer.last_error(began)
                    self._discard_producer(producer)
                    raise
        except StorageBlocked as error:
            error.durable_indices = self._acknowledged([key for key, _ in values], sent)
            raise

    def append_messages(self, messages: Sequence[LogMessage]) -> None:
        """Append messages; those of a topic are durable before the next topic is sent.

        Raises StorageDown, after which the first ones may be durable, and TooLarge, after which
        none is.
        """
        self._check_sizes(each.value for each in messages)
        for topic, run in groupby(messages, lambda each: each.topic):
            self.append_all(topic, [(each.key, each.value) for each in run])

    def read(
        self, partition: str, offset: int, limit: int = 100, key: str | None = None
    ) -> LogPage:
        """Return at most `limit` entries at or after `offset`, in order, optionally of one key."""
        if not self._has_partition(partition):
            return LogPage([], partition=partition, offset=offset, next_offset=offset)
        topic, found, at, missed = topic_of(partition), list[LogEntry](), offset, 0
        while len(found) < limit:
            with self._translate_errors(topic, "READ"):
                page = self._get_reader(topic).read(partition, at, limit)
            if key is None:
                return page
            found += [entry for entry in page if entry.key == key]
            at, missed = page.next_offset, missed + page.missed
            if at == page.offset:
                break
        if len(found) > limit:
            at = found[limit - 1].offset + 1
        return LogPage(
            found[:limit], partition=partition, offset=offset, next_offset=at, missed=missed
        )

    def follow(self) -> KafkaTailReader:
        """Return a reader that follows the ends of partitions."""
        follower = KafkaTailReader(self._config, self._has_partition)
        self._opened.append(follower)
        return follower

    def start_offset(self, partition: str) -> int:
        """Return the first offset still kept; the end offset if none is."""
        if not self._has_partition(partition):
            return 0
        with translate_errors(self._config):
            return self._get_reader(topic_of(partition)).start_offset(partition)

    def end_offset(self, partition: str) -> int:
        """Return the offset of the next append."""
        if not self._has_partition(partition):
            return 0
        with translate_errors(self._config):
            return self._get_reader(topic_of(partition)).end_offset(partition)

    def committed(self, group: str, partition: str) -> int:
        """Return the next offset for this group; 0 if it never committed."""
        topic_partition = to_topic_partition(self._config, partition)
        with self._lock, self._translate_group_errors(group):
            return self._get_group_consumer(group).committed(topic_partition) or 0

    def commit(self, group: str, partition: str, offset: int) -> None:
        """Commit the next offset for a group that no member has joined."""
        topic_partition = to_topic_partition(self._config, partition)
        with self._lock, self._translate_group_errors(group):
            self._get_group_consumer(group).commit({topic_partition: OffsetAndMetadata(offset)})

    def wait(self, stop: Event, seconds: float) -> None:
        """Return soon: no broker notifies of appends."""
        stop.wait(min(seconds, _POLL_SECONDS))

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Do nothing: the topic's own retention does it."""
        return 0

    def close(self) -> None:
        """Close all connections, with those of its readers and memberships; entries stay."""
        for each in self._opened:
            each.close()
        self._topic_monitor.close()
        with self._lock:
            for producer in self._producers.values():
                producer.close(timeout=self._config.timeout)
            for reader in self._readers.values():
                reader.close()
            for consumer in self._group_consumers.values():
                consumer.close(autocommit=False)

    def _translate_errors(self, topic: str, operation: str) -> AbstractContextManager[None]:
        return translate_errors(
            self._config, topic=self._config.prefix + topic, operation=operation
        )

    def _translate_group_errors(self, group: str) -> AbstractContextManager[None]:
        return translate_errors(self._config, group=self._config.prefix + group, operation="READ")

    def _check_sizes(self, values: Iterable[bytes]) -> None:
        largest = max(map(len, values), default=0)
        if largest > self._config.largest_value:
            raise TooLarge(self._config.name, largest, self._config.largest_value)

    def _send(
        self,
        producer: ExplainingProducer,
        topic: str,
        values: Sequence[tuple[str, bytes]],
        at: int,
        sent: list[FutureRecordMetadata],
    ) -> int:
        """Send values, add each to `sent`, and return the last offset once all are durable."""
        for key, value in values:
            record = producer.send(
                self._config.prefix + topic,
                value,
                key=key.encode(),
                headers=build_headers(topic, key, value, self._config.site),
                partition=self._partition_number(key),
                timestamp_ms=at,
            )
            sent.append(record)
        return int([record.get(self._config.timeout).offset for record in sent][-1])

    def _acknowledged(
        self, keys: Sequence[str], sent: Sequence[FutureRecordMetadata]
    ) -> frozenset[int]:
        """Return the indices of acknowledged records, see `StorageBlocked.durable_indices`."""
        acknowledged, failed_partitions = set[int](), set[int]()
        for index, (key, record) in enumerate(zip(keys, sent, strict=False)):
            number = self._partition_number(key)
            if number not in failed_partitions and record.succeeded():
                acknowledged.add(index)
            else:
                failed_partitions.add(number)
        return frozenset(acknowledged)

    def _get_producer(self, topic: str) -> ExplainingProducer:
        compression = self._config.compression_of(topic)
        with self._lock:
            if compression not in self._producers:
                self._producers[compression] = create_producer(self._config, compression)
            return self._producers[compression]

    def _discard_producer(self, producer: ExplainingProducer) -> None:
        """Drop a producer that failed: what it would send later would be out of order."""
        with self._lock:
            self._producers = {
                codec: each for codec, each in self._producers.items() if each is not producer
            }
        producer.abandon()

    def _get_reader(self, topic: str) -> TopicReader:
        with self._lock:
            if topic not in self._readers:
                self._readers[topic] = TopicReader(self._config)
            return self._readers[topic]

    def _get_group_consumer(self, group: str) -> KafkaConsumer:
        if group not in self._group_consumers:
            self._group_consumers[group] = create_client(
                KafkaConsumer,
                self._config,
                group_id=self._config.prefix + group,
                enable_auto_commit=False,
            )
        return self._group_consumers[group]

    def _has_partition(self, partition: str) -> bool:
        return self._topic_monitor.has_partition(topic_of(partition), partition_number(partition))

    def _partition_number(self, key: str) -> int:
        return partition_number_for_key(key, self._config.partitions)


def partition_number_for_key(key: str, partitions: int) -> int:
    """Return the number of the partition that a key is in, as Kafka's own clients compute it."""
    return _hash(key) % partitions


@lru_cache(maxsize=10_000)
def _hash(key: str) -> int:
    return int(murmur2(key.encode()) & 0x7FFFFFFF)
