"""Follow the ends of many partitions of Kafka at once."""

import time
from collections.abc import Callable, Iterator, Mapping
from threading import Event

from kafka import TopicPartition
from kafka.errors import KafkaError

from storage.errors import OffsetOutOfRange, StorageBlocked, StorageRefused
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.errors import translate_errors
from storage.log.kafka.client.network import to_topic_partition
from storage.log.kafka.client.refusals import RETRY_SECONDS, ResourceOperation
from storage.log.kafka.fetch.buffer import FetchBuffer
from storage.log.kafka.fetch.consumer import (
    FetchResponse,
    PartitionConsumer,
    create_partition_consumer,
)
from storage.log.log import LogPage, ReadRequest

_IDLE_MS = 500
"""How long a broker may delay a fetch while it has no entry."""
_HURRY_MS = 50
"""The same while a partition is paused: no other fetch can ask for it until this one ends."""
_POLL_MS = 200
"""How late a wait may notice `stop`."""
_FIRST_RESPONSE_SECONDS = 1.0
"""How long a first read waits for the first fetch."""
_RETRY_SECONDS = 1.0
"""The pause before a failed partition is retried; after a refusal it is longer."""
_REQUEST_SECONDS = 2.0
_IDLE_SECONDS = 60.0
"""How long a partition stays assigned that is no longer requested."""
_MAX_BUFFERED_BYTES = 2**26
_MAX_POLL_RECORDS = 5_000
"""Records decoded per poll, so that a reader has time for other work."""
_METADATA_MS = 30_000
_PAUSE_SECONDS = 0.02
_READ_AHEAD = 2


class _PartitionFeed:
    """A followed partition: its fetched entries, and its state."""

    __slots__ = (
        "buffer",
        "heard_at",
        "is_new",
        "is_repositioned",
        "partition",
        "requested_offset",
        "response",
        "returned_to",
        "topic_partition",
        "wanted_at",
    )

    def __init__(self, partition: str, topic_partition: TopicPartition, offset: int) -> None:
        self.partition = partition
        self.topic_partition = topic_partition
        self.buffer = FetchBuffer(partition, offset)
        self.returned_to = offset
        """The end of the last page."""
        self.requested_offset = -1
        self.is_repositioned = False
        """Whether the last read asked for another offset than the one before."""
        self.is_new = True
        self.wanted_at = 0.0
        """When it was last requested."""
        self.response: FetchResponse | None = None
        self.heard_at = 0.0

    def take_page(self, request: ReadRequest) -> LogPage:
        self.is_repositioned, self.requested_offset = (
            request.offset != self.requested_offset,
            request.offset,
        )
        page = self.buffer.take_page(*request)
        self.returned_to = page.next_offset
        return page


class KafkaTailReader:
    """One consumer and one poll for all partitions; none can delay another.

    A partition that does not exist, by `has_partition`, has no entries.
    """

    def __init__(self, config: KafkaConfig, has_partition: Callable[[str], bool]) -> None:
        self._config = config
        self._has_partition = has_partition
        self._consumer: PartitionConsumer | None = None
        self._feeds: dict[str, _PartitionFeed] = {}
        self._partitions: dict[TopicPartition, str] = {}
        self._requests: Mapping[str, ReadRequest] = {}
        self._paused: set[TopicPartition] = set()
        self._retry_after: dict[str, tuple[int, float]] = {}
        self._polling_time = 0.0
        """Seconds spent polling, in which a reader's own work counts little."""
        self._polled_at = 0.0

    def read(self, requests: Mapping[str, ReadRequest]) -> list[LogPage]:
        """Return a page for each of these partitions that has new entries.

        Waits only for the first fetch of a partition.
        """
        with translate_errors(self._config):
            consumer = self._get_consumer()
            self._update_feeds(consumer, requests)
            self._poll(consumer, 0)
            self._await_first_responses(consumer)
            self._recover_failed(consumer)
            feeds = self._feeds
            pages = [
                feeds[partition].take_page(request)
                for partition, request in requests.items()
                if partition in feeds
            ]
            pages = [page for page in pages if page.next_offset > page.offset]
            if not pages:
                self._check_silence(consumer)
            return pages

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when a partition of the last read has more, `stop` is set or time is up."""
        deadline = time.monotonic() + seconds
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
            if self._consumer is None or not self._feeds:
                stop.wait(left)
            elif self._has_new(self._consumer):
                return
            else:
                self._poll_once(self._consumer, stop, left)

    def close(self) -> None:
        """Close the connections."""
        if self._consumer is not None:
            self._consumer.close(autocommit=False)

    def _get_consumer(self) -> PartitionConsumer:
        if self._consumer is None:
            self._consumer = create_partition_consumer(
                self._config, metadata_max_age_ms=_METADATA_MS
            )
        return self._consumer

    def _update_feeds(
        self, consumer: PartitionConsumer, requests: Mapping[str, ReadRequest]
    ) -> None:
        """Fetch each partition from its requested offset, and no others."""
        now = time.monotonic()
        self._requests = {
            partition: request
            for partition, request in requests.items()
            if self._has_partition(partition) and not self._is_backing_off(partition, request, now)
        }
        for partition, request in self._requests.items():
            feed = self._feeds.get(partition)
            if feed is None:
                feed = _PartitionFeed(
                    partition, to_topic_partition(self._config, partition), request.offset
                )
                feed.heard_at = self._polling_time
                self._feeds[partition] = feed
            elif not feed.buffer.has_offset(request.offset):
                feed.buffer = FetchBuffer(partition, request.offset)
                consumer.seek(feed.topic_partition, request.offset)
            feed.wanted_at = now
        self._assign_feeds(consumer, now)
        self._pause_feeds(consumer)

    def _is_backing_off(self, partition: str, request: ReadRequest, now: float) -> bool:
        offset, until = self._retry_after.get(partition, (-1, 0.0))
        if offset == request.offset and now < until:
            return True
        self._retry_after.pop(partition, None)
        return False

    def _assign_feeds(self, consumer: PartitionConsumer, now: float) -> None:
        feeds = self._feeds
        for partition in [
            name for name, each in feeds.items() if each.wanted_at < now - _IDLE_SECONDS
        ]:
            del feeds[partition]
        if self._partitions.keys() != {feed.topic_partition for feed in feeds.values()}:
            consumer.assign_at(
                {feed.topic_partition: feed.buffer.next_offset for feed in feeds.values()}
            )
            self._partitions = {
                feed.topic_partition: partition for partition, feed in feeds.items()
            }
            self._paused &= self._partitions.keys()

    def _pause_feeds(self, consumer: PartitionConsumer) -> None:
        is_full = sum(feed.buffer.size for feed in self._feeds.values()) > _MAX_BUFFERED_BYTES
        paused = {
            feed.topic_partition
            for feed in self._feeds.values()
            if consumer.has_failed(feed.topic_partition) or self._has_enough(feed, is_full=is_full)
        }
        consumer.pause(*(paused - self._paused))
        consumer.resume(*(self._paused - paused))
        for feed in self._feeds.values():
            if feed.topic_partition in self._paused and feed.topic_partition not in paused:
                feed.heard_at = self._polling_time
        self._paused = paused
        hurry = paused or any(feed.is_new for feed in self._feeds.values())
        consumer.set_fetch_wait(_HURRY_MS if hurry else _IDLE_MS)

    def _has_enough(self, feed: _PartitionFeed, *, is_full: bool) -> bool:
        """Return whether a partition needs no further fetch for now."""
        request, fetched = self._requests.get(feed.partition), feed.buffer
        if request is None:
            return True
        is_large = is_full or fetched.size >= self._config.largest
        return len(fetched) >= _READ_AHEAD * request.limit or (is_large and len(fetched) > 0)

    def _poll(self, consumer: PartitionConsumer, milliseconds: int) -> None:
        """Buffer what was fetched; the consumer's offsets skip those without an entry."""
        found = consumer.poll_records(milliseconds, _MAX_POLL_RECORDS) if self._feeds else {}
        for topic_partition in found.keys() | consumer.take_advanced():
            partition = self._partitions.get(topic_partition)
            if partition in self._feeds:
                self._feeds[partition].buffer.append(
                    found.get(topic_partition, ()), consumer.next_offset(topic_partition)
                )
        now = time.monotonic()
        self._polling_time += min(now - self._polled_at, 1.0)
        self._polled_at = now

    def _await_first_responses(self, consumer: PartitionConsumer) -> None:
        """Wait until each new partition was fetched once; not for long."""
        new = [feed for feed in self._feeds.values() if feed.is_new]
        deadline = time.monotonic() + min(_FIRST_RESPONSE_SECONDS, self._config.timeout)
        while any(not self._has_responded(consumer, feed) for feed in new):
            if time.monotonic() > deadline:
                break
            self._poll(consumer, _HURRY_MS)
        for feed in new:
            feed.is_new = False
            if feed.topic_partition in consumer.responses:
                self._config.refusals.clear(ResourceOperation(feed.topic_partition.topic, "READ"))

    def _has_responded(self, consumer: PartitionConsumer, feed: _PartitionFeed) -> bool:
        is_answered = feed.topic_partition in consumer.responses or consumer.has_failed(
            feed.topic_partition
        )
        return is_answered or len(feed.buffer) > 0

    def _recover_failed(self, consumer: PartitionConsumer) -> None:
        """Find the next offset of each failed partition, once its buffered entries are read."""
        for partition, request in self._requests.items():
            feed = self._feeds[partition]
            if (
                consumer.has_failed(feed.topic_partition)
                and request.offset == feed.buffer.next_offset
            ):
                self._recover(consumer, feed)

    def _recover(self, consumer: PartitionConsumer, feed: _PartitionFeed) -> None:
        offset = feed.buffer.next_offset
        try:
            with translate_errors(self._config, topic=feed.topic_partition.topic, operation="READ"):
                start_offset = consumer.recover_offset(
                    feed.partition, feed.topic_partition, _REQUEST_SECONDS
                )
        except (StorageBlocked, OffsetOutOfRange) as error:
            backoff = RETRY_SECONDS if isinstance(error, StorageRefused) else _RETRY_SECONDS
            self._retry_after[feed.partition] = offset, time.monotonic() + backoff
            del self._feeds[feed.partition]
            self._assign_feeds(consumer, time.monotonic())  # until it is requested again
            raise
        if start_offset > offset:
            feed.buffer.skip_to(start_offset)
            consumer.seek(feed.topic_partition, start_offset)

    def _check_silence(self, consumer: PartitionConsumer) -> None:
        """Raise KafkaTimeoutError if no broker answers the fetch of a partition."""
        for partition in self._requests:
            feed = self._feeds[partition]
            response = consumer.responses.get(feed.topic_partition)
            if response != feed.response or feed.topic_partition in self._paused:
                feed.response, feed.heard_at = response, self._polling_time
            elif self._polling_time - feed.heard_at > self._config.timeout:
                raise consumer.no_answer_error(feed.topic_partition, partition)

    def _poll_once(self, consumer: PartitionConsumer, stop: Event, seconds: float) -> None:
        """Wait until a fetch is answered; the next read raises its error."""
        began = time.monotonic()
        try:
            self._poll(consumer, min(_POLL_MS, int(1000 * seconds) + 1))
        except KafkaError:
            stop.wait(min(seconds, _PAUSE_SECONDS))
        if time.monotonic() - began < _PAUSE_SECONDS / 4 and not self._has_new(consumer):
            stop.wait(min(seconds, _PAUSE_SECONDS))

    def _has_new(self, consumer: PartitionConsumer) -> bool:
        return any(self._is_new(consumer, feed) for feed in self._requested_feeds())

    def _is_new(self, consumer: PartitionConsumer, feed: _PartitionFeed) -> bool:
        """Return whether a read would return more than the last one, free buffers, or raise."""
        if feed.buffer.next_offset > feed.returned_to:
            return True
        if feed.topic_partition in self._paused and feed.is_repositioned:
            return True
        is_read = self._requests[feed.partition].offset == feed.buffer.next_offset
        return is_read and consumer.has_failed(feed.topic_partition)

    def _requested_feeds(self) -> Iterator[_PartitionFeed]:
        return (self._feeds[partition] for partition in self._requests if partition in self._feeds)
