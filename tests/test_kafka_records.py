"""What was fetched from Kafka is decoded, or set aside and passed, whatever the bytes."""

import gzip
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from kit.kafka.batches import (
    COMPRESSORS,
    MAX_BYTES,
    PARTITION,
    RAW_SNAPPY,
    RecordSpec,
    drain,
    encode_batch,
    encode_batch_of,
    encode_records,
    faults,
    good_values,
    produce,
    varint,
)
from kit.kafka.broker import Broker
from storage.log.kafka.fetch.records import use_bounded_records

BAD_HEADER = RecordSpec(value=b"bad", headers=((b"\xff", b"x"),))
RECORDS = (
    RecordSpec(value=b"a"),
    RecordSpec(value=None, key=None),
    RecordSpec(value=b"c", headers=((b"h", None),)),
)
BLOCK = b"\0" * 2**20


def xerial(*blocks: bytes) -> bytes:
    head = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)
    return head + b"".join(struct.pack(">i", len(each)) + each for each in blocks)


BOMBS = {
    "gzip": (1, gzip.compress(BLOCK * 64)),
    "gzip of many members": (1, gzip.compress(BLOCK) * 64),
    "snappy": (2, RAW_SNAPPY(BLOCK * 64)),
    "snappy of many blocks": (2, xerial(*[RAW_SNAPPY(BLOCK)] * 64)),
    "snappy that says so": (2, b"\xff\xff\xff\xff\x0f\0"),
    "lz4": (3, lz4.frame.compress(BLOCK * 64)),
    "zstd": (4, zstandard.ZstdCompressor().compress(BLOCK * 64)),
    "zstd of many frames": (4, zstandard.ZstdCompressor().compress(BLOCK) * 64),
}


@pytest.mark.parametrize("codec", COMPRESSORS)
def test_every_codec_is_read(codec: int) -> None:
    raw = encode_batch_of(*RECORDS, codec=codec, base=5)
    records, after = drain(raw, 5)
    assert [(r.offset, r.key, r.value, r.headers) for r in records] == [
        (5, b"dock", b"a", []),
        (6, None, None, []),
        (7, b"dock", b"c", [("h", None)]),
    ]
    assert after == 8


def test_snappy_is_read_in_both_framings() -> None:
    body = encode_records(*RECORDS)
    for packed in (RAW_SNAPPY(body), xerial(RAW_SNAPPY(body[:9]), RAW_SNAPPY(body[9:]))):
        assert len(good_values(drain(encode_batch(body, 3, codec=2, packed=packed))[0])) == 3


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_set_aside_by_its_digest_and_takes_little_memory(name: str) -> None:
    codec, packed = BOMBS[name]
    raw = encode_batch(b"", 3, codec=codec, packed=packed) + encode_batch_of(
        RecordSpec(value=b"next"), base=3
    )
    tracemalloc.start()
    try:
        records, after = drain(raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert f"{name.split(maxsplit=1)[0]} of more than {MAX_BYTES} bytes" in faults(records)[0]
    assert f"of {61 + len(packed)} bytes with sha256" in faults(records)[0]
    assert (good_values(records), after) == ({3: b"next"}, 4)
    assert peak < 12 * MAX_BYTES


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_many_empty_frames_take_no_long_time(codec: int) -> None:
    empty = {1: gzip.compress(b""), 3: lz4.frame.compress(b"")}.get(codec, COMPRESSORS[4](b""))
    packed = xerial(*[RAW_SNAPPY(b"")] * 400_000) if codec == 2 else empty * 200_000
    began = time.monotonic()
    assert drain(encode_batch(b"", 1, codec=codec, packed=packed))[1] == 1
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("codec", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("cut", [0, 1, 20])
def test_compressed_bytes_that_are_damaged_are_set_aside(codec: int, cut: int) -> None:
    packed = COMPRESSORS.get(codec, bytes)(encode_records(*RECORDS) * 9)[:cut]
    raw = encode_batch(b"", 3, codec=codec, packed=packed) + encode_batch_of(
        RecordSpec(value=b"next"), base=3
    )
    records, after = drain(raw)
    assert list(faults(records)) == [0]
    assert (good_values(records), after) == ({3: b"next"}, 4)


def test_a_record_that_cannot_be_decoded_is_set_aside_alone() -> None:
    records, after = drain(
        encode_batch_of(RecordSpec(value=b"a"), BAD_HEADER, RecordSpec(value=b"c"))
    )
    assert (good_values(records), after) == ({0: b"a", 2: b"c"}, 3)
    assert "a record of 17 bytes with sha256" in faults(records)[1]
    assert "'utf-8' codec can't decode byte 0xff" in faults(records)[1]
    assert [(r.key, r.value, r.timestamp) for r in records if r.offset == 1] == [
        (b"dock", b"", 1_700_000_000_000)
    ]


@pytest.mark.parametrize(
    "damaged",
    [
        b"\0" + varint(0) + varint(1) + varint(400) + b"k",  # a key that is longer than it all
        b"\0" + varint(0) + varint(1) + varint(1) + b"k" + varint(3) + b"v",
        b"\0" + varint(0) + varint(1) + varint(-1) + varint(-1) + varint(-1),
        b"\0" + varint(0) + varint(1) + varint(-1) + varint(-1) + varint(2**30),
        b"\0" + varint(0) + varint(1) + varint(-1) + varint(-1) + varint(1) + varint(-1),
        b"\0" + varint(0) + varint(1) + varint(-1) + varint(-1) + varint(0) + b"more",
        b"\0" + varint(0) + varint(0) + varint(-1) + varint(-1) + varint(0),  # an offset twice
        b"\0" + varint(0) + varint(9) + varint(-1) + varint(-1) + varint(0),
        b"\0" + b"\xff" * 11,
        b"\0",
    ],
)
def test_damage_within_a_record_ends_with_it(damaged: bytes) -> None:
    first, _, third = (each.encode(nth) for nth, each in enumerate(RECORDS))
    raw = encode_batch(first + varint(len(damaged)) + damaged + third, 3)
    records, after = drain(raw)
    assert (sorted(good_values(records)), list(faults(records)), after) == ([0, 2], [1], 3)


@pytest.mark.parametrize("length", [0, -5, 10_000, 2**40])
def test_a_length_that_cannot_be_costs_the_rest_of_the_batch(length: int) -> None:
    first, _, third = (each.encode(nth) for nth, each in enumerate(RECORDS))
    raw = encode_batch(first + varint(length) + third, 3) + encode_batch_of(
        RecordSpec(value=b"next"), base=3
    )
    records, after = drain(raw)
    assert (good_values(records), after) == ({0: b"a", 3: b"next"}, 4)
    assert "the rest of a batch of 3 records: from record 2 on" in faults(records)[1]
    assert good_values(drain(raw, 2)[0]) == {3: b"next"}
    assert list(faults(drain(raw, 2)[0])) == [2]


@pytest.mark.parametrize(
    ("count", "last"), [(-1, 2), (2**31 - 1, 2), (4, 2), (3, -1), (3, -(2**31)), (0, -1)]
)
def test_a_header_that_cannot_be_is_set_aside_and_passed(count: int, last: int) -> None:
    raw = encode_batch(encode_records(*RECORDS), count, last=last) + encode_batch_of(
        RecordSpec(value=b"next"), base=3
    )
    records, after = drain(raw)
    assert good_values(records) == {3: b"next"}
    assert list(faults(records)) == [0]
    assert after == 4


def test_a_wrong_checksum_sets_the_batch_aside() -> None:
    raw = bytearray(encode_batch_of(*RECORDS))
    raw[-1] ^= 1
    records, after = drain(bytes(raw) + encode_batch_of(RecordSpec(value=b"next"), base=3))
    assert "checksum" in faults(records)[0]
    assert (good_values(records), after) == ({3: b"next"}, 4)


def test_a_damaged_header_takes_nothing_of_the_batch_behind_it() -> None:
    raw = bytearray(encode_batch_of(*RECORDS))
    raw[23:27] = struct.pack(">i", 2**31 - 1)  # the last offset; the checksum no longer fits
    assert drain(bytes(raw))[1] == 1
    records, after = drain(bytes(raw) + encode_batch_of(RecordSpec(value=b"next"), base=3))
    assert (good_values(records), after) == ({3: b"next"}, 4)


@pytest.mark.parametrize("magic", [3, 127, 255])
def test_an_unknown_format_is_set_aside(magic: int) -> None:
    raw = bytearray(encode_batch_of(*RECORDS))
    raw[16] = magic
    records, after = drain(bytes(raw) + encode_batch_of(RecordSpec(value=b"next"), base=3))
    assert f"message format {magic}" in faults(records)[0]
    assert (good_values(records), after) == ({3: b"next"}, 4)


@pytest.mark.parametrize("size", [1, 11, 16, 17, 60, 62])
def test_a_batch_that_is_cut_off_is_fetched_again_but_not_for_ever(size: int) -> None:
    whole = encode_batch_of(*RECORDS)
    records, after = drain(whole + encode_batch_of(RecordSpec(), base=3)[:size])
    assert (len(good_values(records)), faults(records), after) == (3, {}, 3)
    records, after = drain(whole[:size])
    assert (list(faults(records)), good_values(records)) == ([0], {})
    assert after == (3 if size == 62 else 1)


def test_a_length_below_zero_is_passed() -> None:
    raw = struct.pack(">qi", 0, -100) + bytes(100)
    assert drain(raw)[1] == 1


def test_records_before_the_position_are_left_out() -> None:
    records, after = drain(encode_batch_of(*RECORDS, base=5), 7)
    assert ([each.offset for each in records], after) == ([7], 8)


def test_what_compaction_left_is_read_with_its_offsets() -> None:
    body = RecordSpec(value=b"a", delta=2).encode(0) + RecordSpec(value=b"b", delta=7).encode(0)
    records, after = drain(encode_batch(body, 2, last=9))
    assert (good_values(records), faults(records), after) == ({2: b"a", 7: b"b"}, {}, 10)
    assert drain(encode_batch(b"", 0, last=9)) == ([], 10)


@pytest.mark.parametrize("at", [-1, -(2**63), 2**63 - 1])
def test_a_timestamp_out_of_range_is_the_nearest_that_a_clock_shows(at: int) -> None:
    (record,), _ = drain(encode_batch_of(RecordSpec(), at=at))
    assert 0 <= record.timestamp <= 2**57 // 1000


@dataclass(frozen=True)
class AbortedTransaction:
    producer_id: int
    first_offset: int


def test_aborted_transactions_and_markers_are_passed_over() -> None:
    def marker(base: int, kind: int) -> bytes:
        key = RecordSpec(key=struct.pack(">hh", 0, kind), value=b"")
        return encode_batch_of(key, base=base, attributes=0x30, producer=7)

    raw = encode_batch_of(RecordSpec(value=b"a"), BAD_HEADER, attributes=0x10, producer=7)
    raw += marker(2, 0)
    raw += encode_batch_of(RecordSpec(value=b"b"), base=3, attributes=0x10, producer=7) + marker(
        4, 1
    )
    committed = IsolationLevel.READ_COMMITTED
    aborted = [AbortedTransaction(7, 0)]
    records, after = drain(raw, isolation_level=committed, aborted_transactions=aborted)
    assert (good_values(records), faults(records), after) == ({3: b"b"}, {}, 5)
    records, after = drain(raw)
    assert (good_values(records), list(faults(records)), after) == ({0: b"a", 3: b"b"}, [1], 5)


def legacy(magic: int, codec: int, count: int = 3) -> bytes:
    made = MemoryRecordsBuilder(magic, codec, 10_000)
    for nth in range(count):
        made.append(timestamp=1000 + nth, key=b"dock", value=b"old" * 20, headers=[])
    made.close()
    raw = bytes(made.buffer())
    return struct.pack(">q", count - 1) + raw[8:] if codec else raw  # as a broker does


@pytest.mark.parametrize(("magic", "codec"), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 3)])
@pytest.mark.parametrize("position", [0, 1])
def test_old_formats_are_read_as_kafka_python_does(magic: int, codec: int, position: int) -> None:
    raw = legacy(magic, codec)
    theirs = Fetcher.PartitionRecords(position, PARTITION, MemoryRecords(raw)).take(9)
    ours, after = drain(raw, position)
    assert len(theirs) == 3 - position
    seen = [(r.offset, r.key, r.value, r.timestamp or 0) for r in theirs]
    assert [(r.offset, r.key, r.value, r.timestamp) for r in ours] == seen
    assert after == 3


def message(magic: int, value: bytes, codec: int, offset: int = 0) -> bytes:
    rest = struct.pack(">bb", magic, codec) + struct.pack(">q", 9) * magic
    rest += struct.pack(">ii", -1, len(value)) + value
    return struct.pack(">qiI", offset, len(rest) + 4, zlib.crc32(rest)) + rest


@pytest.mark.parametrize("magic", [0, 1])
def test_bombs_and_damage_in_old_formats_are_set_aside(magic: int) -> None:
    bomb = message(magic, gzip.compress(BLOCK * 8), 1)
    broken = message(magic, gzip.compress(message(magic, b"inner", 0, 0)[:-3]), 1, 1)
    twice = message(magic, gzip.compress(message(magic, b"x", 1, 2)), 1, 2)
    records, after = drain(bomb + broken + twice + message(magic, b"next", 0, 3))
    assert (sorted(faults(records)), good_values(records), after) == ([0, 1, 2], {3: b"next"}, 4)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_passed_and_offsets_stay_in_order(data: st.DataObject) -> None:
    codec = data.draw(st.sampled_from([0, 0, 1, 2, 3, 4]))
    raw = bytearray(encode_batch_of(*RECORDS, BAD_HEADER, codec=codec, base=5) + legacy(1, 1))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(raw)))
    position = data.draw(st.integers(0, 9))
    records, after = drain(bytes(raw[:cut]), position, check_crcs=data.draw(st.booleans()))
    offsets = [each.offset for each in records]
    assert offsets == sorted(set(offsets))
    assert all(position <= each < after for each in offsets)
    assert after > position


@pytest.fixture
def topic(kafka: Broker) -> Iterator[TopicPartition]:
    with closing(KafkaAdminClient(bootstrap_servers=kafka.address)) as admin:
        name = kafka.place().prefix + "any"
        admin.create_topics([NewTopic(name, 2, 1)])
        yield TopicPartition(name, 0)


def consumer_of(kafka: Broker, *parts: TopicPartition) -> Any:
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.address,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    use_bounded_records(consumer, largest=2**18)
    consumer.assign(parts)
    consumer.seek_to_beginning(*parts)
    return consumer


def polled(consumer: Any, end: bytes) -> list[Any]:
    """Poll until an entry with this value came from each partition."""
    found, deadline = list[Any](), time.monotonic() + 10
    while sum(each.value == end for each in found) < len(consumer.assignment()):
        assert time.monotonic() < deadline, found
        for records in consumer.poll(200).values():
            found += records
    return found


def test_a_consumer_reads_on_behind_what_kafka_python_loops_at(
    kafka: Broker, topic: TopicPartition
) -> None:
    other = topic._replace(partition=1)
    with closing(KafkaAdminClient(bootstrap_servers=kafka.address)) as admin:
        bomb = COMPRESSORS[4](BLOCK * 64)
        assert produce(admin, topic, encode_batch_of(RecordSpec(value=b"a"), BAD_HEADER)) == 0
        assert produce(admin, topic, encode_batch_of(*RECORDS, codec=2)) == 0
        assert (
            produce(admin, topic, encode_batch(b"", 1, codec=4, packed=bomb)) != 0
        )  # brokers look in
        assert produce(admin, topic, encode_batch_of(RecordSpec(value=b"end"))) == 0
        assert produce(admin, other, encode_batch_of(RecordSpec(value=b"end"))) == 0
    with closing(consumer_of(kafka, topic, other)) as consumer:
        records = [each for each in polled(consumer, b"end") if each.partition == 0]
        assert consumer.position(topic) == 6
    assert good_values(records) == {0: b"a", 2: b"a", 3: None, 4: b"c", 5: b"end"}
    assert list(faults(records)) == [1]


def test_a_large_record_that_shrank_is_set_aside(kafka: Broker, topic: TopicPartition) -> None:
    with closing(
        KafkaProducer(
            bootstrap_servers=kafka.address,
            compression_type="gzip",
            max_request_size=2**26,
        )
    ) as producer:
        producer.send(topic.topic, BLOCK * 20, partition=0).get(10)
        producer.send(topic.topic, b"end", partition=0).get(10)
    with closing(consumer_of(kafka, topic)) as consumer:
        records = polled(consumer, b"end")
    assert f"gzip of more than {2**20} bytes" in faults(records)[0]
    assert good_values(records) == {1: b"end"}
