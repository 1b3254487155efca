"""Device memory for the keys and values of all streams, rotated once, where they are written.

Each stream has a slot of four stretches: its chunks in full, their text once more, and the pooled
form of both kinds of token. A stretch is filled in order and forgotten in order. The keys of full
chunks are rotated by the running number of their token, those of pooled chunks by a running
number of their own, and never again: a pass turns its queries to the position that a stretch
would have if all that the pass reads were laid end to end (`analyzer.videoxl2.passes`).

Legend: S store rows, N layers, K key heads, T tokens of a chunk, D head width, F frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

from analyzer.videoxl2.kv import KVChunk, angles, pooling, rotate
from analyzer.videoxl2.slots import ArenaPlan, Entry, Slot, Stretch


@dataclass(frozen=True, slots=True, eq=False)
class ArenaChunk:
    """A chunk in the arena, in full or pooled: the same tokens as a KVChunk, in place."""

    arena: Arena
    slot: Slot
    entry: Entry
    is_pooled: bool = False

    def __len__(self) -> int:
        if not self.is_pooled:
            return len(self.entry.anchors_T)
        return self.entry.counts[2] + self.entry.counts[3]

    @property
    def nbytes(self) -> int:
        """Return the bytes of its keys and values."""
        return len(self) * (self.arena.token_bytes + 1)

    @property
    def stands_for(self) -> int:
        """Return how many visual tokens that were read each of its own stands for."""
        return self.arena.plan.compression if self.is_pooled else 1

    @property
    def anchors_T(self) -> Tensor:
        """Return which of its tokens are text, on the CPU."""
        if not self.is_pooled:
            return self.entry.anchors_T
        return pooling(self.entry.anchors_T, self.arena.plan.compression)[2]

    @property
    def device(self) -> torch.device:
        """Return where it is."""
        return self.arena.layers[0].device

    def to(self, _device: torch.device) -> ArenaChunk:
        """Return the chunk, which never leaves its device."""
        return self

    def regrouped(self, groups: int) -> list[KVChunk]:
        """Return copies of its parts as `KVChunk.regrouped` does."""
        return self.restored().regrouped(groups)

    def pooled(self, compression: int) -> ArenaChunk:
        """Return its pooled form, written together with it; itself where the arena pools none."""
        if not self.arena.plan.pooled:
            return self
        if compression != self.arena.plan.compression:
            raise ValueError(f"this arena pools by {self.arena.plan.compression}")
        return ArenaChunk(self.arena, self.slot, self.entry, is_pooled=True)

    def restored(self) -> KVChunk:
        """Return a copy with the keys turned back to before RoPE."""
        return self.arena.restored(self)


Form: TypeAlias = KVChunk | ArenaChunk


class Arena:
    """One store of keys and values a layer: a prefix, what is lent, and a slot for each stream."""

    def __init__(self, prefix: KVChunk, inv_freq_F: Tensor, plan: ArenaPlan) -> None:
        self.plan, self.inv_freq_F, self.prefix = plan, inv_freq_F, len(prefix)
        N, self.key_heads, _, D = prefix.keys_NKTD.shape
        self.token_bytes = 2 * N * self.key_heads * D * prefix.keys_NKTD.element_size()
        self.spill = self.prefix
        self.loans = self.prefix + 1
        self._slots = 0
        self._free: list[int] = []
        rows = self.loans + plan.loans
        self.layers = [prefix.keys_NKTD.new_zeros(rows, 2, self.key_heads, D) for _ in range(N)]
        self.lay(prefix, 0)
        self.grow(plan.slots)

    @property
    def rows(self) -> int:
        """Return the rows of the store."""
        return len(self.layers[0])

    @property
    def longest(self) -> int:
        """Return the rows of the longest range that is ever read."""
        return max(self.plan.dense, self.plan.pooled, self.plan.pooled_text, self.plan.loans)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the store."""
        return self.rows * self.token_bytes

    def grow(self, slots: int) -> None:
        """Make room for more slots, layer by layer."""
        more = slots * self.plan.slot
        for nth, layer in enumerate(self.layers):
            # Zeros: a row that nobody wrote is read by nobody, and is never NaN.
            grown = layer.new_zeros(len(layer) + more, *layer.shape[1:])
            grown[: len(layer)] = layer
            self.layers[nth] = grown
        self._free = [*range(self._slots, self._slots + slots), *self._free]
        self._slots += slots

    def convert(self, prefix: KVChunk) -> None:
        """Hold everything in the precision of another prefix, in the place of the first."""
        for nth, layer in enumerate(self.layers):  # one by one: twice all would not fit
            self.layers[nth] = layer.to(prefix.keys_NKTD.dtype)
        self.lay(prefix, 0)

    def slot(self) -> Slot:
        """Return an empty slot."""
        if not self._free:
            self.grow(1 + self._slots // 8)
        number = self._free.pop(0)
        at = self.loans + self.plan.loans + number * self.plan.slot
        text, pooled = at + self.plan.dense, at + self.plan.dense + self.plan.text
        slot = Slot(
            dense=Stretch(at, self.plan.dense),
            text=Stretch(text, self.plan.text),
            pooled=Stretch(pooled, self.plan.pooled),
            pooled_text=Stretch(pooled + self.plan.pooled, self.plan.pooled_text),
        )
        finalize(slot, self._free.append, number)
        return slot

    def lay(self, chunk: KVChunk, at: int) -> None:
        """Write a chunk to store rows, rotated from position 0 on."""
        positions = torch.arange(len(chunk), device=self.inv_freq_F.device)
        keys = rotate(chunk.keys_NKTD, *angles(positions, self.inv_freq_F, chunk.keys_NKTD))
        kv_NT2KD = torch.stack([keys, chunk.values_NKTD]).permute(1, 3, 0, 2, 4)
        for layer, kv_T2KD in zip(self.layers, kv_NT2KD, strict=True):
            layer[at : at + len(chunk)] = kv_T2KD

    def make_room(self, moves: Sequence[Stretch]) -> None:
        """Move what stretches hold to their front."""
        if not moves:
            return
        source = [np.arange(each.row(each.begin), each.row(each.end)) for each in moves]
        target = [np.arange(each.at, each.at + each.end - each.begin) for each in moves]
        source_S, target_S = self._uploaded(
            np.stack([np.concatenate(source), np.concatenate(target)])
        )
        # One buffer for all layers: where it cannot be had, nothing was moved yet.
        moved = self.layers[0].new_empty(len(source_S), *self.layers[0].shape[1:])
        for layer in self.layers:
            torch.index_select(layer, 0, source_S, out=moved)
            layer.index_copy_(0, target_S, moved)
        for each in moves:
            each.origin = each.begin

    def keep(self, slot: Slot, behind: Sequence[Form]) -> None:
        """Let a slot go of all but the chunks that a new one is read behind.

        Raises ValueError for anything but neighbours of the slot, pooled ones before full ones.
        """
        held = [form for form in behind if isinstance(form, ArenaChunk) and form.slot is slot]
        full = sum(not form.is_pooled for form in held)
        pooled = held[: len(held) - full]
        if len(held) != len(behind) or not all(form.is_pooled for form in pooled):
            raise ValueError("a chunk is read behind pooled chunks of its slot, then full ones")
        entries = [form.entry for form in held]
        slot.keep(entries[: len(pooled)], entries[len(pooled) :])

    def make_room_for(self, last: Sequence[tuple[Slot, Entry]]) -> bool:
        """Make room in slots up to the end of a chunk of each; return whether there is enough."""
        ends = [
            (stretch, end)
            for slot, entry in last
            for stretch, end in zip(slot.stretches, entry.ends, strict=True)
        ]
        if any(end - stretch.begin > stretch.room for stretch, end in ends):
            return False
        self.make_room([each for each, end in ends if end - each.origin > each.room])
        return True

    def pool(self, chunks: Sequence[tuple[Slot, Entry]]) -> None:
        """Write the pooled form of chunks that were written, where any is ever read."""
        if not self.plan.pooled:
            return
        rows = _PooledRows.of(self._uploaded, chunks, self.plan.compression)
        exact = torch.promote_types(self.layers[0].dtype, torch.float32)
        like = torch.empty(0, dtype=exact, device=self.layers[0].device)
        back, there = (
            tuple(x[:, None] for x in angles(at, self.inv_freq_F, like))
            for at in (-rows.position_S, rows.pooled_position_S)
        )
        for layer in self.layers:
            keys, values = layer[rows.row_S].to(exact).unbind(1)
            kv = torch.stack([rotate(keys, *back), values], 1)
            visual = kv[: rows.visuals].unflatten(0, (-1, self.plan.compression)).mean(1)
            kv = torch.cat([visual, kv[rows.visuals :]])
            turned = torch.stack([rotate(kv[:, 0], *there), kv[:, 1]], 1)
            layer.index_copy_(0, rows.pooled_row_S, turned.to(layer))

    def visual_keys(self, chunks: Sequence[ArenaChunk]) -> list[Tensor]:
        """Return the pooled visual keys (N, K, S, D) of each chunk before RoPE, in float32.

        The chunks are neighbours of one slot.
        """
        slot, sizes, positions = chunks[0].slot, list[int](), list[np.ndarray]()
        for chunk in chunks:
            left = chunk.anchors_T.numpy()
            positions.append(chunk.entry.pooled_position + (~left).nonzero()[0])
            sizes.append(chunk.entry.counts[2])
        rows = slot.pooled.rows(chunks[0].entry.pooled, sum(sizes))
        exact = torch.promote_types(self.layers[0].dtype, torch.float32)
        keys = torch.stack([layer[rows.start : rows.stop, 0] for layer in self.layers]).to(exact)
        back = angles(-self._uploaded(np.concatenate(positions)), self.inv_freq_F, keys)
        return list(rotate(keys.transpose(1, 2), *back).split(sizes, dim=2))

    def _uploaded(self, numbers: np.ndarray) -> Tensor:
        """Return numbers on the device, without waiting for it."""
        here = torch.from_numpy(numbers)
        device = self.layers[0].device
        return (here.pin_memory() if device.type == "cuda" else here).to(device, non_blocking=True)

    def restored(self, chunk: ArenaChunk) -> KVChunk:
        """Return a copy of a chunk with its keys before RoPE."""
        entry, slot, anchors_T = chunk.entry, chunk.slot, chunk.anchors_T
        where: Tensor | slice
        if chunk.is_pooled:
            is_text, rows = anchors_T.numpy(), np.empty(len(anchors_T), np.int64)
            rows[is_text] = slot.pooled_text.rows(entry.pooled_text, entry.counts[3])
            rows[~is_text] = slot.pooled.rows(entry.pooled, entry.counts[2])
            where, first = self._uploaded(rows), entry.pooled_position
        else:
            where = slice(slot.dense.row(entry.dense), slot.dense.row(entry.dense + len(chunk)))
            first = entry.dense
        kv_NT2KD = torch.stack([layer[where] for layer in self.layers])
        keys_NKTD, values_NKTD = kv_NT2KD.permute(2, 0, 3, 1, 4)
        positions = -(first + torch.arange(len(chunk), device=self.inv_freq_F.device))
        exact = keys_NKTD.to(torch.promote_types(keys_NKTD.dtype, torch.float32))
        keys_NKTD = rotate(exact, *angles(positions, self.inv_freq_F, exact)).to(values_NKTD)
        stands_for = self.plan.compression if chunk.is_pooled else 1
        return KVChunk(keys_NKTD, values_NKTD.contiguous(), anchors_T, stands_for)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PooledRows:
    """Rows and positions of tokens in full, visual ones first, and of the pooled ones."""

    row_S: Tensor
    position_S: Tensor
    pooled_row_S: Tensor
    pooled_position_S: Tensor
    visuals: int

    @classmethod
    def of(
        cls,
        uploaded: Callable[[np.ndarray], Tensor],
        chunks: Sequence[tuple[Slot, Entry]],
        compression: int,
    ) -> _PooledRows:
        told: list[list[np.ndarray]] = [[] for _ in range(8)]
        for slot, entry in chunks:
            visual, _, left = pooling(entry.anchors_T, compression)
            text, is_text = entry.anchors_T.numpy().nonzero()[0], left.numpy()
            for n, (dense, small, first, stretch) in enumerate(
                (
                    (visual.numpy(), (~is_text).nonzero()[0], entry.pooled, slot.pooled),
                    (text, is_text.nonzero()[0], entry.pooled_text, slot.pooled_text),
                )
            ):
                told[n].append(slot.dense.row(entry.dense) + dense)
                told[2 + n].append(entry.dense + dense)
                told[4 + n].append(stretch.row(first) + np.arange(len(small)))
                told[6 + n].append(entry.pooled_position + small)
        joined = [np.concatenate([*told[n], *told[n + 1]]) for n in (0, 2, 4, 6)]
        lengths = np.cumsum([len(each) for each in joined])[:-1].tolist()
        row, position, pooled_row, pooled_position = uploaded(np.concatenate(joined)).tensor_split(
            lengths
        )
        return cls(
            row_S=row,
            position_S=position,
            pooled_row_S=pooled_row,
            pooled_position_S=pooled_position,
            visuals=sum(map(len, told[0])),
        )
