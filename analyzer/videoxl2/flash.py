"""Attention of several sequences over ranges of one store, by the flash kernels.

Each query sequence reads one contiguous range of keys. What was read apart is merged by the
log-sum-exp of its logits. Begins and lengths are tensors, so a CUDA graph serves any of them.
A CPU computes the same sequence by sequence, for tests.

Legend: T query tokens, S tokens of the store, H heads, K key heads, D head width, B sequences,
P parts, F frequencies.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Partial = tuple[Tensor, Tensor]
"""An attention output (T, H, D) and the log-sum-exp (H, T) of its logits, UNREAD where no key was
read."""
UNREAD = -1e30
"""Low enough that nothing is left of it beside any other, and finite: two of it make no NaN."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Which rows read which keys: sequence b of rows `rows_B1[b]:rows_B1[b + 1]` reads
    `length_B[b]` tokens from `begin_B1[b]` (int32; the last begin is not read).

    `most_rows` and `most_keys` bound the lengths.
    """

    rows_B1: Tensor
    begin_B1: Tensor
    length_B: Tensor
    most_rows: int
    most_keys: int


def attend(
    q_THD: Tensor, kv_S2KD: Tensor, ranges: Ranges, scaling: float, *, causal: bool = False
) -> Partial:
    """Read each sequence's range of keys; a causal one ends where its range ends."""
    if not q_THD.is_cuda:
        return _one_by_one(q_THD, kv_S2KD, ranges, scaling, causal=causal)
    keys, values = kv_S2KD.unbind(1)
    # torch.nn.attention.varlen_attn is public and calls the same kernel, but takes lengths apart
    # from begins only since torch 2.12 and allocates a random state for each call.
    out_THD, share_HT, *_ = torch.ops.aten._flash_attention_forward(
        q_THD,
        keys,
        values,
        ranges.rows_B1,
        ranges.begin_B1,
        ranges.most_rows,
        ranges.most_keys,
        0.0,
        causal,
        False,
        scale=scaling,
        seqused_k=ranges.length_B,
    )
    # The kernel gives +inf where a range is empty.
    return out_THD, share_HT.masked_fill(share_HT == torch.inf, UNREAD)


def attend_folded(q_THD: Tensor, kv_S2KD: Tensor, ranges: Ranges, scaling: float) -> Partial:
    """Read without a mask, the query heads of a key head folded into rows.

    A few rows then read a long range of keys once and not once per query head. The rows of
    `ranges` count folded ones: H / K for each token.
    """
    T, H, D = q_THD.shape
    K = kv_S2KD.shape[2]
    rows = q_THD.view(T, K, H // K, D).transpose(1, 2).reshape(-1, K, D)
    out, share = attend(rows, kv_S2KD, ranges, scaling)
    out_THD = out.view(T, H // K, K, D).transpose(1, 2).reshape(T, H, D)
    return out_THD, share.view(K, T, H // K).transpose(1, 2).reshape(H, T)


def merged(one: Partial, other: Partial) -> Partial:
    """Weigh two partial outputs of the same rows by their shares of the softmax."""
    (out, share), (out_part, share_part) = one, other
    weight = torch.sigmoid(share_part - share).T[..., None].to(out.dtype)
    return torch.lerp(out, out_part, weight), torch.logaddexp(share, share_part)


def merged_all(first: Partial, out_PTHD: Tensor, share_PHT: Tensor) -> Tensor:
    """Merge a partial output with P others; return (T, H, D)."""
    shares = torch.cat([first[1][None], share_PHT])
    weight_PTH1 = shares.softmax(0).transpose(1, 2)[..., None].to(first[0])
    return first[0] * weight_PTH1[0] + (out_PTHD * weight_PTH1[1:]).sum(0)


def _one_by_one(
    q_THD: Tensor, kv_S2KD: Tensor, ranges: Ranges, scaling: float, *, causal: bool
) -> Partial:
    """Compute on any device what the kernels do."""
    keys, values = kv_S2KD.unbind(1)
    exact = torch.promote_types(q_THD.dtype, torch.float32)
    out = torch.zeros_like(q_THD)
    share = torch.full(q_THD.shape[1::-1], UNREAD, dtype=exact, device=q_THD.device)
    heads = q_THD.shape[1] // keys.shape[1]
    rows, begins, lengths = (x.tolist() for x in (ranges.rows_B1, ranges.begin_B1, ranges.length_B))
    for nth, length in enumerate(lengths):
        mine = slice(rows[nth], rows[nth + 1])
        if not length or mine.start == mine.stop:
            continue
        held = slice(begins[nth], begins[nth] + length)
        k, v = (x[held].transpose(0, 1).repeat_interleave(heads, 0) for x in (keys, values))
        logits = (q_THD[mine].transpose(0, 1) @ k.transpose(1, 2)).to(exact) * scaling
        if causal:
            T = logits.shape[1]
            seen = torch.ones(T, length, dtype=torch.bool, device=k.device).tril(length - T)
            logits = logits.masked_fill(~seen, -torch.inf)
        out[mine] = (logits.softmax(-1).to(v) @ v).transpose(0, 1)
        share[:, mine] = logits.logsumexp(-1)
    return out, share
