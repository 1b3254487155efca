"""Batches that are small and would become large, read with little memory to spare."""

import resource
import struct
from collections.abc import Iterator

import lz4.frame
import zstandard

from kit.kafka.batches import COMPRESSORS, RAW_SNAPPY, drain, encode_batch


def decompression_bombs() -> Iterator[tuple[int, bytes]]:
    """Yield batches that would become 1 GiB, one for each way to make them."""
    piece, times = bytes(2**24), 64
    yield 1, COMPRESSORS[1](piece) * times
    block = RAW_SNAPPY(bytes(2**20))
    yield 2, b"\x82SNAPPY\0" + bytes(8) + (struct.pack(">i", len(block)) + block) * times
    yield 2, b"\xff\xff\xff\xff\x0f" + bytes(100)
    yield 4, zstandard.ZstdCompressor().compress(piece) * times
    frame = lz4.frame.LZ4FrameCompressor()
    parts = [frame.begin(), *(frame.compress(piece) for _ in range(times)), frame.flush()]
    yield 3, b"".join(parts)


def read_bombs_in_little_memory() -> int:
    """Set bombs aside with 400 MB of address space for all; return how many there were."""
    made = list(decompression_bombs())
    resource.setrlimit(resource.RLIMIT_AS, (400 * 10**6, 400 * 10**6))
    for codec, packed in made:
        (record,), after = drain(encode_batch(b"", 1, codec=codec, packed=packed), most=2**25)
        assert "of more than 33554432 bytes" in record.headers
        assert after == 1
    return len(made)


if __name__ == "__main__":
    print(read_bombs_in_little_memory())
