"""Batches of Kafka as raw bytes, right or damaged, and a way to send them to a broker as is."""

import gzip
import struct
from dataclasses import dataclass
from typing import Any

import lz4.frame
import snappy
import zstandard
from kafka import KafkaAdminClient, TopicPartition
from kafka.codec import snappy_encode
from kafka.protocol.producer import ProduceRequest
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import calc_crc32c, encode_varint

from storage.log.kafka.fetch.records import BoundedRecords, RecordFault

COMPRESSORS = {
    0: bytes,
    1: gzip.compress,
    2: snappy_encode,
    3: lambda data: lz4.frame.compress(data, block_linked=False),
    4: zstandard.ZstdCompressor().compress,
}
RAW_SNAPPY = snappy.compress
PARTITION = TopicPartition("t", 0)
MAX_BYTES = 2**20


def varint(value: int) -> bytes:
    out = bytearray()
    encode_varint(value, out.append)
    return bytes(out)


def length_prefixed(value: bytes | None) -> bytes:
    return varint(-1) if value is None else varint(len(value)) + value


@dataclass(frozen=True, kw_only=True)
class RecordSpec:
    value: bytes | None = b"v"
    key: bytes | None = b"dock"
    headers: tuple[tuple[bytes, bytes | None], ...] = ()
    delta: int | None = None
    after: int = 0

    def encode(self, nth: int) -> bytes:
        delta = nth if self.delta is None else self.delta
        body = (
            b"\0"
            + varint(self.after)
            + varint(delta)
            + length_prefixed(self.key)
            + length_prefixed(self.value)
        )
        body += varint(len(self.headers))
        body += b"".join(
            length_prefixed(name) + length_prefixed(content) for name, content in self.headers
        )
        return varint(len(body)) + body


def encode_records(*records: RecordSpec) -> bytes:
    return b"".join(each.encode(nth) for nth, each in enumerate(records))


def encode_batch(
    body: bytes,
    count: int,
    *,
    codec: int = 0,
    base: int = 0,
    last: int | None = None,
    attributes: int = 0,
    magic: int = 2,
    at: int = 1_700_000_000_000,
    producer: int = -1,
    packed: bytes | None = None,
) -> bytes:
    """Return a batch of format 2 with a right checksum."""
    last = count - 1 if last is None else last
    sequence = -1 if producer < 0 else 0
    rest = struct.pack(
        ">hiqqqhii", attributes | codec, last, at, at, producer, sequence, sequence, count
    )
    rest += COMPRESSORS.get(codec, bytes)(body) if packed is None else packed
    return struct.pack(">qiibI", base, len(rest) + 9, 0, magic, calc_crc32c(rest)) + rest


def encode_batch_of(*records: RecordSpec, **words: Any) -> bytes:
    return encode_batch(encode_records(*records), len(records), **words)


def decode(
    raw: bytes, position: int = 0, *, most: int = MAX_BYTES, **options: Any
) -> BoundedRecords:
    """Return what a consumer would take from a fetch with these bytes."""
    return BoundedRecords(position, PARTITION, MemoryRecords(raw), max_bytes=most, **options)


def drain(raw: bytes, position: int = 0, **options: Any) -> tuple[list[Any], int]:
    """Return all records of a fetch, and where the next fetch begins."""
    part, found = decode(raw, position, **options), []
    while part:
        found += part.take(7)
    return found, part.next_fetch_offset


def faults(records: list[Any]) -> dict[int, str]:
    return {
        each.offset: str(each.headers) for each in records if isinstance(each.headers, RecordFault)
    }


def good_values(records: list[Any]) -> dict[int, bytes | None]:
    return {
        each.offset: each.value for each in records if not isinstance(each.headers, RecordFault)
    }


def produce(admin: KafkaAdminClient, where: TopicPartition, raw: bytes, node: int = 1) -> int:
    """Send bytes as a batch to the leader of a partition; return the error code of the broker."""
    topic = ProduceRequest.TopicProduceData
    data = topic.PartitionProduceData(index=where.partition, records=raw)
    request = ProduceRequest(
        transactional_id=None,
        acks=-1,
        timeout_ms=10_000,
        topic_data=[topic(name=where.topic, partition_data=[data])],
        max_version=9,
    )
    answer = admin._manager.run(admin._manager.send, request, node)
    return int(answer.responses[0].partition_responses[0].error_code)
