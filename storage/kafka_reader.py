"""Reading a topic of Kafka from any position, without a group."""

import threading
import time
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError, LogTruncationError, OffsetOutOfRangeError

from storage.errors import BeyondEnd
from storage.kafka_client import connected
from storage.kafka_place import KafkaPlace

_WAIT_MS = 5
_LOOK_MS = 30
"""How long an end is looked at: a broker may say that it ends earlier than it does (Tansu)."""


_ALL = 10**6


class TopicReader:
    """One consumer for all partitions of a topic, of which one at a time is read.

    What was fetched beyond what was asked for is kept for the next read. Raises KafkaError and
    BeyondEnd.
    """

    def __init__(self, place: KafkaPlace, topic: str) -> None:
        self._lock = threading.Lock()
        self._timeout = place.timeout
        name = place.prefix + topic
        self._partitions = [TopicPartition(name, n) for n in range(place.partitions)]
        self._consumer = connected(
            KafkaConsumer,
            place,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=_WAIT_MS,
            max_partition_fetch_bytes=max(place.largest, 2**20),
            allow_auto_create_topics=False,
        )
        self._consumer.assign(self._partitions)
        self._consumer.pause(*self._partitions)
        for partition in self._partitions:
            self._consumer.seek(partition, 0)
        self._stands: dict[TopicPartition, int] = {}
        self._kept: dict[TopicPartition, list[Any]] = {}
        self._lost: dict[TopicPartition, int | None] = {}

    def read(self, partition: TopicPartition, position: int, limit: int) -> list[Any]:
        """Return records at or after a position; fewer than `limit` may come, none at the end."""
        with self._lock:
            self._assign(partition)
            end = self._known_end(partition, position)
            try:
                records = self._fetch(partition, position, limit, end)
            except OffsetOutOfRangeError:
                self._stands.pop(partition, None)
                oldest = self._oldest(partition)
                if position >= oldest:
                    raise self._loss(partition, position, None) from None
                return self._fetch(partition, oldest, limit, end)
            if partition in self._lost:
                there = self._lost.pop(partition)
                if there is None or there < position:
                    raise self._loss(partition, position, there)
            return records

    def oldest(self, partition: TopicPartition) -> int:
        """Return the first offset that is still there."""
        with self._lock:
            return self._oldest(partition)

    def next(self, partition: TopicPartition) -> int:
        """Return the offset that the next record will get."""
        with self._lock:
            self._assign(partition)
            return self._next(partition)

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock:
            self._consumer.close(autocommit=False)

    def _assign(self, partition: TopicPartition) -> None:
        if partition not in self._partitions:  # it was added since
            self._partitions.append(partition)
            self._consumer.assign(self._partitions)

    def _loss(self, partition: TopicPartition, position: int, end: int | None) -> BeyondEnd:
        if end is None:  # it may have grown again since
            end = min(self._next(partition), position - 1)
        return BeyondEnd(f"{partition.topic}-{partition.partition}", position, end)

    def _fetch(self, partition: TopicPartition, position: int, limit: int, end: int) -> list[Any]:
        kept = self._kept.pop(partition, [])
        if not kept or kept[0].offset != position:
            kept = self._fetch_from(partition, position, is_there=position < end)
        if kept[limit:]:
            self._kept[partition] = kept[limit:]
        return kept[:limit]

    def _fetch_from(self, partition: TopicPartition, position: int, *, is_there: bool) -> list[Any]:
        """Take all that was fetched: kafka-python may drop what it holds of a paused partition."""
        if self._stands.pop(partition, None) != position:
            self._consumer.seek(partition, position)
        self._consumer.resume(partition)
        try:
            records = self._poll(partition, is_there=is_there)
        finally:
            self._consumer.pause(partition)
        self._stands[partition] = records[-1].offset + 1 if records else position
        return records

    def _poll(self, partition: TopicPartition, *, is_there: bool) -> list[Any]:
        if not is_there:
            return self._polled(partition, _LOOK_MS)
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            records = self._polled(partition, 500)
            if records or partition in self._lost:
                return records
        raise KafkaTimeoutError("records that are there do not come")

    def _polled(self, partition: TopicPartition, milliseconds: int) -> list[Any]:
        try:
            return list(self._consumer.poll(milliseconds, _ALL).get(partition, []))
        except LogTruncationError as error:  # a leader without what another had acknowledged
            for each, there in error.divergent_offsets.items():
                self._lost[each] = there and there.offset
                self._stands.pop(each, None)
                self._kept.pop(each, None)
            return []

    def _known_end(self, partition: TopicPartition, position: int) -> int:
        """Return an end beyond a position where one is known from a fetch, else ask."""
        seen = self._consumer.highwater(partition) or 0
        return seen if seen > position else self._end(partition)

    def _next(self, partition: TopicPartition) -> int:
        end = self._end(partition)
        while records := self._fetch(partition, end, 500, end):
            end = records[-1].offset + 1
        return end

    def _oldest(self, partition: TopicPartition) -> int:
        found = self._consumer.beginning_offsets([partition], self._timeout * 1000)
        return int(found[partition])

    def _end(self, partition: TopicPartition) -> int:
        return int(self._consumer.end_offsets([partition], self._timeout * 1000)[partition])


def partition_of(place: KafkaPlace, part: str) -> TopicPartition:
    """Return the partition that a part is: `findings-3` of the topic `findings`."""
    topic, _, number = part.rpartition("-")
    return TopicPartition(place.prefix + topic, int(number))
