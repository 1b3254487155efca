"""Select the older chunks that a question is about, by the model's own attention.

Legend: N layers, K key heads, H query heads, Q questions, R questions times the query heads of
a key head, S pooled visual tokens of a chunk, D head width, C chunks, B chunks of a batch.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from analyzer.kv.arena.arena import AnyChunk, ArenaChunk
from analyzer.kv.cache import KVChunk
from analyzer.kv.memory import Memory

MIN_CHUNKS_FOR_TREND = 6
"""With fewer chunks a trend with age cannot be distinguished from their content."""
CHUNKS_PER_PRODUCT = 16
"""Chunks per matrix product."""


def relevance(queries_NQHD: Tensor, keys: Sequence[Tensor]) -> Tensor:
    """Return (Q, C): the log ratio of a chunk's share of attention to its share of tokens.

    `keys` are the visual keys (N, K, S, D) of each chunk, in order of age. Queries and keys are
    compared before RoPE, so that distance does not count, and a linear trend with age is
    removed. Shares are averaged over layers and heads, in float32, on the host. A question
    whose queries are not finite has relevance 0 everywhere.
    """
    N, Q, H, D = queries_NQHD.shape
    K = keys[0].shape[1]
    rows_NKRD = queries_NQHD.view(N, Q, K, H // K, D).transpose(1, 2).flatten(2, 3)
    rows_NKRD = rows_NKRD.to(torch.promote_types(rows_NKRD.dtype, torch.float32))
    mass_NKRC = _log_sums(rows_NKRD * D**-0.5, keys).softmax(-1)
    # The result is small, and the caller needs it on the host: this waits for the device once.
    mass_QC = mass_NKRC.view(N, K, Q, H // K, -1).mean(dim=(0, 1, 3)).cpu()
    lengths_C = torch.tensor([key.shape[2] for key in keys], dtype=torch.float32)
    share_C = lengths_C / lengths_C.sum()
    lift_QC = remove_age_trend((mass_QC / share_C).clamp_min(1e-6).log())
    return lift_QC.where(lift_QC.isfinite().all(-1, keepdim=True), 0.0)


def _log_sums(rows_NKRD: Tensor, keys: Sequence[Tensor]) -> Tensor:
    """Return (N, K, R, C): the log-sum-exp of the logits of each chunk.

    A constant in all keys cancels in the softmax, but its rounding does not: the mean of the
    first chunk is subtracted from all.
    """
    mean_NK1D = keys[0].mean(2, keepdim=True, dtype=rows_NKRD.dtype)
    sums = [
        torch.logsumexp(rows_NKRD @ (batch_BNKSD.float() - mean_NK1D).transpose(-1, -2), dim=-1)
        for batch_BNKSD in _batches(keys)
    ]
    return torch.cat(sums).movedim(0, -1)


def _batches(keys: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield consecutive keys of one length, stacked, at most CHUNKS_PER_PRODUCT."""
    for _, alike in groupby(keys, key=lambda key: key.shape[2]):
        same = list(alike)
        for begin in range(0, len(same), CHUNKS_PER_PRODUCT):
            yield torch.stack(same[begin : begin + CHUNKS_PER_PRODUCT])


def select_focus(
    memory: Memory, look_back: timedelta, queries_NQHD: Tensor
) -> tuple[dict[int, float], frozenset[int]]:
    """Return the highest relevance of each older chunk, and the chunks to attend to in full.

    Chunks are indices into the memory; at least one older chunk must be within `look_back`.
    """
    older = memory.older_than_recent(look_back)
    chunks = [memory.chunks[nth] for nth in older]
    lift_QC = relevance(queries_NQHD, pooled_visual_keys([chunk.pooled for chunk in chunks]))
    selected = select_most_relevant(
        lift_QC, [chunk.dense is not None for chunk in chunks], memory.plan.focus
    )
    relevance_by_chunk = dict(zip(older, lift_QC.amax(0).tolist(), strict=True))
    return relevance_by_chunk, frozenset(older[nth] for nth in selected)


def remove_age_trend(lift_QC: Tensor) -> Tensor:
    """Subtract the straight line through the chunks in order of age.

    A line fits a few chunks whatever their content: from those only the mean is subtracted.
    """
    chunks = lift_QC.shape[-1]
    age = torch.arange(chunks, device=lift_QC.device, dtype=lift_QC.dtype)
    age = age - age.mean()
    level = lift_QC.mean(-1, keepdim=True)
    slope = (lift_QC - level) @ age / (age @ age).clamp_min(1)
    return lift_QC - level - (slope[:, None] * age if chunks >= MIN_CHUNKS_FOR_TREND else 0)


def select_most_relevant(
    relevance_QC: Tensor, has_dense: Sequence[bool], budget: int
) -> frozenset[int]:
    """Return at most `budget` chunks, the most relevant to any question; ties go to the latest."""
    best = relevance_QC.amax(0).tolist()
    ranked = sorted((c for c, can in enumerate(has_dense) if can), key=lambda c: (-best[c], -c))
    return frozenset(ranked[:budget])


def pooled_visual_keys(chunks: Sequence[AnyChunk]) -> list[Tensor]:
    """Return the keys (N, K, S, D) of the visual tokens of each pooled chunk of a memory."""
    arena_chunks = [chunk for chunk in chunks if isinstance(chunk, ArenaChunk)]
    if arena_chunks:
        return arena_chunks[0].arena.visual_keys(arena_chunks)
    return [visual_keys(chunk) for chunk in chunks if isinstance(chunk, KVChunk)]


def visual_keys(chunk: KVChunk) -> Tensor:
    """Return the keys (N, K, S, D) of visual tokens."""
    anchor_bytes = chunk.anchors_T.numpy().tobytes()
    return chunk.keys_NKTD.index_select(2, _visual_columns(anchor_bytes, chunk.keys_NKTD.device))


@lru_cache(maxsize=128)
def _visual_columns(anchor_bytes: bytes, device: torch.device) -> Tensor:
    """Return the columns of visual tokens, which most chunks share.

    Without the cache a device would wait for a copy of each chunk's index.
    """
    return torch.tensor(
        [at for at, is_text in enumerate(anchor_bytes) if not is_text], device=device
    )
