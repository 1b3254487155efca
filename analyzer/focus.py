"""Which older chunks a question is about: the model's own attention says.

Legend: N layers, K key heads, H query heads, Q questions, S pooled visual tokens, D head
width, C chunks.
"""

from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import Tensor

from analyzer.memory import Memory
from analyzer.videoxl2.kv import KVChunk

FEW = 6
"""With fewer chunks there is no telling a trend with age from what they hold."""


def relevance(queries_NQHD: Tensor, pooled: Sequence[KVChunk]) -> Tensor:
    """Return (Q, C): how much more attention a chunk gets than its number of tokens explains.

    Queries and keys are compared before RoPE, so that distance does not count; what is left of
    a trend with age is taken off. The logarithm of the share, averaged over layers and heads.
    """
    keys_NKSD = torch.cat([_visual(chunk) for chunk in pooled], dim=2)
    sizes = [int((~chunk.anchors_T).sum()) for chunk in pooled]
    N, Q, H, D = queries_NQHD.shape
    K = keys_NKSD.shape[1]
    folded = queries_NQHD.view(N, Q, K, H // K, D).transpose(1, 2).flatten(2, 3)
    shares = (folded @ keys_NKSD.transpose(2, 3) * D**-0.5).float().softmax(-1)
    mass = torch.stack([part.sum(-1) for part in shares.split(sizes, dim=-1)], dim=-1)
    mass_QC = mass.view(N, K, Q, H // K, -1).mean(dim=(0, 1, 3))
    share = torch.tensor(sizes, device=mass.device) / sum(sizes)
    return detrended((mass_QC / share).clamp_min(1e-6).log())


def focus_of(
    memory: Memory, reach: timedelta, queries_NQHD: Tensor
) -> tuple[dict[int, float], frozenset[int]]:
    """Return how relevant each older chunk is to any question, and which are to be read in full.

    Chunks go by their numbers in the memory; there has to be an older one within `reach`.
    """
    older = memory.older(reach)
    chunks = [memory.chunks[nth] for nth in older]
    lift_QC = relevance(queries_NQHD, [chunk.pooled for chunk in chunks])
    chosen = choose(lift_QC, [chunk.dense is not None for chunk in chunks], memory.plan.focus)
    best = dict(zip(older, lift_QC.amax(0).tolist(), strict=True))
    return best, frozenset(older[nth] for nth in chosen)


def detrended(lift_QC: Tensor) -> Tensor:
    """Take off the straight line through the chunks in order of age.

    A line fits a few chunks whatever they hold: only the level is taken off those.
    """
    chunks = lift_QC.shape[-1]
    age = torch.arange(chunks, device=lift_QC.device, dtype=lift_QC.dtype)
    age = age - age.mean()
    level = lift_QC.mean(-1, keepdim=True)
    slope = (lift_QC - level) @ age / (age @ age).clamp_min(1)
    return lift_QC - level - (slope[:, None] * age if chunks >= FEW else 0)


def choose(relevance_QC: Tensor, fetchable: Sequence[bool], budget: int) -> frozenset[int]:
    """Return the chunks to read in full: the most relevant to any question, at most `budget`.

    Of equally relevant ones the latest.
    """
    best = relevance_QC.amax(0).tolist()
    ranked = sorted((c for c, can in enumerate(fetchable) if can), key=lambda c: (-best[c], -c))
    return frozenset(ranked[:budget])


def _visual(chunk: KVChunk) -> Tensor:
    visual = (~chunk.anchors_T).nonzero()[:, 0].to(chunk.keys_NKTD.device)
    return chunk.keys_NKTD[:, :, visual]
