"""The work of a pass over an arena in each layer: write keys, attend to each range, merge.

All of it runs on the device, asynchronously and from arrays of fixed shapes, so that a CUDA
graph can capture a whole pass.

Legend: R rows, H heads, K key heads, D head width, P ranges, G ranges that all rows attend to,
T text rows, B streams, F frequencies, Q questions, N layers, S store rows, E width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from analyzer.kv.arena.arena import Arena
from analyzer.kv.arena.flash_attention import (
    AttentionRanges,
    PartialAttention,
    attend,
    attend_folded,
    merge_all,
    merge_pair,
)
from analyzer.kv.arena.key_ranges import RangeArrays
from analyzer.kv.arena.layout import PrefillArrays, QuestionArrays
from analyzer.kv.rotary import CosSin, Rotary, rotate

Group = TypeVar("Group", RangeArrays, PrefillArrays, QuestionArrays)


def pack_arrays(*groups: Sequence[np.ndarray]) -> np.ndarray:
    """Return the bytes of all arrays, each aligned to 16."""
    parts = [
        np.ascontiguousarray(each).reshape(-1).view(np.uint8) for group in groups for each in group
    ]
    return np.concatenate([np.pad(part, (0, -len(part) % 16)) for part in parts])


def unpack_arrays(arrays: Group, bytes_: Tensor, at: int = 0) -> tuple[Group, int]:
    """Return the arrays as views of packed bytes from `at` on, and their end."""
    views = list[Tensor]()
    for each in arrays:
        dtype = torch.from_numpy(np.zeros(0, each.dtype)).dtype
        views.append(bytes_[at : at + each.nbytes].view(dtype).view(each.shape))
        at += each.nbytes + -each.nbytes % 16
    return type(arrays)(*views), at


def full_cos_sin(cos_sin: CosSin) -> CosSin:
    """Return cosines and sines (1, R, D), as the layers of the decoder expect them."""
    cos, sin = (torch.cat([half, half], -1)[None] for half in cos_sin)
    return cos, sin


def rotate_rows(x_RHD: Tensor, cos_sin: CosSin) -> Tensor:
    """Rotate each row by its own angles, (R, F) or (P, R, F)."""
    return rotate(x_RHD, cos_sin[0].unsqueeze(-2), cos_sin[1].unsqueeze(-2))


class FarRanges:
    """Ranges that a few rows of each stream attend to, in one call, folded."""

    def __init__(self, arena: Arena, arrays: RangeArrays, max_rows: int, like: Tensor) -> None:
        self._arena, self._arrays = arena, arrays
        self.range_count = len(arrays.query_shift_PB)
        if self.range_count:
            query_shift_PT = arrays.query_shift_PB[:, arrays.stream_T]
            self._shifts = arena.rotary(query_shift_PT.flatten(), like)
            self._log_size_bias_P1T = arrays.log_size_bias_PB[:, arrays.stream_T][:, None]
        self._ranges = AttentionRanges(
            arrays.rows_X1, arrays.begin_X1, arrays.length_X, max_rows, arena.max_range_rows
        )

    def attend(self, q_THD: Tensor, first: PartialAttention, layer: int, scaling: float) -> Tensor:
        """Return the output of the rows merged over all ranges."""
        if not self.range_count:
            return first[0]
        P, (T, H, D) = self.range_count, q_THD.shape
        q = rotate_rows(q_THD.expand(P, T, H, D).reshape(P * T, H, D), self._shifts)
        out, lse = attend_folded(q, self._arena.layers[layer], self._ranges, scaling)
        lse_PHT = lse.view(H, P, T).transpose(0, 1) + self._log_size_bias_P1T.to(lse)
        return merge_all(first, out.view(P, T, H, D), lse_PHT)


@dataclass(slots=True)
class PrefillPass:
    """Write new chunks into the arena while they attend to their context."""

    arena: Arena
    arrays: PrefillArrays
    ranges: RangeArrays
    max_rows: int
    max_folded_rows: int
    layer: int = 0
    is_finite: Tensor = field(init=False)
    _far: FarRanges = field(init=False)
    _own_cos_sin: CosSin = field(init=False)
    _shifts: list[CosSin] = field(init=False)

    def begin(self, x_BTE: Tensor, rotary: Rotary) -> CosSin:
        """Return the cosines and sines by which the layers rotate queries and keys."""
        arrays = self.arrays
        self._own_cos_sin = rotary(arrays.position_R, x_BTE)
        self._shifts = [rotary(shift, x_BTE) for shift in arrays.query_shift_GB[:, arrays.stream_R]]
        self._far = FarRanges(self.arena, self.ranges, self.max_folded_rows, x_BTE)
        return full_cos_sin(self._own_cos_sin)

    def attend(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, scaling: float) -> Tensor:
        """Write the keys and values of a layer; return its attention output, (1, R, H, D)."""
        q, k, v = (x[0].transpose(0, 1) for x in (q_BHTD, k_BKTD, v_BKTD))
        layer, arrays = self.layer, self.arrays
        self._write(k, v)
        partial = attend(
            q,
            self.arena.layers[layer],
            self._attention_ranges(arrays.near_begin_B1, arrays.near_length_B),
            scaling,
            causal=True,
        )
        for shift, begin, length, log_size_bias in zip(
            self._shifts, arrays.begin_GB1, arrays.length_GB, arrays.log_size_bias_G1, strict=True
        ):
            out, lse = attend(
                rotate_rows(q, shift),
                self.arena.layers[layer],
                self._attention_ranges(begin, length),
                scaling,
            )
            partial = merge_pair(partial, (out, lse + log_size_bias.to(lse)))
        text = self._far.attend(
            q[arrays.text_T],
            (partial[0][arrays.text_T], partial[1][:, arrays.text_T]),
            layer,
            scaling,
        )
        if len(arrays.far_text_length_B):
            ranges = self._attention_ranges(arrays.far_text_begin_B1, arrays.far_text_length_B)
            partial = merge_pair(partial, attend(q, self.arena.layers[layer], ranges, scaling))
        return partial[0].index_copy(0, arrays.text_T, text)[None]

    def store_last_layer(self, k_BTKD: Tensor, v_BTKD: Tensor) -> None:
        """Write the keys, before RoPE, and the values of the last layer, (1, R, K, D)."""
        k_RKD, v_RKD = rotate_rows(k_BTKD[0], self._own_cos_sin), v_BTKD[0]
        self._write(k_RKD, v_RKD)
        self.is_finite = k_RKD.isfinite().all() & v_RKD.isfinite().all()

    def _write(self, k_RKD: Tensor, v_RKD: Tensor) -> None:
        kv_R2KD = torch.stack([k_RKD, v_RKD], 1)
        store = self.arena.layers[self.layer]
        store.index_copy_(0, self.arrays.row_R, kv_R2KD)
        store.index_copy_(0, self.arrays.text_row_T, kv_R2KD[self.arrays.text_T])
        self.layer += 1

    def _attention_ranges(self, begin_B1: Tensor, length_B: Tensor) -> AttentionRanges:
        max_keys = self.arena.max_range_rows
        return AttentionRanges(self.arrays.rows_B1, begin_B1, length_B, self.max_rows, max_keys)


@dataclass(slots=True)
class QuestionPass:
    """Run texts against their contexts; `end_queries` collects the queries of their last tokens."""

    arena: Arena
    arrays: QuestionArrays
    ranges: RangeArrays
    max_rows: int
    max_folded_rows: int
    layer: int = 0
    end_queries: list[Tensor] = field(default_factory=list)
    _far: FarRanges = field(init=False)

    def begin(self, x_BTE: Tensor, rotary: Rotary) -> CosSin:
        """Return the cosines and sines by which the layers rotate queries and keys."""
        self._far = FarRanges(self.arena, self.ranges, self.max_folded_rows, x_BTE)
        return full_cos_sin(rotary(self.arrays.position_R, x_BTE))

    def attend(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, scaling: float) -> Tensor:
        """Return the attention output of a layer, (1, R, H, D)."""
        q, k, v = (x[0].transpose(0, 1) for x in (q_BHTD, k_BKTD, v_BKTD))
        self.end_queries.append(q[self.arrays.end_Q])
        rows = self.arrays.rows_X1
        ranges = AttentionRanges(rows, rows, self.arrays.length_X, self.max_rows, self.max_rows)
        own = attend(q, torch.stack([k, v], 1), ranges, scaling, causal=True)
        out = self._far.attend(q, own, self.layer, scaling)
        self.layer += 1
        return out[None]

    def store_last_layer(self, k_BTKD: Tensor, v_BTKD: Tensor) -> None:
        """Store nothing: a question does not change the arena."""

    def queries(self) -> Tensor:
        """Return the queries (N, Q, H, D) of the last tokens, before RoPE."""
        rotated_NQHD = torch.stack(self.end_queries)
        position_Q = -self.arrays.position_R[self.arrays.end_Q]
        return rotate_rows(rotated_NQHD, self.arena.rotary(position_Q, rotated_NQHD))
