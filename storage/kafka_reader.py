"""Reading a topic of Kafka from any position, by any thread."""

import threading
import time

from kafka import TopicPartition

from storage.kafka_consumer import (
    EARLIEST,
    LATEST,
    PartitionConsumer,
    partition_consumer,
)
from storage.kafka_fetched import Fetched
from storage.kafka_place import KafkaPlace
from storage.log import Page

_LOOK_MS = 500
_MOST_BYTES = 2**25
_LEAST_RECORDS = 16


class TopicReader:
    """One consumer for all partitions of a topic, of which one at a time is read.

    What was fetched beyond what was asked for is kept for the next read. Raises KafkaError and
    BeyondEnd.
    """

    def __init__(self, place: KafkaPlace) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._consumer = _connected(place)
        self._fetched: dict[str, Fetched] = {}

    def read(self, part: str, position: int, limit: int) -> Page:
        """Return a page at a position; it is empty only where nothing is there now."""
        with self._lock:
            fetched = self._fetched.pop(part, None)
            page = fetched.page(position, limit) if fetched and fetched.holds(position) else None
            if not fetched or not page:
                fetched = self._fetch(part, position, limit)
                page = fetched.page(position, limit)
            self._keep(part, fetched)
            return page

    def oldest(self, part: str) -> int:
        """Return the first offset that is still there."""
        partition = partition_of(self._place, part)
        return self._consumer.offsets([partition], EARLIEST, self._place.timeout)[partition]

    def next(self, part: str) -> int:
        """Return the offset that the next record will get."""
        partition = partition_of(self._place, part)
        return self._consumer.offsets([partition], LATEST, self._place.timeout)[partition]

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock:
            self._consumer.close(autocommit=False)

    def _keep(self, part: str, fetched: Fetched) -> None:
        """Keep what was fetched last, within bounds."""
        self._fetched[part] = fetched
        size = sum(each.size for each in self._fetched.values())
        for other in list(self._fetched)[:-1]:
            if size > _MOST_BYTES:
                size -= self._fetched.pop(other).size

    def _fetch(self, part: str, position: int, limit: int) -> Fetched:
        """Fetch what is at a position or, where that is gone, at the oldest one."""
        partition = partition_of(self._place, part)
        self._consumer.place_at({partition: position})  # of others nothing more is held
        return self._until_answered(Fetched(part, position), partition, max(limit, _LEAST_RECORDS))

    def _until_answered(self, fetched: Fetched, partition: TopicPartition, most: int) -> Fetched:
        began = time.monotonic()
        while time.monotonic() < began + self._place.timeout:
            records = self._consumer.look(_LOOK_MS, most).get(partition, [])
            if self._consumer.is_refused(partition):
                self._go_on(fetched, partition)
            stands = self._consumer.stands(partition)
            fetched.add(records, stands)
            if records or self._is_end(partition, stands, began):
                return fetched
        raise self._consumer.silence(partition, fetched.part)

    def _go_on(self, fetched: Fetched, partition: TopicPartition) -> None:
        """Go on at the oldest offset where the log no longer keeps the next."""
        oldest = self._consumer.go_on(fetched.part, partition, self._place.timeout)
        if oldest > fetched.next:
            fetched.forget(oldest)
            self._consumer.seek(partition, oldest)

    def _is_end(self, partition: TopicPartition, stands: int, began: float) -> bool:
        """Return whether nothing came of a fetch that was sent after this read began."""
        answer = self._consumer.answers.get(partition)
        return answer is not None and answer.offset == stands and answer.sent >= began


def _connected(place: KafkaPlace) -> PartitionConsumer:
    return partition_consumer(place, fetch_max_wait_ms=0, enable_incremental_fetch_sessions=False)


def partition_of(place: KafkaPlace, part: str) -> TopicPartition:
    """Return the partition that a part is: `findings-3` of the topic `findings`."""
    topic, _, number = part.rpartition("-")
    return TopicPartition(place.prefix + topic, int(number))
