"""Decompress Kafka's batches up to a bound.

kafka-python (3.0.12) has no bound: 8 MiB of zstd may become hundreds of gigabytes.
"""

import zlib
from collections.abc import Callable, Iterator

import lz4.frame  # type: ignore[import-untyped]
import snappy  # type: ignore[import-untyped]
import zstandard

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
NAMES = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}
_CHUNK_BYTES = 2**20
_INPUT_BYTES = 2**12
_MAX_CHUNKS = 2**16
"""Blocks may be empty, and each takes time."""
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER = 16


class BeyondBound(Exception):
    """Say that bytes decompress to more than the bound."""


def decompress(codec: int, data: bytes, max_bytes: int) -> bytes:
    """Decompress data with the codec of this number in a batch's attributes.

    Raises BeyondBound for more than `max_bytes`, and ValueError for damaged bytes. It never uses
    much more memory than `max_bytes`.
    """
    if codec not in NAMES:
        raise ValueError(f"no codec has the number {codec}")
    out = bytearray()
    try:
        for nth, chunk in enumerate(_DECODERS[codec](data, max_bytes)):
            if nth == _MAX_CHUNKS:
                raise ValueError(f"{NAMES[codec]}: more than {_MAX_CHUNKS} blocks")
            out += chunk
            if len(out) > max_bytes:
                raise BeyondBound
    except _DAMAGE_ERRORS as error:
        raise ValueError(f"{NAMES[codec]}: {error}") from None
    return bytes(out)


def _decode_gzip(data: bytes, max_bytes: int) -> Iterator[bytes]:
    """Decompress the members; feed small inputs, because each call copies its rest."""
    del max_bytes
    member, fed = zlib.decompressobj(wbits=31), 0
    rest = b""
    while rest or fed < len(data):
        if not rest:
            rest, fed = data[fed : fed + _INPUT_BYTES], fed + _INPUT_BYTES
        yield member.decompress(rest, _CHUNK_BYTES)
        rest = member.unconsumed_tail
        if member.eof:
            rest = member.unused_data.lstrip(b"\0")
            if not rest and not data[fed:].strip(b"\0"):
                return
            member = zlib.decompressobj(wbits=31)
    raise ValueError("cut off")


def _decode_snappy(data: bytes, max_bytes: int) -> Iterator[bytes]:
    """Decompress the blocks of the Java client, or the single block of other clients."""
    if not data.startswith(_XERIAL):
        yield _decode_snappy_block(data, max_bytes)
        return
    start = _XERIAL_HEADER
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "big", signed=True)
        if not start + 4 < end <= len(data):
            raise ValueError("cut off")
        block = _decode_snappy_block(data[start + 4 : end], max_bytes)
        max_bytes -= len(block)
        yield block
        start = end


def _decode_snappy_block(block: bytes, max_bytes: int) -> bytes:
    """Decompress one block; check its leading size, which snappy allocates at once."""
    size = 0
    for nth, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << 7 * nth
        if byte < 0x80:
            break
    else:
        raise ValueError("no size")
    if size > max_bytes:
        raise BeyondBound
    return bytes(snappy.uncompress(block))


def _decode_lz4(data: bytes, max_bytes: int) -> Iterator[bytes]:
    del max_bytes
    frame = lz4.frame.LZ4FrameDecompressor()
    feed = data
    while not frame.eof:
        chunk = frame.decompress(feed, max_length=_CHUNK_BYTES)
        if not chunk and not frame.eof:
            raise ValueError("cut off")
        yield chunk
        feed = b""


def _decode_zstd(data: bytes, max_bytes: int) -> Iterator[bytes]:
    del max_bytes
    reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
    while chunk := reader.read(_CHUNK_BYTES):
        yield chunk


_DECODERS: dict[int, Callable[[bytes, int], Iterator[bytes]]] = {
    GZIP: _decode_gzip,
    SNAPPY: _decode_snappy,
    LZ4: _decode_lz4,
    ZSTD: _decode_zstd,
}
_DAMAGE_ERRORS = (zlib.error, snappy.UncompressError, zstandard.ZstdError, RuntimeError, EOFError)
