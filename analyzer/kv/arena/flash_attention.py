"""Attention of several sequences over ranges of one store, by the flash kernels.

Each query sequence reads one contiguous range of keys. What was read apart is merged by the
log-sum-exp of its logits. Begins and lengths are tensors, so a CUDA graph serves any of them.
A CPU computes the same sequence by sequence, for tests.

Legend: T query tokens, S tokens of the store, H heads, K key heads, D head width, B sequences,
P parts, F frequencies.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

PartialAttention = tuple[Tensor, Tensor]
"""An attention output (T, H, D) and the log-sum-exp (H, T) of its logits, UNREAD where no key was
read."""
EMPTY_LSE = -1e30
"""Low enough that nothing is left of it beside any other, and finite: two of it make no NaN."""


@dataclass(frozen=True, slots=True)
class AttentionRanges:
    """Which rows read which keys: sequence b of rows `rows_B1[b]:rows_B1[b + 1]` reads
    `length_B[b]` tokens from `begin_B1[b]` (int32; the last begin is not read).

    `most_rows` and `most_keys` bound the lengths.
    """

    rows_B1: Tensor
    begin_B1: Tensor
    length_B: Tensor
    max_rows: int
    max_keys: int


def attend(
    q_THD: Tensor, kv_S2KD: Tensor, ranges: AttentionRanges, scaling: float, *, causal: bool = False
) -> PartialAttention:
    """Read each sequence's range of keys; a causal one ends where its range ends."""
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
    # The kernel gives +inf where a range is empty.
    return out_THD, lse_HT.masked_fill(lse_HT == torch.inf, EMPTY_LSE)


def attend_folded(
    q_THD: Tensor, kv_S2KD: Tensor, ranges: AttentionRanges, scaling: float
) -> PartialAttention:
    """Read without a mask, the query heads of a key head folded into rows.

    A few rows then read a long range of keys once and not once per query head. The rows of
    `ranges` count folded ones: H / K for each token.
    """
    T, H, D = q_THD.shape
    K = kv_S2KD.shape[2]
    rows = q_THD.view(T, K, H // K, D).transpose(1, 2).reshape(-1, K, D)
    out, lse = attend(rows, kv_S2KD, ranges, scaling)
    out_THD = out.view(T, H // K, K, D).transpose(1, 2).reshape(T, H, D)
    return out_THD, lse.view(K, T, H // K).transpose(1, 2).reshape(H, T)


def merge_pair(one: PartialAttention, other: PartialAttention) -> PartialAttention:
    """Weigh two partial outputs of the same rows by their shares of the softmax."""
    (out, lse), (out_part, lse_part) = one, other
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
    """Compute on a CPU what the kernels of a card do, the query heads of a key head as rows."""
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
    """Read what is before the last T keys, and of those each row up to its own."""
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
    """Return what the rows read, (K, R, T, D), and their shares (K, R, T)."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q_KRTD.flatten(1, 2)[None], *kv_2KLD[:, None], attn_mask=mask, scale=scaling
    )
    return out[0].view(q_KRTD.shape), lse[0].view(q_KRTD.shape[:3])


@lru_cache(maxsize=32)
def _causal_bias(rows: int, repeats: int, dtype: torch.dtype) -> Tensor:
    """Return the bias (repeats * rows, rows) under which each row reads up to itself."""
    hidden = torch.ones(rows, rows, dtype=torch.bool).triu(1)
    return torch.zeros(rows, rows, dtype=dtype).masked_fill(hidden, -torch.inf).repeat(repeats, 1)
