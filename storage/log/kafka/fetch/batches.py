"""Parse Kafka's batches, of which any byte may be wrong.

Batches of version 2 and message sets of versions 0 and 1, as in Kafka's documentation ("Message
Format"). Each function raises one of `DAMAGE_ERRORS` for damaged bytes.
"""

import struct
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from kafka.record.util import decode_varint

MAGIC_AT = 16
CRC_AT = 12
CRC_FROM = 21
CODEC, APPEND_TIME, TRANSACTIONAL, CONTROL = 0x07, 0x08, 0x10, 0x20
DAMAGE_ERRORS = (ValueError, IndexError, struct.error)
FRAME_BYTES = 12
"""Bytes of the offset and the length, which come first."""
HEADER = struct.Struct(">qiibIhiqqqhii")
_MESSAGE_LAYOUTS = (struct.Struct(">qiIbb"), struct.Struct(">qiIbbq"))
_SIZE = struct.Struct(">i")
_MAX_HEADERS = 1000


class BatchHeader(NamedTuple):
    """The header of a version 2 batch; deltas are from `base_offset`, times in milliseconds."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_delta: int
    first_timestamp: int
    max_timestamp: int
    producer: int
    producer_epoch: int
    sequence: int
    records: int

    @property
    def last(self) -> int:
        """Return the last offset; its record may have been removed."""
        return self.base_offset + self.last_delta


def split_batches(fetched: memoryview) -> Iterator[tuple[memoryview, int | None]]:
    """Yield whole batches, each with the first offset of the next one, if known.

    A last batch that is cut off is fetched again; it is yielded only if it is the first.
    """
    at, end = 0, _batch_end(fetched, 0)
    while end is not None:
        next_end = _batch_end(fetched, end)
        yield fetched[at:end], None if next_end is None else batch_offset(fetched[end:])
        at, end = end, next_end
    if at == 0 and len(fetched):
        yield fetched, None


def _batch_end(fetched: memoryview, at: int) -> int | None:
    """Return the end of the batch that begins at `at`; None if it is not whole."""
    if len(fetched) - at < FRAME_BYTES:
        return None
    end = at + FRAME_BYTES + batch_length(fetched[at:])
    return end if at + FRAME_BYTES <= end <= len(fetched) else None


def batch_span(batch: memoryview, offset: int) -> tuple[int, int]:
    """Return the first offset of a batch at or after `offset`, and the one after its last."""
    begin = end = offset
    if len(batch) >= HEADER.size and batch[MAGIC_AT] == 2:
        header = BatchHeader(*HEADER.unpack_from(batch))
        begin, end = max(offset, header.base_offset), header.last + 1
    elif len(batch) >= FRAME_BYTES:
        end = batch_offset(batch) + 1
    return begin, end


def damaged_batch_end(batch: memoryview, begin: int, end: int, following: int | None) -> int:
    """Return the offset after a damaged batch whose header says that it ends before `end`.

    The header may be wrong. The offset of the following batch is better; without one, the number
    of records has to match.
    """
    if following is not None:
        return following if begin < following < end else max(end, begin + 1)
    if len(batch) < HEADER.size or batch[MAGIC_AT] != 2:
        return begin + 1
    header = BatchHeader(*HEADER.unpack_from(batch))
    return max(end if header.records == header.last_delta + 1 else 0, begin + 1)


def batch_offset(batch: memoryview) -> int:
    """Return the first offset of a batch, or the last one of a message set."""
    return int.from_bytes(batch[:8], "big", signed=True)


def batch_length(batch: memoryview) -> int:
    """Return how many bytes follow the frame."""
    return int.from_bytes(batch[8:FRAME_BYTES], "big", signed=True)


def read_uint32(batch: memoryview, at: int) -> int:
    """Return the 4 bytes at `at` as a number."""
    return int.from_bytes(batch[at : at + 4], "big")


def describe_damage(raw: bytes | memoryview, what: str) -> str:
    """Return a description of damaged bytes, with their size and SHA-256."""
    return f"{what} of {len(raw)} bytes with sha256 {sha256(raw).hexdigest()}"


def parse_record(
    data: bytes, at: int, end: int
) -> tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]:
    """Return the timestamp's and the offset's delta, the key, the value and the headers."""
    after, at = decode_varint(data, at + 1)
    delta, at = decode_varint(data, at)
    key, at = _parse_varint_bytes(data, at, end)
    value, at = _parse_varint_bytes(data, at, end)
    count, at = decode_varint(data, at)
    headers = list[tuple[str, bytes | None]]()
    if count:
        if not 0 < count <= _MAX_HEADERS:
            raise ValueError(f"{count} headers, not 0 to {_MAX_HEADERS}")
        for _ in range(count):
            name, at = _parse_varint_bytes(data, at, end)
            content, at = _parse_varint_bytes(data, at, end)
            if name is None:
                raise ValueError("a header without a name")
            headers.append((name.decode(), content))
    if at != end:
        raise ValueError(f"it ends {abs(end - at)} bytes {'early' if at < end else 'late'}")
    return after, delta, key, value, headers


def _parse_varint_bytes(data: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    size, at = decode_varint(data, at)
    if size < 0:
        return None, at
    if at + size > end:
        raise ValueError(f"{size} bytes where {end - at} are left")
    return data[at : at + size], at + size


def parse_damaged_record(data: bytes, at: int, end: int) -> tuple[int, bytes | None]:
    """Return the offset delta (or -1) and the key of a damaged record, as far as readable."""
    delta, key = -1, None
    try:
        _, at = decode_varint(data, at + 1)
        delta, at = decode_varint(data, at)
        key, _ = _parse_varint_bytes(data, at, end)
    except DAMAGE_ERRORS:
        pass
    return delta, key


def parse_message(message: memoryview) -> tuple[int, int, int, bytes | None, bytes | None]:
    """Return the offset, attributes, timestamp, key and value of a message of format 0 or 1."""
    if len(message) <= MAGIC_AT or message[MAGIC_AT] > 1:
        raise ValueError("no message of format 0 or 1")
    layout = _MESSAGE_LAYOUTS[message[MAGIC_AT]]
    offset, _, _, _, attributes, *at = layout.unpack_from(message)
    key, after_key = _parse_sized_bytes(message, layout.size)
    value, _ = _parse_sized_bytes(message, after_key)
    return offset, attributes, at[0] if at else 0, key, value


def _parse_sized_bytes(message: memoryview, at: int) -> tuple[bytes | None, int]:
    (size,) = _SIZE.unpack_from(message, at)
    at += _SIZE.size
    if size < 0:
        return None, at
    if at + size > len(message):
        raise ValueError(f"{size} bytes where {len(message) - at} are left")
    return bytes(message[at : at + size]), at + size
