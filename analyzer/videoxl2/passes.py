"""What a pass over an arena does in each layer: write, read apart, merge.

Everything here runs on the device from arrays of fixed shapes, without waiting for it: a CUDA
graph can hold a whole pass.

Legend: R rows, H heads, K key heads, D head width, P parts, G parts that all rows read, T text
rows, B lanes, F frequencies, Q questions, N layers, S store rows, E width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from analyzer.videoxl2.arena import Arena
from analyzer.videoxl2.flash import Partial, Ranges, attend, attend_folded, merged, merged_all
from analyzer.videoxl2.kv import angles, rotate
from analyzer.videoxl2.layout import AskArrays, PrefillArrays
from analyzer.videoxl2.parts import PartArrays

Group = TypeVar("Group", PartArrays, PrefillArrays, AskArrays)
Turns = tuple[Tensor, Tensor]


def packed(*groups: Sequence[np.ndarray]) -> np.ndarray:
    """Return the bytes of all arrays, each from a multiple of 16 on."""
    parts = [
        np.ascontiguousarray(each).reshape(-1).view(np.uint8) for group in groups for each in group
    ]
    return np.concatenate([np.pad(part, (0, -len(part) % 16)) for part in parts])


def unpacked(arrays: Group, bytes_: Tensor, at: int = 0) -> tuple[Group, int]:
    """Return the arrays as views of packed bytes from `at` on, and where they end."""
    views = list[Tensor]()
    for each in arrays:
        kind = torch.from_numpy(np.zeros(0, each.dtype)).dtype
        views.append(bytes_[at : at + each.nbytes].view(kind).view(each.shape))
        at += each.nbytes + -each.nbytes % 16
    return type(arrays)(*views), at


def whole(turns: Turns) -> Turns:
    """Return cosines and sines (1, R, D) as the layers of the decoder take them."""
    cos, sin = (torch.cat([half, half], -1)[None] for half in turns)
    return cos, sin


def turned(x_RHD: Tensor, turns: Turns) -> Tensor:
    """Rotate rows by angles of their own, (R, F) or (P, R, F)."""
    return rotate(x_RHD, turns[0].unsqueeze(-2), turns[1].unsqueeze(-2))


class FarParts:
    """Parts that a few rows of each lane read, in one call, folded."""

    def __init__(self, arena: Arena, arrays: PartArrays, most_rows: int, like: Tensor) -> None:
        self._arena, self._arrays = arena, arrays
        self.number = len(arrays.turn_PB)
        if self.number:
            turn_PT = arrays.turn_PB[:, arrays.lane_T]
            self._turns = angles(turn_PT.flatten(), arena.inv_freq_F, like)
            self._gain_P1T = arrays.gain_PB[:, arrays.lane_T][:, None]
        self._ranges = Ranges(
            arrays.rows_X1, arrays.begin_X1, arrays.length_X, most_rows, arena.longest
        )

    def read(self, q_THD: Tensor, first: Partial, layer: int, scaling: float) -> Tensor:
        """Return what the rows have read together with all parts."""
        if not self.number:
            return first[0]
        P, (T, H, D) = self.number, q_THD.shape
        q = turned(q_THD.expand(P, T, H, D).reshape(P * T, H, D), self._turns)
        out, share = attend_folded(q, self._arena.layers[layer], self._ranges, scaling)
        share_PHT = share.view(H, P, T).transpose(0, 1) + self._gain_P1T.to(share)
        return merged_all(first, out.view(P, T, H, D), share_PHT)


@dataclass(slots=True)
class PrefillPass:
    """Write new chunks into the arena while they read what is behind them."""

    arena: Arena
    arrays: PrefillArrays
    parts: PartArrays
    most_rows: int
    most_folded: int
    layer: int = 0
    is_finite: Tensor = field(init=False)
    _far: FarParts = field(init=False)
    _own: Turns = field(init=False)
    _turns: list[Turns] = field(init=False)

    def begin(self, x_BTE: Tensor, inv_freq_F: Tensor) -> Turns:
        """Return by how much the layers rotate their queries and keys."""
        arrays = self.arrays
        self._own = angles(arrays.position_R, inv_freq_F, x_BTE)
        self._turns = [angles(turn, inv_freq_F, x_BTE) for turn in arrays.turn_GB[:, arrays.lane_R]]
        self._far = FarParts(self.arena, self.parts, self.most_folded, x_BTE)
        return whole(self._own)

    def attend(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, scaling: float) -> Tensor:
        """Write the keys and values of a layer, return what its rows read, (1, R, H, D)."""
        q, k, v = (x[0].transpose(0, 1) for x in (q_BHTD, k_BKTD, v_BKTD))
        layer, arrays = self.layer, self.arrays
        self._write(k, v)
        own = attend(
            q,
            self.arena.layers[layer],
            self._ranges(arrays.near_begin_B1, arrays.near_length_B),
            scaling,
            causal=True,
        )
        for turns, begin, length, gain in zip(
            self._turns, arrays.begin_GB1, arrays.length_GB, arrays.gain_G1, strict=True
        ):
            out, share = attend(
                turned(q, turns), self.arena.layers[layer], self._ranges(begin, length), scaling
            )
            own = merged(own, (out, share + gain.to(share)))
        text = self._far.read(
            q[arrays.text_T], (own[0][arrays.text_T], own[1][:, arrays.text_T]), layer, scaling
        )
        if len(arrays.far_text_length_B):
            ranges = self._ranges(arrays.far_text_begin_B1, arrays.far_text_length_B)
            own = merged(own, attend(q, self.arena.layers[layer], ranges, scaling))
        return own[0].index_copy(0, arrays.text_T, text)[None]

    def keep(self, k_BTKD: Tensor, v_BTKD: Tensor) -> None:
        """Write the keys, before RoPE, and the values of the last layer, (1, R, K, D)."""
        k_RKD, v_RKD = turned(k_BTKD[0], self._own), v_BTKD[0]
        self._write(k_RKD, v_RKD)
        self.is_finite = k_RKD.isfinite().all() & v_RKD.isfinite().all()

    def _write(self, k_RKD: Tensor, v_RKD: Tensor) -> None:
        kv_R2KD = torch.stack([k_RKD, v_RKD], 1)
        store = self.arena.layers[self.layer]
        store.index_copy_(0, self.arrays.row_R, kv_R2KD)
        store.index_copy_(0, self.arrays.text_row_T, kv_R2KD[self.arrays.text_T])
        self.layer += 1

    def _ranges(self, begin_B1: Tensor, length_B: Tensor) -> Ranges:
        most = self.arena.longest
        return Ranges(self.arrays.rows_B1, begin_B1, length_B, self.most_rows, most)


@dataclass(slots=True)
class AskPass:
    """Read texts behind what their lanes see; `asked` gets the queries of their last tokens."""

    arena: Arena
    arrays: AskArrays
    parts: PartArrays
    most_rows: int
    most_folded: int
    layer: int = 0
    asked: list[Tensor] = field(default_factory=list)
    _far: FarParts = field(init=False)

    def begin(self, x_BTE: Tensor, inv_freq_F: Tensor) -> Turns:
        """Return by how much the layers rotate their queries and keys."""
        self._far = FarParts(self.arena, self.parts, self.most_folded, x_BTE)
        return whole(angles(self.arrays.position_R, inv_freq_F, x_BTE))

    def attend(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, scaling: float) -> Tensor:
        """Return what the rows of a layer read, (1, R, H, D)."""
        q, k, v = (x[0].transpose(0, 1) for x in (q_BHTD, k_BKTD, v_BKTD))
        self.asked.append(q[self.arrays.end_Q])
        rows = self.arrays.rows_X1
        ranges = Ranges(rows, rows, self.arrays.length_X, self.most_rows, self.most_rows)
        own = attend(q, torch.stack([k, v], 1), ranges, scaling, causal=True)
        out = self._far.read(q, own, self.layer, scaling)
        self.layer += 1
        return out[None]

    def keep(self, k_BTKD: Tensor, v_BTKD: Tensor) -> None:
        """Keep nothing: a question leaves the arena as it is."""

    def queries(self) -> Tensor:
        """Return the queries (N, Q, H, D) of the last tokens, before RoPE."""
        asked_NQHD = torch.stack(self.asked)
        back_Q = -self.arrays.position_R[self.arrays.end_Q]
        return turned(asked_NQHD, angles(back_Q, self.arena.inv_freq_F, asked_NQHD))
