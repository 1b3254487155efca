"""Decode fetched records so that no damaged byte can end or stall the reader.

kafka-python (3.0.12) raises for a record that it cannot decode, and then loops forever in `poll`,
for all partitions. Here damaged bytes become a record whose `headers` are a `RecordFault`, and
the reader moves past them.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any
from zlib import crc32

from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record.util import calc_crc32c, decode_varint

from storage.log.kafka.fetch.batches import (
    APPEND_TIME,
    CODEC,
    CONTROL,
    CRC_AT,
    CRC_FROM,
    DAMAGE_ERRORS,
    FRAME_BYTES,
    HEADER,
    MAGIC_AT,
    TRANSACTIONAL,
    BatchHeader,
    batch_length,
    batch_offset,
    batch_span,
    damaged_batch_end,
    describe_damage,
    parse_damaged_record,
    parse_message,
    parse_record,
    read_uint32,
    split_batches,
)
from storage.log.kafka.fetch.codecs import LZ4, NAMES, BeyondBound, decompress

GROWTH = 4
"""Largest size of a decompressed batch, in multiples of the largest message."""
_MAX_TIMESTAMP_MS = 2**57 // 1000  # milliseconds: the year 6537, as in storage.log.log


class RecordFault(str):
    """Why bytes could not be decoded; it takes the place of the headers of a record."""

    __slots__ = ()


def use_bounded_records(consumer: Any, *, largest: int) -> None:
    """Decode what a KafkaConsumer fetches with `BoundedRecords`, for messages of `largest` bytes.

    Deserializers are not applied. A record of damaged bytes has a `RecordFault` as `headers`, an
    empty value, its key if known, and the first offset that it spans.
    """
    consumer._fetcher.PartitionRecords = partial(BoundedRecords, max_bytes=GROWTH * largest)


class BoundedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """Records of one partition of a fetch, in order; replaces kafka-python's own class.

    A batch that decompresses to more than `max_bytes` becomes one `RecordFault`.
    """

    next_fetch_offset: int

    def __init__(self, fetch_offset: int, tp: Any, records: Any, *, max_bytes: int, **options: Any):
        self._max_bytes = max_bytes
        fetched = memoryview(records._buffer)
        records._buffer = b""  # the Fetcher raises for bytes without a whole batch
        super().__init__(fetch_offset, tp, fetched, **options)

    def _unpack_records(self, tp: Any, records: memoryview, *_: Any) -> Iterator[Any]:
        for batch, following in split_batches(records):
            yield from self._decode_batch(batch, following)
        if records and self.next_fetch_offset == self.fetch_offset:
            reason = (
                f"{describe_damage(records, 'a fetch')}: all of it is before the offset asked for"
            )
            yield self._set_aside(self.fetch_offset, self.fetch_offset + 1, reason)
        self.drain()

    def _decode_batch(self, batch: memoryview, following: int | None) -> Iterator[Any]:
        """Yield the records of a batch, and move past it; the next one begins at `following`."""
        begin, end = batch_span(batch, self.next_fetch_offset)
        self.bytes_read += len(batch)
        try:
            records = self._open_batch(batch)
        except DAMAGE_ERRORS as error:
            end = damaged_batch_end(batch, begin, end, following)
            yield self._set_aside(begin, end, f"{describe_damage(batch, 'a batch')}: {error}")
        else:
            yield from records
        self.next_fetch_offset = max(end, self.next_fetch_offset)

    def _open_batch(self, batch: memoryview) -> Iterator[Any]:
        """Return the records of a batch; raise ValueError if it is damaged."""
        if len(batch) < FRAME_BYTES or batch_length(batch) != len(batch) - FRAME_BYTES:
            raise ValueError("cut off")
        magic = batch[MAGIC_AT]
        if magic > 2:
            raise ValueError(f"message format {magic} is unknown")
        return self._open_v2(batch) if magic == 2 else self._open_legacy(batch, magic)

    def _open_v2(self, batch: memoryview) -> Iterator[Any]:
        header = BatchHeader(*HEADER.unpack_from(batch))
        if self.check_crcs and calc_crc32c(batch[CRC_FROM:]) != header.crc:
            raise ValueError("its checksum is wrong")
        self.leader_epoch = header.leader_epoch
        if self._is_skipped(header):
            return iter(())
        if not (0 <= header.records <= header.last_delta + 1 and header.last_delta >= 0):
            raise ValueError(f"{header.records} records up to offset delta {header.last_delta}")
        return self._decode_records(
            header, self._decompress_body(header.attributes, batch[HEADER.size :])
        )

    def _is_skipped(self, header: BatchHeader) -> bool:
        """Return whether a batch is a marker, or in an aborted transaction."""
        is_control = bool(header.attributes & CONTROL)
        if self.isolation_level != IsolationLevel.READ_COMMITTED or header.producer < 0:
            return is_control
        self._consume_aborted_transactions_up_to(header.last)
        if is_control:  # it commits or aborts the transaction of this producer
            self.aborted_producer_ids.discard(header.producer)
            return True
        is_transactional = bool(header.attributes & TRANSACTIONAL)
        return is_transactional and header.producer in self.aborted_producer_ids

    def _decompress_body(self, attributes: int, body: memoryview) -> bytes:
        codec = attributes & CODEC
        if not codec:
            return bytes(body)
        try:
            return decompress(codec, bytes(body), self._max_bytes)
        except BeyondBound:
            raise ValueError(f"{NAMES[codec]} of more than {self._max_bytes} bytes") from None

    def _decode_records(self, header: BatchHeader, data: bytes) -> Iterator[Any]:
        """Yield the records of a batch; the length of a damaged one leads to the next."""
        at, last, kind = 0, -1, (header.attributes & APPEND_TIME) >> 3
        for nth in range(header.records):
            highest = header.last_delta - header.records + nth + 1  # leaves offsets for all others
            try:
                length, start = decode_varint(data, at)
                at = start + length
                if not start < at <= len(data):
                    raise ValueError(f"a record of {length} bytes")
            except DAMAGE_ERRORS as error:
                yield from self._damaged_rest(header, last, f"from record {nth + 1} on: {error}")
                return
            try:
                after, delta, key, value, headers = parse_record(data, start, at)
                if not last < delta <= highest:
                    raise ValueError(f"offset delta {delta}")
            except DAMAGE_ERRORS as error:
                delta, key = parse_damaged_record(data, start, at)
                last = delta if last < delta <= highest else last + 1
                offset, reason = (
                    header.base_offset + last,
                    describe_damage(data[start:at], "a record"),
                )
                if offset >= self.next_fetch_offset:
                    reason = f"{reason}: {error}"
                    yield self._set_aside(offset, offset + 1, reason, header.max_timestamp, key)
                continue
            last = delta
            offset = header.base_offset + delta
            if offset >= self.next_fetch_offset:
                timestamp = header.max_timestamp if kind else header.first_timestamp + after
                yield self._build_record(offset, timestamp, key, value, headers, kind=kind)
        if at < len(data):
            yield from self._damaged_rest(
                header, last, f"{len(data) - at} bytes after its last record"
            )

    def _damaged_rest(self, header: BatchHeader, last: int, reason: str) -> Iterator[Any]:
        """Yield a fault for the rest of a batch after its last decoded record."""
        begin, end = max(self.next_fetch_offset, header.base_offset + last + 1), header.last + 1
        if begin < end:
            text = f"the rest of a batch of {header.records} records: {reason}"
            yield self._set_aside(begin, end, text, header.max_timestamp)

    def _open_legacy(self, message: memoryview, magic: int) -> Iterator[Any]:
        """Return the message of an old format, or the compressed messages in it."""
        if self.check_crcs and crc32(message[MAGIC_AT:]) != read_uint32(message, CRC_AT):
            raise ValueError("its checksum is wrong")
        offset, attributes, at, key, value = parse_message(message)
        kind = (attributes & APPEND_TIME) >> 3
        if not attributes & CODEC:
            return self._records_from(offset, at, kind, key, value)
        if attributes & CODEC == LZ4 and not magic:
            raise ValueError("lz4 in message format 0 has another header")
        data = memoryview(self._decompress_body(attributes, memoryview(value or b"")))
        last = [
            0,
            *(batch_offset(each) for each, _ in split_batches(data) if len(each) >= FRAME_BYTES),
        ][-1]
        return self._decode_messages(
            data, offset - last if magic else 0, offset, at if kind else None
        )

    def _decode_messages(
        self, data: memoryview, base: int, last: int, append_time: int | None
    ) -> Iterator[Any]:
        """Yield the messages in a compressed one; it has the offset of its last message."""
        before = -1
        for message, _ in split_batches(data):
            try:
                delta, attributes, at, key, value = parse_message(message)
                if attributes & CODEC or not before < base + delta <= last:
                    raise ValueError(f"offset {delta} in a message with offset {last}")
            except DAMAGE_ERRORS as error:
                reason = f"the rest of a compressed message: {error}"
                if self.next_fetch_offset <= last:
                    yield self._set_aside(self.next_fetch_offset, last + 1, reason)
                return
            before = base + delta
            timestamp, kind = (at, 0) if append_time is None else (append_time, 1)
            yield from self._records_from(before, timestamp, kind, key, value)

    def _records_from(
        self, offset: int, at: int, kind: int, key: bytes | None, value: bytes | None
    ) -> Iterator[Any]:
        if offset >= self.next_fetch_offset:
            yield self._build_record(offset, at, key, value, [], kind=kind)

    def _set_aside(
        self, offset: int, end: int, reason: str, at: int = 0, key: bytes | None = None
    ) -> Any:
        """Return a record with a fault for all offsets before `end`, and move there."""
        fault = self._build_record(offset, at, key, b"", RecordFault(reason))
        self.next_fetch_offset = end
        return fault

    def _build_record(
        self,
        offset: int,
        at: int,
        key: bytes | None,
        value: bytes | None,
        headers: Any,
        *,
        kind: int = 0,
    ) -> Any:
        """Return a record with its timestamp clamped, and move past it."""
        self.next_fetch_offset = offset + 1
        self.records_read += 1
        return ConsumerRecord(
            self.topic_partition.topic,
            self.topic_partition.partition,
            self.leader_epoch,
            offset,
            at if 0 <= at <= _MAX_TIMESTAMP_MS else min(max(at, 0), _MAX_TIMESTAMP_MS),
            kind,
            key,
            value,
            headers,
            None,
            -1 if key is None else len(key),
            -1 if value is None else len(value),
            -1,
        )
