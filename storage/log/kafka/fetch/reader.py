"""Read a topic of Kafka from any offset, by any thread."""

import threading
import time

from kafka import TopicPartition
from kafka.protocol.consumer import OffsetSpec

from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.network import to_topic_partition
from storage.log.kafka.fetch.buffer import FetchBuffer
from storage.log.kafka.fetch.consumer import (
    EARLIEST,
    LATEST,
    create_partition_consumer,
)
from storage.log.log import LogPage

_POLL_MS = 500
_MAX_BUFFERED_BYTES = 2**25
_MIN_POLL_RECORDS = 16


class TopicReader:
    """One consumer for all partitions of a topic; it reads one at a time.

    It keeps records fetched beyond the limit for the next read. Raises KafkaError and
    OffsetOutOfRange.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._consumer = create_partition_consumer(
            config, fetch_max_wait_ms=0, enable_incremental_fetch_sessions=False
        )
        self._buffers: dict[str, FetchBuffer] = {}

    def read(self, partition: str, offset: int, limit: int) -> LogPage:
        """Return a page from an offset; it is empty only if there is no entry now."""
        with self._lock:
            buffer = self._buffers.pop(partition, None)
            page = buffer.take_page(offset, limit) if buffer and buffer.has_offset(offset) else None
            if not buffer or not page:
                buffer = self._fetch(partition, offset, limit)
                page = buffer.take_page(offset, limit)
            self._keep_buffer(partition, buffer)
            return page

    def start_offset(self, partition: str) -> int:
        """Return the first offset still kept."""
        return self._list_offset(partition, EARLIEST)

    def end_offset(self, partition: str) -> int:
        """Return the offset of the next append."""
        return self._list_offset(partition, LATEST)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            self._consumer.close(autocommit=False)

    def _list_offset(self, partition: str, spec: OffsetSpec) -> int:
        at = to_topic_partition(self._config, partition)
        return self._consumer.list_offsets([at], spec, self._config.timeout)[at]

    def _keep_buffer(self, partition: str, buffer: FetchBuffer) -> None:
        """Keep the last buffers, within bounds."""
        self._buffers[partition] = buffer
        size = sum(each.size for each in self._buffers.values())
        for other in list(self._buffers)[:-1]:
            if size > _MAX_BUFFERED_BYTES:
                size -= self._buffers.pop(other).size

    def _fetch(self, partition: str, offset: int, limit: int) -> FetchBuffer:
        """Fetch from an offset or, if that was dropped, from the first one kept."""
        topic_partition = to_topic_partition(self._config, partition)
        self._consumer.assign_at({topic_partition: offset})
        return self._fetch_until_answered(
            FetchBuffer(partition, offset), topic_partition, max(limit, _MIN_POLL_RECORDS)
        )

    def _fetch_until_answered(
        self, buffer: FetchBuffer, topic_partition: TopicPartition, max_records: int
    ) -> FetchBuffer:
        began = time.monotonic()
        while time.monotonic() < began + self._config.timeout:
            records = self._consumer.poll_records(_POLL_MS, max_records).get(topic_partition, [])
            if self._consumer.has_failed(topic_partition):
                self._skip_lost(buffer, topic_partition)
            next_offset = self._consumer.next_offset(topic_partition)
            buffer.append(records, next_offset)
            if records or self._is_end(topic_partition, next_offset, began):
                return buffer
        raise self._consumer.no_answer_error(topic_partition, buffer.partition)

    def _skip_lost(self, buffer: FetchBuffer, topic_partition: TopicPartition) -> None:
        """Skip to the first offset kept if the next one was dropped."""
        start_offset = self._consumer.recover_offset(
            buffer.partition, topic_partition, self._config.timeout
        )
        if start_offset > buffer.next_offset:
            buffer.skip_to(start_offset)
            self._consumer.seek(topic_partition, start_offset)

    def _is_end(self, topic_partition: TopicPartition, next_offset: int, began: float) -> bool:
        """Return whether a fetch sent after this read began returned no record."""
        answer = self._consumer.responses.get(topic_partition)
        return answer is not None and answer.offset == next_offset and answer.sent_at >= began
