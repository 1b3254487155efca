"""Device memory for the keys and values of all streams, written and rotated once.

Each stream has a slot of four regions: dense chunks, a second copy of their text, and the pooled
form of visual tokens and of text. A region is a queue: filled and freed in order. A dense key is
rotated by the running number of its token, a pooled key by a second running number. Keys are
never rotated again: a pass shifts its queries by the difference between those numbers and the
contiguous positions of a `KVCache` (`analyzer.kv.arena.passes`).

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

from analyzer.kv.arena.slots import ArenaPlan, ArenaSlot, SlotEntry, SlotRegion
from analyzer.kv.cache import KVChunk, pooling_indices
from analyzer.kv.rotary import Rotary, rotate


@dataclass(frozen=True, slots=True, eq=False)
class ArenaChunk:
    """A dense or pooled chunk in the arena, with the interface of a KVChunk."""

    arena: Arena
    slot: ArenaSlot
    entry: SlotEntry
    is_pooled: bool = False

    def __len__(self) -> int:
        if not self.is_pooled:
            return len(self.entry.anchors_T)
        return self.entry.counts.pooled + self.entry.counts.pooled_text

    @property
    def nbytes(self) -> int:
        """Return the bytes of its keys and values."""
        return len(self) * (self.arena.token_bytes + 1)

    @property
    def token_size(self) -> int:
        """Return how many prefilled visual tokens each of its own averages."""
        return self.arena.plan.compression if self.is_pooled else 1

    @property
    def anchors_T(self) -> Tensor:
        """Return which of its tokens are text, on the CPU."""
        if not self.is_pooled:
            return self.entry.anchors_T
        return pooling_indices(self.entry.anchors_T, self.arena.plan.compression)[2]

    @property
    def device(self) -> torch.device:
        """Return the device of the arena."""
        return self.arena.layers[0].device

    def to(self, _device: torch.device) -> ArenaChunk:
        """Return the chunk, which cannot leave its device."""
        return self

    def split_groups(self, groups: int) -> list[KVChunk]:
        """Return copies of its groups as `KVChunk.split_groups` does."""
        return self.restored().split_groups(groups)

    def pooled(self, compression: int) -> ArenaChunk:
        """Return its pooled form, written together with it; itself if the arena never pools."""
        if not self.arena.plan.pooled:
            return self
        if compression != self.arena.plan.compression:
            raise ValueError(f"this arena pools by {self.arena.plan.compression}")
        return ArenaChunk(self.arena, self.slot, self.entry, is_pooled=True)

    def restored(self) -> KVChunk:
        """Return a copy with its keys before RoPE."""
        return self.arena.restored(self)


AnyChunk: TypeAlias = KVChunk | ArenaChunk


class Arena:
    """One store of keys and values per layer: a prefix, staged chunks, and a slot per stream."""

    def __init__(self, prefix: KVChunk, rotary: Rotary, plan: ArenaPlan) -> None:
        self.plan, self.rotary, self.prefix = plan, rotary, len(prefix)
        N, self.key_heads, _, D = prefix.keys_NKTD.shape
        self.token_bytes = 2 * N * self.key_heads * D * prefix.keys_NKTD.element_size()
        self.scratch_row = self.prefix
        self.staging_row = self.prefix + 1
        self._slot_count = 0
        self._free_slots: list[int] = []
        rows = self.staging_row + plan.staging
        self.layers = [prefix.keys_NKTD.new_zeros(rows, 2, self.key_heads, D) for _ in range(N)]
        self.write_rotated(prefix, 0)
        self.grow(plan.slots)

    @property
    def rows(self) -> int:
        """Return the rows of the store."""
        return len(self.layers[0])

    @property
    def max_range_rows(self) -> int:
        """Return the most rows of a range that a pass attends to."""
        return max(self.plan.dense, self.plan.pooled, self.plan.pooled_text, self.plan.staging)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the store."""
        return self.rows * self.token_bytes

    def grow(self, slots: int) -> None:
        """Add slots, layer by layer."""
        more = slots * self.plan.rows_per_slot
        for nth, layer in enumerate(self.layers):
            # Zeros: kernels may load unwritten rows, which must not be NaN.
            grown = layer.new_zeros(len(layer) + more, *layer.shape[1:])
            grown[: len(layer)] = layer
            self.layers[nth] = grown
        self._free_slots = [*range(self._slot_count, self._slot_count + slots), *self._free_slots]
        self._slot_count += slots

    def convert(self, prefix: KVChunk) -> None:
        """Convert the store to the precision of another prefix, which replaces the first."""
        for nth, layer in enumerate(self.layers):  # one by one: twice all would not fit
            self.layers[nth] = layer.to(prefix.keys_NKTD.dtype)
        self.write_rotated(prefix, 0)

    def allocate_slot(self) -> ArenaSlot:
        """Return an empty slot."""
        if not self._free_slots:
            self.grow(1 + self._slot_count // 8)
        number = self._free_slots.pop(0)
        first_row = self.staging_row + self.plan.staging + number * self.plan.rows_per_slot
        text, pooled = first_row + self.plan.dense, first_row + self.plan.dense + self.plan.text
        slot = ArenaSlot(
            dense=SlotRegion(first_row, self.plan.dense),
            text=SlotRegion(text, self.plan.text),
            pooled=SlotRegion(pooled, self.plan.pooled),
            pooled_text=SlotRegion(pooled + self.plan.pooled, self.plan.pooled_text),
        )
        finalize(slot, self._free_slots.append, number)
        return slot

    def write_rotated(self, chunk: KVChunk, first_row: int) -> None:
        """Write a chunk to store rows, rotated from position 0."""
        positions = torch.arange(len(chunk), device=chunk.device)
        keys = rotate(chunk.keys_NKTD, *self.rotary(positions, chunk.keys_NKTD))
        kv_NT2KD = torch.stack([keys, chunk.values_NKTD]).permute(1, 3, 0, 2, 4)
        for layer, kv_T2KD in zip(self.layers, kv_NT2KD, strict=True):
            layer[first_row : first_row + len(chunk)] = kv_T2KD

    def compact(self, regions: Sequence[SlotRegion]) -> None:
        """Move the content of regions to their front."""
        if not regions:
            return
        source = [np.arange(each.row(each.begin), each.row(each.end)) for each in regions]
        target = [
            np.arange(each.first_row, each.first_row + each.end - each.begin) for each in regions
        ]
        source_S, target_S = self._upload(
            np.stack([np.concatenate(source), np.concatenate(target)])
        )
        # One buffer for all layers: if it cannot be allocated, no layer was changed yet.
        moved = self.layers[0].new_empty(len(source_S), *self.layers[0].shape[1:])
        for layer in self.layers:
            torch.index_select(layer, 0, source_S, out=moved)
            layer.index_copy_(0, target_S, moved)
        for each in regions:
            each.origin = each.begin

    def retain_only(self, slot: ArenaSlot, context: Sequence[AnyChunk]) -> None:
        """Free all chunks of a slot but the context of a new one.

        Raises ValueError unless these are consecutive chunks of the slot, pooled before dense.
        """
        chunks = [form for form in context if isinstance(form, ArenaChunk) and form.slot is slot]
        full = sum(not form.is_pooled for form in chunks)
        pooled = chunks[: len(chunks) - full]
        if len(chunks) != len(context) or not all(form.is_pooled for form in pooled):
            raise ValueError("a context is pooled chunks of its slot, then dense ones")
        entries = [form.entry for form in chunks]
        slot.retain_only(entries[: len(pooled)], entries[len(pooled) :])

    def compact_for(self, last: Sequence[tuple[ArenaSlot, SlotEntry]]) -> bool:
        """Make room for the last new chunk of each slot; return whether it fits."""
        ends = [
            (region, end)
            for slot, entry in last
            for region, end in zip(slot.regions, entry.ends, strict=True)
        ]
        if any(end - region.begin > region.capacity for region, end in ends):
            return False
        self.compact([each for each, end in ends if end - each.origin > each.capacity])
        return True

    def write_pooled(self, chunks: Sequence[tuple[ArenaSlot, SlotEntry]]) -> None:
        """Write the pooled form of written chunks, unless the arena never pools."""
        if not self.plan.pooled:
            return
        rows = _PooledRows.build(self._upload, chunks, self.plan.compression)
        exact = torch.promote_types(self.layers[0].dtype, torch.float32)
        like = torch.empty(0, dtype=exact, device=self.layers[0].device)
        unrotate, rotate_pooled = (
            tuple(x[:, None] for x in self.rotary(at, like))
            for at in (-rows.position_S, rows.pooled_position_S)
        )
        for layer in self.layers:
            keys, values = layer[rows.row_S].to(exact).unbind(1)
            kv = torch.stack([rotate(keys, *unrotate), values], 1)
            visual = kv[: rows.visual_count].unflatten(0, (-1, self.plan.compression)).mean(1)
            kv = torch.cat([visual, kv[rows.visual_count :]])
            rotated = torch.stack([rotate(kv[:, 0], *rotate_pooled), kv[:, 1]], 1)
            layer.index_copy_(0, rows.pooled_row_S, rotated.to(layer))

    def visual_keys(self, chunks: Sequence[ArenaChunk]) -> list[Tensor]:
        """Return the pooled visual keys (N, K, S, D) of consecutive chunks, before RoPE."""
        slot, sizes, positions = chunks[0].slot, list[int](), list[np.ndarray]()
        for chunk in chunks:
            is_text = chunk.anchors_T.numpy()
            positions.append(chunk.entry.pooled_position + (~is_text).nonzero()[0])
            sizes.append(chunk.entry.counts.pooled)
        rows = slot.pooled.rows(chunks[0].entry.starts.pooled, sum(sizes))
        exact = torch.promote_types(self.layers[0].dtype, torch.float32)
        keys = torch.stack([layer[rows.start : rows.stop, 0] for layer in self.layers]).to(exact)
        unrotate = self.rotary(-self._upload(np.concatenate(positions)), keys)
        return list(rotate(keys.transpose(1, 2), *unrotate).split(sizes, dim=2))

    def _upload(self, numbers: np.ndarray) -> Tensor:
        """Return numbers on the device, copied asynchronously."""
        on_host = torch.from_numpy(numbers)
        device = self.layers[0].device
        return (on_host.pin_memory() if device.type == "cuda" else on_host).to(
            device, non_blocking=True
        )

    def restored(self, chunk: ArenaChunk) -> KVChunk:
        """Return a copy of a chunk with its keys before RoPE."""
        entry, slot, anchors_T = chunk.entry, chunk.slot, chunk.anchors_T
        store_rows: Tensor | slice
        if chunk.is_pooled:
            is_text, rows = anchors_T.numpy(), np.empty(len(anchors_T), np.int64)
            rows[is_text] = slot.pooled_text.rows(
                entry.starts.pooled_text, entry.counts.pooled_text
            )
            rows[~is_text] = slot.pooled.rows(entry.starts.pooled, entry.counts.pooled)
            store_rows, first = self._upload(rows), entry.pooled_position
        else:
            store_rows = slice(
                slot.dense.row(entry.starts.dense), slot.dense.row(entry.starts.dense + len(chunk))
            )
            first = entry.starts.dense
        kv_NT2KD = torch.stack([layer[store_rows] for layer in self.layers])
        keys_NKTD, values_NKTD = kv_NT2KD.permute(2, 0, 3, 1, 4)
        positions = -(first + torch.arange(len(chunk), device=chunk.device))
        exact = keys_NKTD.to(torch.promote_types(keys_NKTD.dtype, torch.float32))
        keys_NKTD = rotate(exact, *self.rotary(positions, exact)).to(values_NKTD)
        token_size = self.plan.compression if chunk.is_pooled else 1
        return KVChunk(keys_NKTD, values_NKTD.contiguous(), anchors_T, token_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PooledRows:
    """Rows and positions of dense tokens, visual ones first, and of the pooled ones."""

    row_S: Tensor
    position_S: Tensor
    pooled_row_S: Tensor
    pooled_position_S: Tensor
    visual_count: int

    @classmethod
    def build(
        cls,
        upload: Callable[[np.ndarray], Tensor],
        chunks: Sequence[tuple[ArenaSlot, SlotEntry]],
        compression: int,
    ) -> _PooledRows:
        parts = [
            _pooled_rows(slot, entry, compression, text=text)
            for text in (False, True)
            for slot, entry in chunks
        ]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        ends = np.cumsum([len(column) for column in columns])[:-1].tolist()
        row, position, pooled_row, pooled_position = upload(np.concatenate(columns)).tensor_split(
            ends
        )
        return cls(
            row_S=row,
            position_S=position,
            pooled_row_S=pooled_row,
            pooled_position_S=pooled_position,
            visual_count=sum(int((~entry.anchors_T).sum()) for _, entry in chunks),
        )


def _pooled_rows(
    slot: ArenaSlot, entry: SlotEntry, compression: int, *, text: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return rows and positions of the dense tokens of one kind, then of the pooled ones."""
    dense = (entry.anchors_T == text).numpy().nonzero()[0]
    pooled = (pooling_indices(entry.anchors_T, compression)[2] == text).numpy().nonzero()[0]
    region, first = (
        (slot.pooled_text, entry.starts.pooled_text) if text else (slot.pooled, entry.starts.pooled)
    )
    return (
        slot.dense.row(entry.starts.dense) + dense,
        entry.starts.dense + dense,
        region.row(first) + np.arange(len(pooled)),
        entry.pooled_position + pooled,
    )
