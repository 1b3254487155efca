"""Attention of several sequences to ranges of one store, by the flash kernels.

Each query sequence attends to one contiguous range of keys. Partial outputs are merged by the
log-sum-exp of their logits. Begins and lengths are tensors, so that one CUDA graph serves all.
A CPU computes the same sequence by sequence, for tests.

Legend: T query tokens, S tokens of the store, H heads, K key heads, D head width, B sequences,
P ranges.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

PartialAttention = tuple[Tensor, Tensor]
"""An attention output (T, H, D) and the log-sum-exp (H, T) of its logits or EMPTY_LSE."""
EMPTY_LSE = -1e30
"""Low enough to vanish beside any other, and finite: merging two of them makes no NaN."""


@dataclass(frozen=True, slots=True)
class AttentionRanges:
    """Rows `rows_B1[b]:rows_B1[b + 1]` attend to `length_B[b]` keys from `begin_B1[b]` on.

    All are int32; the last begin is ignored. `max_rows` and `max_keys` bound the lengths.
    """

    rows_B1: Tensor
    begin_B1: Tensor
    length_B: Tensor
    max_rows: int
    max_keys: int


def attend(
    q_THD: Tensor, kv_S2KD: Tensor, ranges: AttentionRanges, scaling: float, *, causal: bool = False
) -> PartialAttention:
    """Attend to each sequence's range of keys; a causal sequence is the end of its range."""
    if not q_THD.is_cuda:
        return _attend_on_cpu(q_THD, kv_S2KD, ranges, scaling, causal=causal)
    keys, values = kv_S2KD.unbind(1)
    # torch.nn.attention.varlen_attn is public and calls the same kernel, but takes lengths apart
    # from begins only since torch 2.12 and allocates a random state for each call.
    out_THD, lse_HT, *_ = torch.ops.aten._flash_attention_forward(
        q_THD,
        keys,
        values,
        ranges.rows_B1,
        ranges.begin_B1,
        ranges.max_rows,
        ranges.max_keys,
        0.0,
        causal,
        False,
        scale=scaling,
        seqused_k=ranges.length_B,
    )
    # The kernel returns +inf for an empty range.
    return out_THD, lse_HT.masked_fill(lse_HT == torch.inf, EMPTY_LSE)


def attend_folded(
    q_THD: Tensor, kv_S2KD: Tensor, ranges: AttentionRanges, scaling: float
) -> PartialAttention:
    """Attend without a mask, the query heads of a key head folded into rows.

    A few rows then load a long range of keys once and not once per query head. The rows of
    `ranges` are folded ones: H / K per token.
    """
    T, H, D = q_THD.shape
    K = kv_S2KD.shape[2]
    rows = q_THD.view(T, K, H // K, D).transpose(1, 2).reshape(-1, K, D)
    out, lse = attend(rows, kv_S2KD, ranges, scaling)
    out_THD = out.view(T, H // K, K, D).transpose(1, 2).reshape(T, H, D)
    return out_THD, lse.view(K, T, H // K).transpose(1, 2).reshape(H, T)


def merge_pair(first: PartialAttention, second: PartialAttention) -> PartialAttention:
    """Weigh two partial outputs of the same rows by their shares of the softmax."""
    (out, lse), (out_part, lse_part) = first, second
    weight = torch.sigmoid(lse_part - lse).T[..., None].to(out.dtype)
    return torch.lerp(out, out_part, weight), torch.logaddexp(lse, lse_part)


def merge_all(first: PartialAttention, out_PTHD: Tensor, lse_PHT: Tensor) -> Tensor:
    """Merge a partial output with P others; return (T, H, D)."""
    lses = torch.cat([first[1][None], lse_PHT])
    weight_PTH1 = lses.softmax(0).transpose(1, 2)[..., None].to(first[0])
    return first[0] * weight_PTH1[0] + (out_PTHD * weight_PTH1[1:]).sum(0)


def _attend_on_cpu(
    q_THD: Tensor, kv_S2KD: Tensor, ranges: AttentionRanges, scaling: float, *, causal: bool
) -> PartialAttention:
    """Compute the result of the GPU kernels, the query heads of a key head as rows."""
    rows, begins = ranges.rows_B1.tolist(), ranges.begin_B1.tolist()
    out, lses = torch.zeros_like(q_THD), list[Tensor]()
    for nth, length in enumerate(ranges.length_B.tolist()):
        own_rows = slice(rows[nth], rows[nth + 1])
        T = own_rows.stop - own_rows.start
        if not length or not T:
            exact = torch.promote_types(q_THD.dtype, torch.float32)
            lses.append(torch.full((q_THD.shape[1], T), EMPTY_LSE, dtype=exact))
            continue
        kv_2KLD = kv_S2KD[begins[nth] : begins[nth] + length].permute(1, 2, 0, 3)
        q = q_THD[own_rows].unflatten(1, (kv_2KLD.shape[1], -1)).permute(1, 2, 0, 3)
        partial = (
            _attend_causal(q, kv_2KLD, scaling) if causal else _attend_block(q, kv_2KLD, scaling)
        )
        out[own_rows] = partial[0].permute(2, 0, 1, 3).flatten(1, 2)
        lses.append(partial[1].flatten(0, 1))
    return out, torch.cat(lses, 1)


def _attend_causal(q_KRTD: Tensor, kv_2KLD: Tensor, scaling: float) -> PartialAttention:
    """Attend to all keys before the last T, and to the last T causally."""
    T, before = q_KRTD.shape[2], kv_2KLD.shape[2] - q_KRTD.shape[2]
    mask = _causal_bias(T, q_KRTD.shape[1], q_KRTD.dtype)
    out, lse = _attend_block(q_KRTD, kv_2KLD[:, :, before:], scaling, mask)
    if not before:
        return out, lse
    out_part, lse_part = _attend_block(q_KRTD, kv_2KLD[:, :, :before], scaling)
    weight = torch.sigmoid(lse_part - lse)[..., None].to(out.dtype)
    return torch.lerp(out, out_part, weight), torch.logaddexp(lse, lse_part)


def _attend_block(
    q_KRTD: Tensor, kv_2KLD: Tensor, scaling: float, mask: Tensor | None = None
) -> PartialAttention:
    """Return the output (K, R, T, D) and its log-sum-exp (K, R, T)."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q_KRTD.flatten(1, 2)[None], *kv_2KLD[:, None], attn_mask=mask, scale=scaling
    )
    return out[0].view(q_KRTD.shape), lse[0].view(q_KRTD.shape[:3])


@lru_cache(maxsize=32)
def _causal_bias(rows: int, repeats: int, dtype: torch.dtype) -> Tensor:
    """Return the causal bias (repeats * rows, rows)."""
    hidden = torch.ones(rows, rows, dtype=torch.bool).triu(1)
    return torch.zeros(rows, rows, dtype=dtype).masked_fill(hidden, -torch.inf).repeat(repeats, 1)
