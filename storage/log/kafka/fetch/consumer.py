"""A consumer of kafka-python that reads many partitions, none of which can delay the others.

kafka-python (3.0.12) ends a whole poll with the error of one partition, does not report whether
an empty partition was answered at all, and asks a former leader for offsets without a pause.
"""

import time
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import CompletedFetch, Fetcher
from kafka.errors import (
    InvalidMetadataError,
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    NoError,
    OffsetOutOfRangeError,
    RetriableError,
    for_code,
)
from kafka.protocol.consumer import OffsetSpec
from kafka.util import Timer

from storage.errors import OffsetOutOfRange
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.network import create_client, quota_error
from storage.log.kafka.fetch.records import use_bounded_records

EARLIEST, LATEST = OffsetSpec.EARLIEST, OffsetSpec.LATEST
_TRY_SECONDS = 1.0
_PAUSE_SECONDS = 0.1
_MIN_PARTITION_BYTES = 2**20
_MIN_FETCH_BYTES = 2**24


class FetchResponse(NamedTuple):
    """An answered fetch: the offset that it asked for, and when it was sent."""

    offset: int
    sent_at: float


class _Fetcher(Fetcher):  # type: ignore[misc]
    """Fetch as kafka-python does, and keep the answer and the error of each partition."""

    def __init__(self, *parts: Any, **configs: Any) -> None:
        super().__init__(*parts, **configs)
        self.responses: dict[TopicPartition, FetchResponse] = {}
        self.fatal_errors: dict[TopicPartition, KafkaError] = {}
        self.errors: dict[TopicPartition, KafkaError] = {}
        self.advanced: set[TopicPartition] = set()
        self._next_partition_records: Any = None
        self._diverged_partitions: set[TopicPartition] = set()
        self._arrived_responses: deque[tuple[float, Mapping[TopicPartition, int]]] = deque()

    def fetched_records(self, *parts: Any, **options: Any) -> Any:
        """Return fetched records; a partition without an error counts as answered."""
        responses = [self._arrived_responses.popleft() for _ in range(len(self._arrived_responses))]
        self._diverged_partitions.clear()
        if not self._next_partition_records:  # an empty one would block the completed fetches
            self._next_partition_records = None
        found = super().fetched_records(*parts, **options)
        unanswered = self.errors.keys() | self._diverged_partitions
        for sent, offsets in responses:
            self.responses.update(
                {
                    each: FetchResponse(at, sent)
                    for each, at in offsets.items()
                    if each not in unanswered
                }
            )
        return found

    def _append(self, drained: Any, records: Any, *rest: Any) -> int:
        self.advanced.add(records.topic_partition)
        return int(super()._append(drained, records, *rest))

    def _handle_fetch_response(
        self, node: int, offsets: Mapping[TopicPartition, int], sent: float, response: Any
    ) -> None:
        super()._handle_fetch_response(node, offsets, sent, response)
        if not response.error_code:
            self._arrived_responses.append((sent, offsets))  # in the network thread

    def _parse_fetched_data(self, fetch: CompletedFetch) -> Any:
        topic_partition, data = fetch.topic_partition, fetch.partition_data
        kind, diverging = for_code(data.error_code), data.diverging_epoch
        if diverging is not None and diverging.end_offset >= 0:
            self._diverged_partitions.add(topic_partition)  # it is empty, but this is no end
        if kind is NoError:
            self.errors.pop(topic_partition, None)
        else:
            self.errors[topic_partition] = kind()
        try:
            return super()._parse_fetched_data(fetch)
        except KafkaError as error:
            self.fatal_errors[topic_partition] = error
            return None


class PartitionConsumer(KafkaConsumer):  # type: ignore[misc]
    """Read assigned partitions from given offsets; committed transactions only.

    One thread reads; any may call `list_offsets`.
    """

    def __init__(self, **configs: Any) -> None:
        super().__init__(
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            metrics_enabled=False,
            **configs,
        )
        self._fetcher = _Fetcher(self._client, self._subscription, **self.config)
        options = self.config | {"isolation_level": "read_uncommitted"}
        self._offset_fetcher = Fetcher(self._client, self._subscription, **options)
        self.truncations: dict[TopicPartition, int | None] = {}
        """End offsets of partitions whose new leader lost acknowledged records; None: unknown."""

    @property
    def responses(self) -> Mapping[TopicPartition, FetchResponse]:
        """Return the last fetch of each partition that had no error."""
        return self._fetcher.responses

    @property
    def fatal_errors(self) -> dict[TopicPartition, KafkaError]:
        """Return the errors of partitions that a retry does not resolve."""
        return self._fetcher.fatal_errors

    def no_answer_error(self, topic_partition: TopicPartition, partition: str) -> KafkaTimeoutError:
        """Return the error for a partition without an answer, with its cause if known."""
        error = KafkaTimeoutError(f"no broker answers for {partition}")
        error.__cause__ = self._fetcher.errors.get(topic_partition) or quota_error(self)
        return error

    def take_advanced(self) -> Collection[TopicPartition]:
        """Return the partitions with new records since the last call."""
        found, self._fetcher.advanced = self._fetcher.advanced, set()
        return found

    def assign_at(self, requests: Mapping[TopicPartition, int]) -> None:
        """Read these partitions and no others, from these offsets."""
        before = self.assignment()
        self.assign(list(requests))
        for topic_partition, offset in requests.items():
            if topic_partition not in before:
                self._fetcher.responses.pop(topic_partition, None)
            if topic_partition not in before or self.next_offset(topic_partition) != offset:
                self.seek(topic_partition, offset)

    def next_offset(self, topic_partition: TopicPartition) -> int:
        """Return the next offset to read, without waiting for brokers as `position` does."""
        return int(self._subscription.position(topic_partition).offset)

    def set_fetch_wait(self, milliseconds: int) -> None:
        """Set how long a broker may delay the answer to a fetch while it has no record."""
        self._fetcher.config["fetch_max_wait_ms"] = milliseconds

    def poll_records(
        self, milliseconds: int, max_records: int
    ) -> Mapping[TopicPartition, list[Any]]:
        """Return at most `max_records` fetched records; the next call returns the rest.

        Without one it returns once a fetch is answered or time is up.
        """
        try:
            return self._poll_once(Timer(milliseconds), max_records)  # type: ignore[no-any-return]
        except LogTruncationError as error:
            for topic_partition, at in error.divergent_offsets.items():
                self.truncations[topic_partition] = at and at.offset
            return {}

    def list_offsets(
        self, topic_partitions: Collection[TopicPartition], spec: OffsetSpec, seconds: float
    ) -> dict[TopicPartition, int]:
        """Return the start or the end offsets of partitions; raises KafkaError.

        Records of open transactions count.
        """
        return self._net.run(self._list_offsets, frozenset(topic_partitions), spec, seconds)  # type: ignore[no-any-return]

    def recover_offset(
        self, partition: str, topic_partition: TopicPartition, seconds: float
    ) -> int:
        """Return the next offset of a partition that failed, past records that were dropped.

        Raises OffsetOutOfRange if the partition ends before it, and any other fatal KafkaError.
        """
        current = self.next_offset(topic_partition)
        error = self.fatal_errors.pop(topic_partition, None)
        if topic_partition in self.truncations:
            end = self.truncations.pop(topic_partition)
            if end is None:  # it may have grown since
                end = min(
                    self.list_offsets([topic_partition], LATEST, seconds)[topic_partition],
                    current - 1,
                )
        elif isinstance(error, OffsetOutOfRangeError):
            end = self.list_offsets([topic_partition], LATEST, seconds)[topic_partition]
        elif error is not None:
            raise error
        else:
            return current
        if end < current:
            raise OffsetOutOfRange(partition, current, end)
        return max(
            current, self.list_offsets([topic_partition], EARLIEST, seconds)[topic_partition]
        )

    def has_failed(self, topic_partition: TopicPartition) -> bool:
        """Return whether a partition needs `recover_offset`."""
        return topic_partition in self.fatal_errors or topic_partition in self.truncations

    def seek(self, topic_partition: TopicPartition, offset: int) -> None:
        """Read a partition from an offset, and forget its errors."""
        super().seek(topic_partition, offset)
        self.fatal_errors.pop(topic_partition, None)
        self.truncations.pop(topic_partition, None)

    async def _list_offsets(
        self, topic_partitions: frozenset[TopicPartition], spec: OffsetSpec, seconds: float
    ) -> dict[TopicPartition, int]:
        deadline = time.monotonic() + seconds
        found: dict[TopicPartition, int] = {}
        error: KafkaError = InvalidMetadataError("no leader")
        while left := topic_partitions - found.keys():
            if (remaining := deadline - time.monotonic()) <= 0:
                raise error
            try:
                found |= await self._await_offsets(
                    remaining,
                    self._manager.call_soon(
                        self._offset_fetcher._send_list_offsets_requests, dict.fromkeys(left, spec)
                    ),
                )
            except RetriableError as failed:
                error = failed
            if topic_partitions - found.keys():
                await self._refresh_metadata(deadline - time.monotonic())
        return found

    async def _await_offsets(self, seconds: float, response: Any) -> dict[TopicPartition, int]:
        milliseconds = 1000 * min(seconds, _TRY_SECONDS)
        offsets, _ = await self._manager.wait_for(response, milliseconds)
        return {topic_partition: int(each.offset) for topic_partition, each in offsets.items()}

    async def _refresh_metadata(self, seconds: float) -> None:
        """Refresh the leaders, at most every tenth of a second."""
        milliseconds = 1000 * max(0.0, min(seconds, _TRY_SECONDS))
        with suppress(KafkaError):
            await self._manager.wait_for(self._cluster.request_update(), milliseconds)
        await self._net.sleep(_PAUSE_SECONDS)


def create_partition_consumer(config: KafkaConfig, **options: object) -> PartitionConsumer:
    """Return a connected consumer that decodes bounded records; raises KafkaError."""
    consumer: PartitionConsumer = create_client(
        PartitionConsumer,
        config,
        max_partition_fetch_bytes=max(config.largest, _MIN_PARTITION_BYTES),
        fetch_max_bytes=max(config.largest, _MIN_FETCH_BYTES),
        **options,
    )
    use_bounded_records(consumer, largest=config.largest)
    return consumer
