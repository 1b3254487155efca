"""Bi-granularity: the chunks that matter in full, the others pooled (Video-XL-2, section 3.3)."""

from collections.abc import Collection, Sequence

from analyzer.kv.cache import KVChunk

GROUPS_PER_UNIT = 2
"""The reference's retrievers select units of eight stills."""


def dense_chunks(units: Collection[int], groups: int, chunks: int) -> frozenset[int]:
    """Return which of `chunks` chunks, of so many groups each, the reference reads in full.

    These are the first, the last, and those in which a selected unit begins; with nothing
    selected all of them. Units past the end are passed over.
    """
    if not units:
        return frozenset(range(chunks))
    selected = {unit * GROUPS_PER_UNIT // groups for unit in units}
    return frozenset({0, chunks - 1, *(chunk for chunk in selected if 0 <= chunk < chunks)})


def pool_except(
    chunks: Sequence[KVChunk], dense: Collection[int], compression: int
) -> list[KVChunk]:
    """Return the chunks in order, those not in `dense` pooled."""
    return [
        chunk if nth in dense else chunk.pooled(compression) for nth, chunk in enumerate(chunks)
    ]
