"""A consumer of kafka-python that reads many partitions, none of which can hold up the others.

What kafka-python (3.0.12) does otherwise: it ends a whole poll with an error of one partition,
does not say whether an empty partition was answered at all, and asks a former leader for offsets
again and again without a pause.
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

from storage.errors import BeyondEnd
from storage.kafka_client import connected, slowed_by_quota
from storage.kafka_place import KafkaPlace
from storage.kafka_records import bound_records

EARLIEST, LATEST = OffsetSpec.EARLIEST, OffsetSpec.LATEST
_TRY_SECONDS = 1.0
_PAUSE_SECONDS = 0.1
_LEAST_BYTES = 2**20
_FETCH_BYTES = 2**24


class Answer(NamedTuple):
    """A fetch that was answered: the offset that it asked for, and when it was sent."""

    offset: int
    sent: float


class _Fetcher(Fetcher):  # type: ignore[misc]
    """Fetch as kafka-python does, and keep for each partition what the brokers answered."""

    def __init__(self, *parts: Any, **configs: Any) -> None:
        super().__init__(*parts, **configs)
        self.answers: dict[TopicPartition, Answer] = {}
        self.refusals: dict[TopicPartition, KafkaError] = {}
        self.errors: dict[TopicPartition, KafkaError] = {}
        self.moved: set[TopicPartition] = set()
        self._next_partition_records: Any = None
        self._diverged: set[TopicPartition] = set()
        self._arrived: deque[tuple[float, Mapping[TopicPartition, int]]] = deque()

    def fetched_records(self, *parts: Any, **options: Any) -> Any:
        """Return what was fetched; only what it holds in full counts as answered."""
        arrived = [self._arrived.popleft() for _ in range(len(self._arrived))]
        self._diverged.clear()
        if not self._next_partition_records:  # used up, it would keep those set aside from coming
            self._next_partition_records = None
        found = super().fetched_records(*parts, **options)
        silent = self.errors.keys() | self._diverged
        for sent, offsets in arrived:
            self.answers.update(
                {each: Answer(at, sent) for each, at in offsets.items() if each not in silent}
            )
        return found

    def _append(self, drained: Any, records: Any, *rest: Any) -> int:
        self.moved.add(records.topic_partition)
        return int(super()._append(drained, records, *rest))

    def _handle_fetch_response(
        self, node: int, offsets: Mapping[TopicPartition, int], sent: float, response: Any
    ) -> None:
        super()._handle_fetch_response(node, offsets, sent, response)
        if not response.error_code:
            self._arrived.append((sent, offsets))  # in a thread of kafka-python's

    def _parse_fetched_data(self, fetch: CompletedFetch) -> Any:
        partition, data = fetch.topic_partition, fetch.partition_data
        kind, diverging = for_code(data.error_code), data.diverging_epoch
        if diverging is not None and diverging.end_offset >= 0:
            self._diverged.add(partition)  # it holds nothing, which is not to be taken for the end
        if kind is NoError:
            self.errors.pop(partition, None)
        else:
            self.errors[partition] = kind()
        try:
            return super()._parse_fetched_data(fetch)
        except KafkaError as error:
            self.refusals[partition] = error
            return None


class PartitionConsumer(KafkaConsumer):  # type: ignore[misc]
    """Read partitions that are assigned to it; only what is committed, from offsets that are told.

    One thread reads; `offsets` may be called from any.
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
        asks = self.config | {"isolation_level": "read_uncommitted"}
        self._asker = Fetcher(self._client, self._subscription, **asks)
        self.truncations: dict[TopicPartition, int | None] = {}
        """Where a leader's log ends that lost what another had acknowledged; None: unknown."""

    @property
    def answers(self) -> Mapping[TopicPartition, Answer]:
        """Return the last fetch of each partition that was answered without an error."""
        return self._fetcher.answers

    @property
    def refusals(self) -> dict[TopicPartition, KafkaError]:
        """Return the errors of partitions that do not pass by themselves."""
        return self._fetcher.refusals

    def silence(self, partition: TopicPartition, part: str) -> KafkaTimeoutError:
        """Return an error that says that a partition is not answered, with its cause if known."""
        error = KafkaTimeoutError(f"{part} is not answered")
        error.__cause__ = self._fetcher.errors.get(partition) or slowed_by_quota(self)
        return error

    def moved(self) -> Collection[TopicPartition]:
        """Return the partitions that something came from since the last call."""
        found, self._fetcher.moved = self._fetcher.moved, set()
        return found

    def place_at(self, wanted: Mapping[TopicPartition, int]) -> None:
        """Read these partitions and no others, from these offsets on."""
        before = self.assignment()
        self.assign(list(wanted))
        for partition, offset in wanted.items():
            if partition not in before:
                self._fetcher.answers.pop(partition, None)
            if partition not in before or self.stands(partition) != offset:
                self.seek(partition, offset)

    def stands(self, partition: TopicPartition) -> int:
        """Return the offset that is read next; `position` may wait for brokers."""
        return int(self._subscription.position(partition).offset)

    def be_patient(self, milliseconds: int) -> None:
        """Let a broker keep a fetch for so long while there is nothing to answer it with."""
        self._fetcher.config["fetch_max_wait_ms"] = milliseconds

    def look(self, milliseconds: int, most: int) -> Mapping[TopicPartition, list[Any]]:
        """Return at most so many records that were fetched; what is left comes with the next look.

        With none it returns once a fetch is answered or the time is over.
        """
        try:
            return self._poll_once(Timer(milliseconds), most)  # type: ignore[no-any-return]
        except LogTruncationError as error:
            for partition, at in error.divergent_offsets.items():
                self.truncations[partition] = at and at.offset
            return {}

    def offsets(
        self, partitions: Collection[TopicPartition], which: OffsetSpec, seconds: float
    ) -> dict[TopicPartition, int]:
        """Return where partitions begin, or end, whoever leads them; raises KafkaError.

        What is not committed yet counts.
        """
        return self._net.run(self._ask, frozenset(partitions), which, seconds)  # type: ignore[no-any-return]

    def go_on(self, part: str, partition: TopicPartition, seconds: float) -> int:
        """Return where a partition goes on after it was refused: further on where some is gone.

        Raises BeyondEnd where it ends before that, and the KafkaError that will not pass.
        """
        at = self.stands(partition)
        error = self.refusals.pop(partition, None)
        if partition in self.truncations:
            end = self.truncations.pop(partition)
            if end is None:  # it may have grown again since
                end = min(self.offsets([partition], LATEST, seconds)[partition], at - 1)
        elif isinstance(error, OffsetOutOfRangeError):
            end = self.offsets([partition], LATEST, seconds)[partition]
        elif error is not None:
            raise error
        else:
            return at
        if end < at:
            raise BeyondEnd(part, at, end)
        return max(at, self.offsets([partition], EARLIEST, seconds)[partition])

    def is_refused(self, partition: TopicPartition) -> bool:
        """Return whether `go_on` has to say where a partition goes on."""
        return partition in self.refusals or partition in self.truncations

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read a partition from an offset on; what was refused at another is forgotten."""
        super().seek(partition, offset)
        self.refusals.pop(partition, None)
        self.truncations.pop(partition, None)

    async def _ask(
        self, partitions: frozenset[TopicPartition], which: OffsetSpec, seconds: float
    ) -> dict[TopicPartition, int]:
        deadline = time.monotonic() + seconds
        found: dict[TopicPartition, int] = {}
        error: KafkaError = InvalidMetadataError("no leader")
        while left := partitions - found.keys():
            if (remaining := deadline - time.monotonic()) <= 0:
                raise error
            try:
                found |= await self._within(
                    remaining,
                    self._manager.call_soon(
                        self._asker._send_list_offsets_requests, dict.fromkeys(left, which)
                    ),
                )
            except RetriableError as failed:
                error = failed
            if partitions - found.keys():
                await self._refresh(deadline - time.monotonic())
        return found

    async def _within(self, seconds: float, asked: Any) -> dict[TopicPartition, int]:
        milliseconds = 1000 * min(seconds, _TRY_SECONDS)
        offsets, _ = await self._manager.wait_for(asked, milliseconds)
        return {partition: int(each.offset) for partition, each in offsets.items()}

    async def _refresh(self, seconds: float) -> None:
        """Learn who leads now, at most every tenth of a second."""
        milliseconds = 1000 * max(0.0, min(seconds, _TRY_SECONDS))
        with suppress(KafkaError):
            await self._manager.wait_for(self._cluster.request_update(), milliseconds)
        await self._net.sleep(_PAUSE_SECONDS)


def partition_consumer(place: KafkaPlace, **options: object) -> PartitionConsumer:
    """Return a connected consumer whose records are decoded within bounds; raises KafkaError."""
    consumer: PartitionConsumer = connected(
        PartitionConsumer,
        place,
        max_partition_fetch_bytes=max(place.largest, _LEAST_BYTES),
        fetch_max_bytes=max(place.largest, _FETCH_BYTES),
        **options,
    )
    bound_records(consumer, largest=place.largest)
    return consumer
