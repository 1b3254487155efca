"""Chunks of a memory that lives in plain tensors, as on a CPU."""

from collections.abc import Iterable

from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.cache import KVChunk
from analyzer.kv.int8 import Int8Chunk


def plain_chunk(chunk: AnyChunk | Int8Chunk | None) -> KVChunk:
    """Return the chunk, which must be neither in an arena nor in eight bits."""
    assert isinstance(chunk, KVChunk)
    return chunk


def plain_chunks(chunks: Iterable[AnyChunk]) -> list[KVChunk]:
    return [plain_chunk(chunk) for chunk in chunks]
