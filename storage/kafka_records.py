"""What a consumer fetched, decoded so that no byte of it can end or stall the reader.

kafka-python (3.0.12) raises for a record that it cannot decode, and then loops for ever in `poll`,
for all partitions. Here what cannot be decoded is yielded as a record whose `headers` are a
`Fault`, and the position moves behind it.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any
from zlib import crc32

from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record.util import calc_crc32c, decode_varint

from storage.kafka_batches import (
    APPEND_TIME,
    CODEC,
    CONTROL,
    CRC_AT,
    CRC_FROM,
    DAMAGE,
    FRAME,
    HEADER,
    MAGIC_AT,
    TRANSACTIONAL,
    Header,
    batches,
    digest,
    end_of_damaged,
    known,
    length_of,
    message_of,
    offset_of,
    record,
    span_of,
    uint,
)
from storage.kafka_codecs import LZ4, NAMES, BeyondBound, decompress

GROWTH = 4
"""How many times the largest message a batch may become when it is decompressed."""
_LATEST = 2**57 // 1000  # milliseconds: the year 6537, as in storage.log


class Fault(str):
    """Why something could not be decoded; it is in the place of the headers of a record."""

    __slots__ = ()


def bound_records(consumer: Any, *, largest: int) -> None:
    """Decode what a KafkaConsumer fetches with `BoundRecords`, for messages of `largest` bytes.

    Deserializers are not applied. What cannot be decoded comes as a record whose `headers` are a
    `Fault`, with an empty value, its key where that is known, and the first offset that it spans.
    """
    consumer._fetcher.PartitionRecords = partial(BoundRecords, most=GROWTH * largest)


class BoundRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """Records of one partition of a fetch, in order; it takes the place of kafka-python's own.

    A batch that decompresses to more than `most` bytes is set aside as a whole.
    """

    next_fetch_offset: int

    def __init__(self, fetch_offset: int, tp: Any, records: Any, *, most: int, **options: Any):
        self._most = most
        fetched = memoryview(records._buffer)
        records._buffer = b""  # the Fetcher raises where it sees bytes and no whole batch
        super().__init__(fetch_offset, tp, fetched, **options)

    def _unpack_records(self, tp: Any, records: memoryview, *_: Any) -> Iterator[Any]:
        for batch, following in batches(records):
            yield from self._of_batch(batch, following)
        if records and self.next_fetch_offset == self.fetch_offset:
            told = f"{digest(records, 'a fetch')}: all of it is before the offset asked for"
            yield self._aside(self.fetch_offset, self.fetch_offset + 1, told)
        self.drain()

    def _of_batch(self, batch: memoryview, following: int | None) -> Iterator[Any]:
        """Yield the records of a batch, and move behind it; the next one begins at `following`."""
        begin, end = span_of(batch, self.next_fetch_offset)
        self.bytes_read += len(batch)
        try:
            found = self._opened(batch)
        except DAMAGE as error:
            end = end_of_damaged(batch, begin, end, following)
            yield self._aside(begin, end, f"{digest(batch, 'a batch')}: {error}")
        else:
            yield from found
        self.next_fetch_offset = max(end, self.next_fetch_offset)

    def _opened(self, batch: memoryview) -> Iterator[Any]:
        """Return the records of a batch; raise ValueError where it has to be set aside."""
        if len(batch) < FRAME or length_of(batch) != len(batch) - FRAME:
            raise ValueError("cut off")
        magic = batch[MAGIC_AT]
        if magic > 2:
            raise ValueError(f"message format {magic} is none that is known")
        return self._of_header(batch) if magic == 2 else self._of_message(batch, magic)

    def _of_header(self, batch: memoryview) -> Iterator[Any]:
        header = Header(*HEADER.unpack_from(batch))
        if self.check_crcs and calc_crc32c(batch[CRC_FROM:]) != header.crc:
            raise ValueError("its checksum is another")
        self.leader_epoch = header.leader_epoch
        if self._is_passed_over(header):
            return iter(())
        if not (0 <= header.records <= header.last_delta + 1 and header.last_delta >= 0):
            raise ValueError(f"{header.records} records up to offset delta {header.last_delta}")
        return self._records(header, self._body(header.attributes, batch[HEADER.size :]))

    def _is_passed_over(self, header: Header) -> bool:
        """Return whether a batch is a marker, or in a transaction that was aborted."""
        is_control = bool(header.attributes & CONTROL)
        if self.isolation_level != IsolationLevel.READ_COMMITTED or header.producer < 0:
            return is_control
        self._consume_aborted_transactions_up_to(header.last)
        if is_control:  # it ends the transaction of this producer, one way or the other
            self.aborted_producer_ids.discard(header.producer)
            return True
        is_transactional = bool(header.attributes & TRANSACTIONAL)
        return is_transactional and header.producer in self.aborted_producer_ids

    def _body(self, attributes: int, body: memoryview) -> bytes:
        codec = attributes & CODEC
        if not codec:
            return bytes(body)
        try:
            return decompress(codec, bytes(body), self._most)
        except BeyondBound:
            raise ValueError(f"{NAMES[codec]} that holds more than {self._most} bytes") from None

    def _records(self, header: Header, data: bytes) -> Iterator[Any]:
        """Yield the records of a batch; where one is damaged its length tells the next."""
        at, last, kind = 0, -1, (header.attributes & APPEND_TIME) >> 3
        for nth in range(header.records):
            highest = header.last_delta - header.records + nth + 1  # leaves offsets for all others
            try:
                length, start = decode_varint(data, at)
                at = start + length
                if not start < at <= len(data):
                    raise ValueError(f"a record of {length} bytes")
            except DAMAGE as error:
                yield from self._rest(header, last, f"from record {nth + 1} on: {error}")
                return
            try:
                after, delta, key, value, headers = record(data, start, at)
                if not last < delta <= highest:
                    raise ValueError(f"offset delta {delta}")
            except DAMAGE as error:
                delta, key = known(data, start, at)
                last = delta if last < delta <= highest else last + 1
                offset, told = header.base + last, digest(data[start:at], "a record")
                if offset >= self.next_fetch_offset:
                    told = f"{told}: {error}"
                    yield self._aside(offset, offset + 1, told, header.max_timestamp, key)
                continue
            last = delta
            offset = header.base + delta
            if offset >= self.next_fetch_offset:
                made = header.max_timestamp if kind else header.first_timestamp + after
                yield self._made(offset, made, key, value, headers, kind=kind)
        if at < len(data):
            yield from self._rest(header, last, f"{len(data) - at} bytes behind its last record")

    def _rest(self, header: Header, last: int, reason: str) -> Iterator[Any]:
        """Yield what is set aside behind the last record of a batch that could be decoded."""
        begin, end = max(self.next_fetch_offset, header.base + last + 1), header.last + 1
        if begin < end:
            told = f"the rest of a batch of {header.records} records: {reason}"
            yield self._aside(begin, end, told, header.max_timestamp)

    def _of_message(self, message: memoryview, magic: int) -> Iterator[Any]:
        """Return the message of an old format, or those that it holds compressed."""
        if self.check_crcs and crc32(message[MAGIC_AT:]) != uint(message, CRC_AT):
            raise ValueError("its checksum is another")
        offset, attributes, at, key, value = message_of(message)
        kind = (attributes & APPEND_TIME) >> 3
        if not attributes & CODEC:
            return self._behind(offset, at, kind, key, value)
        if attributes & CODEC == LZ4 and not magic:
            raise ValueError("lz4 in message format 0 has a header of its own")
        data = memoryview(self._body(attributes, memoryview(value or b"")))
        last = [0, *(offset_of(each) for each, _ in batches(data) if len(each) >= FRAME)][-1]
        return self._messages(data, offset - last if magic else 0, offset, at if kind else None)

    def _messages(
        self, data: memoryview, base: int, last: int, append_time: int | None
    ) -> Iterator[Any]:
        """Yield the messages in a compressed one, which has the offset of the `last` of them."""
        before = -1
        for message, _ in batches(data):
            try:
                delta, attributes, at, key, value = message_of(message)
                if attributes & CODEC or not before < base + delta <= last:
                    raise ValueError(f"offset {delta} in a message with offset {last}")
            except DAMAGE as error:
                told = f"the rest of a compressed message: {error}"
                if self.next_fetch_offset <= last:
                    yield self._aside(self.next_fetch_offset, last + 1, told)
                return
            before = base + delta
            made, kind = (at, 0) if append_time is None else (append_time, 1)
            yield from self._behind(before, made, kind, key, value)

    def _behind(
        self, offset: int, at: int, kind: int, key: bytes | None, value: bytes | None
    ) -> Iterator[Any]:
        if offset >= self.next_fetch_offset:
            yield self._made(offset, at, key, value, [], kind=kind)

    def _aside(
        self, offset: int, end: int, reason: str, at: int = 0, key: bytes | None = None
    ) -> Any:
        """Return what stands for all up to `end`, and move there."""
        made = self._made(offset, at, key, b"", Fault(reason))
        self.next_fetch_offset = end
        return made

    def _made(
        self,
        offset: int,
        at: int,
        key: bytes | None,
        value: bytes | None,
        headers: Any,
        *,
        kind: int = 0,
    ) -> Any:
        """Return a record, and move behind it; an instant that no clock shows is the nearest."""
        self.next_fetch_offset = offset + 1
        self.records_read += 1
        return ConsumerRecord(
            self.topic_partition.topic,
            self.topic_partition.partition,
            self.leader_epoch,
            offset,
            at if 0 <= at <= _LATEST else min(max(at, 0), _LATEST),
            kind,
            key,
            value,
            headers,
            None,
            -1 if key is None else len(key),
            -1 if value is None else len(value),
            -1,
        )
