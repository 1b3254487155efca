"""The codecs of Kafka's batches, decompressed up to a bound.

kafka-python (3.0.12) decompresses whatever comes: 8 MiB of zstd may become hundreds of gigabytes.
"""

import zlib
from collections.abc import Callable, Iterator

import lz4.frame  # type: ignore[import-untyped]
import snappy  # type: ignore[import-untyped]
import zstandard

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
NAMES = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}
_PIECE = 2**20
_FEED = 2**12
_MOST_PIECES = 2**16
"""Blocks may be empty, and each takes its time."""
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER = 16


class BeyondBound(Exception):
    """Say that some bytes decompress to more than the bound."""


def decompress(codec: int, data: bytes, most: int) -> bytes:
    """Return what was compressed with the codec of this number in a batch's attributes.

    Raises BeyondBound where that is more than `most` bytes, and ValueError for damaged bytes.
    Not much more than `most` is ever in memory, whatever the bytes.
    """
    if codec not in NAMES:
        raise ValueError(f"no codec has the number {codec}")
    out = bytearray()
    try:
        for nth, piece in enumerate(_PIECES[codec](data, most)):
            if nth == _MOST_PIECES:
                raise ValueError(f"{NAMES[codec]}: more than {_MOST_PIECES} blocks")
            out += piece
            if len(out) > most:
                raise BeyondBound
    except _DAMAGED as error:
        raise ValueError(f"{NAMES[codec]}: {error}") from None
    return bytes(out)


def _gzip(data: bytes, most: int) -> Iterator[bytes]:
    """Decompress one member after another, fed little by little: each leaves a copy of the rest."""
    del most
    member, fed = zlib.decompressobj(wbits=31), 0
    rest = b""
    while rest or fed < len(data):
        if not rest:
            rest, fed = data[fed : fed + _FEED], fed + _FEED
        yield member.decompress(rest, _PIECE)
        rest = member.unconsumed_tail
        if member.eof:
            rest = member.unused_data.lstrip(b"\0")
            if not rest and not data[fed:].strip(b"\0"):
                return
            member = zlib.decompressobj(wbits=31)
    raise ValueError("cut off")


def _snappy(data: bytes, most: int) -> Iterator[bytes]:
    """Decompress the blocks of the Java client, or the one block of all others."""
    if not data.startswith(_XERIAL):
        yield _snappy_block(data, most)
        return
    place = _XERIAL_HEADER
    while place < len(data):
        end = place + 4 + int.from_bytes(data[place : place + 4], "big", signed=True)
        if not place + 4 < end <= len(data):
            raise ValueError("cut off")
        block = _snappy_block(data[place + 4 : end], most)
        most -= len(block)
        yield block
        place = end


def _snappy_block(block: bytes, most: int) -> bytes:
    """Decompress one block; it begins with its size, which is allocated at once."""
    size = 0
    for nth, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << 7 * nth
        if byte < 0x80:
            break
    else:
        raise ValueError("no size")
    if size > most:
        raise BeyondBound
    return bytes(snappy.uncompress(block))


def _lz4(data: bytes, most: int) -> Iterator[bytes]:
    del most
    frame = lz4.frame.LZ4FrameDecompressor()
    feed = data
    while not frame.eof:
        piece = frame.decompress(feed, max_length=_PIECE)
        if not piece and not frame.eof:
            raise ValueError("cut off")
        yield piece
        feed = b""


def _zstd(data: bytes, most: int) -> Iterator[bytes]:
    del most
    reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
    while piece := reader.read(_PIECE):
        yield piece


_PIECES: dict[int, Callable[[bytes, int], Iterator[bytes]]] = {
    GZIP: _gzip,
    SNAPPY: _snappy,
    LZ4: _lz4,
    ZSTD: _zstd,
}
_DAMAGED = (zlib.error, snappy.UncompressError, zstandard.ZstdError, RuntimeError, EOFError)
