"""Keys and values: immutable chunks, and the cache that a pass attends to.

A chunk stores its keys before RoPE. They are rotated once, when the chunk is copied into a cache,
to contiguous positions from 0: no position exceeds the length of a cache, however long the
stream runs.

Legend: N layers, K key heads, T tokens of a chunk, L tokens of a cache, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from analyzer.kv.attention import KVSlice
from analyzer.kv.host_slab import HostSlab
from analyzer.kv.rotary import AngleTable, rotate, rotate_in_place


@dataclass(frozen=True, slots=True, eq=False)
class KVChunk:
    """Keys, before RoPE, and values of T tokens in every layer.

    `anchors_T` (on the CPU) marks text: the prefix and the timestamps, which attend to all
    earlier tokens and which all later tokens attend to. The others are visual tokens, each the
    average of `token_size` prefilled ones.
    """

    keys_NKTD: Tensor
    values_NKTD: Tensor
    anchors_T: Tensor
    token_size: int = 1

    def __len__(self) -> int:
        return len(self.anchors_T)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all tensors."""
        return self.keys_NKTD.nbytes + self.values_NKTD.nbytes + self.anchors_T.nbytes

    @property
    def device(self) -> torch.device:
        """Return the device of the tensors."""
        return self.keys_NKTD.device

    def to(self, device: torch.device) -> KVChunk:
        """Return the chunk on a device."""
        keys, values = self.keys_NKTD.to(device), self.values_NKTD.to(device)
        return replace(self, keys_NKTD=keys, values_NKTD=values)

    def offloaded(self, slab: HostSlab | None = None) -> KVChunk:
        """Return the chunk on the host, in the slab if there is one."""
        keys, values = offload(self.keys_NKTD, slab), offload(self.values_NKTD, slab)
        return replace(self, keys_NKTD=keys, values_NKTD=values)

    def pooled(self, compression: int) -> KVChunk:
        """Return the chunk with every `compression` consecutive visual tokens averaged into one.

        Text stays unchanged (bi-granularity KVs of Video-XL-2, section 3.3). Raises ValueError
        if `compression` does not divide the visual tokens of a group.
        """
        visual, order, is_text = pooling_indices(self.anchors_T, compression)

        def pool(x_NKTD: Tensor) -> Tensor:
            pooled = x_NKTD[:, :, order]
            pooled[:, :, ~is_text] = x_NKTD[:, :, visual].unflatten(2, (-1, compression)).mean(3)
            return pooled

        token_size = self.token_size * compression
        return KVChunk(pool(self.keys_NKTD), pool(self.values_NKTD), is_text, token_size)

    def split_groups(self, groups: int) -> list[KVChunk]:
        """Return views of the chunk of `groups` groups of stills each; the last may be shorter.

        A group begins at a timestamp that follows a visual token.
        """
        anchors = self.anchors_T
        starts = (anchors[1:] & ~anchors[:-1]).nonzero()[:, 0] + 1
        bounds = [*[0, *starts.tolist()][::groups], len(self)]
        return [
            replace(
                self,
                keys_NKTD=self.keys_NKTD[:, :, a:b],
                values_NKTD=self.values_NKTD[:, :, a:b],
                anchors_T=anchors[a:b],
            )
            for a, b in pairwise(bounds)
        ]


def pooling_indices(anchors_T: Tensor, compression: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the visual tokens, the tokens that remain after pooling, and which of those are text.

    The first of each averaged run remains. Raises ValueError if `compression` does not divide
    the visual tokens of a group.
    """
    visual = (~anchors_T).nonzero()[:, 0]
    if len(visual) % compression or _is_scattered(visual, compression):
        raise ValueError(f"{compression} does not divide the visual tokens of a group")
    is_kept = anchors_T.clone()
    is_kept[visual[::compression]] = True
    order = is_kept.nonzero()[:, 0]
    return visual, order, anchors_T[order]


def _is_scattered(visual: Tensor, compression: int) -> bool:
    """Return whether a run of tokens to average is not contiguous."""
    runs = visual.unflatten(0, (-1, compression))
    return bool((runs[:, -1] - runs[:, 0] != compression - 1).any())


def concatenate_chunks(chunks: Sequence[KVChunk]) -> KVChunk:
    """Return one chunk of all tokens, in order."""
    return KVChunk(
        torch.cat([chunk.keys_NKTD for chunk in chunks], dim=2),
        torch.cat([chunk.values_NKTD for chunk in chunks], dim=2),
        torch.cat([chunk.anchors_T for chunk in chunks]),
    )


def offload(x: Tensor, slab: HostSlab | None) -> Tensor:
    """Return a tensor on the host, in the slab if there is one."""
    return x.cpu() if slab is None else slab.store(x)


@dataclass(frozen=True, slots=True)
class BiasGroup:
    """Columns of a cache, None for all, and the bias on their logits."""

    columns_L: Tensor | None
    log_size_bias: float


class KVCache:
    """Consecutive chunks with keys rotated to positions 0 to L-1.

    With `proportional_attention`, a pooled token weighs as many tokens as it averages.
    """

    def __init__(
        self, empty_NK0D: Tensor, angle_table: AngleTable, proportional_attention: bool = False
    ) -> None:
        self.proportional_attention = proportional_attention
        self._keys_NKLD = self._values_NKLD = empty_NK0D
        self._angle_table = angle_table
        self._anchor_masks: list[Tensor] = []
        self._token_sizes: list[int] = []
        self.length = 0

    @property
    def like(self) -> Tensor:
        """Return a tensor with the precision and the device of the cache."""
        return self._keys_NKLD

    def append(self, chunk: KVChunk) -> None:
        """Append a chunk."""
        self.reserve(len(chunk))
        span = slice(self.length, self.length + len(chunk))
        cos_sin = self._angle_table.between(span.start, span.stop, self._keys_NKLD)
        self._keys_NKLD[:, :, span] = rotate(chunk.keys_NKTD, *cos_sin)
        self._values_NKLD[:, :, span] = chunk.values_NKTD
        self._anchor_masks.append(chunk.anchors_T)
        self._token_sizes.append(chunk.token_size)
        self.length = span.stop

    def extend(self, chunks: Sequence[KVChunk]) -> None:
        """Append chunks with one copy and one rotation."""
        tokens = sum(map(len, chunks))
        self.reserve(tokens)
        if torch.is_grad_enabled():
            for chunk in chunks:
                self.append(chunk)
            return
        span = slice(self.length, self.length + tokens)
        keys, values = self._keys_NKLD[:, :, span], self._values_NKLD[:, :, span]
        torch.cat([chunk.keys_NKTD for chunk in chunks], dim=2, out=keys)
        torch.cat([chunk.values_NKTD for chunk in chunks], dim=2, out=values)
        rotate_in_place(keys, *self._angle_table.between(span.start, span.stop, keys))
        self._anchor_masks += [chunk.anchors_T for chunk in chunks]
        self._token_sizes += [chunk.token_size for chunk in chunks]
        self.length = span.stop

    def reserve(self, tokens: int) -> None:
        """Allocate room for more tokens."""
        room = self._keys_NKLD.shape[2]
        if self.length + tokens > room:
            room = max(self.length + tokens, room + room // 2)
            # The table first: its temporary memory is free again before the cache is allocated.
            self._angle_table.between(0, room, self._keys_NKLD)
            self._keys_NKLD = self._grown(self._keys_NKLD, room)
            self._values_NKLD = self._grown(self._values_NKLD, room)

    def crop(self, length: int) -> None:
        """Drop the last chunks down to an earlier length."""
        while self.length > length:
            self.length -= len(self._anchor_masks.pop())
            self._token_sizes.pop()

    def kv_slice(self, layer: int, group: BiasGroup) -> KVSlice:
        """Return the keys and values of a layer for a group of columns."""
        keys, values = (
            x_NKLD[layer : layer + 1, :, : self.length]
            for x_NKLD in (self._keys_NKLD, self._values_NKLD)
        )
        if group.columns_L is None:
            return KVSlice(keys, values, group.log_size_bias)
        return KVSlice(
            keys[:, :, group.columns_L], values[:, :, group.columns_L], group.log_size_bias
        )

    def bias_groups(self, columns_L: Tensor | None = None) -> list[BiasGroup]:
        """Group some columns, or all, by how many tokens each averages."""
        device = self._keys_NKLD.device
        if not self.length or (columns_L is not None and not len(columns_L)):
            return []
        if not self.proportional_attention or max(self._token_sizes) == 1:
            return [BiasGroup(None if columns_L is None else columns_L.to(device), 0.0)]
        token_sizes = torch.cat(
            [
                torch.where(anchors, 1, number)
                for anchors, number in zip(self._anchor_masks, self._token_sizes, strict=True)
            ]
        )
        if columns_L is None:
            columns_L = torch.arange(self.length)
        return [
            BiasGroup(columns_L[token_sizes[columns_L] == number].to(device), math.log(number))
            for number in token_sizes[columns_L].unique().tolist()
        ]

    def visible_to_visual(self, full_chunks: int) -> tuple[Tensor, int]:
        """Return the columns that a visual token attends to, and the number of others.

        These are all anchors, and all tokens of the last `full_chunks` chunks.
        """
        first_full = max(0, len(self._anchor_masks) - full_chunks)
        masks = [
            torch.ones_like(anchors) if nth >= first_full else anchors
            for nth, anchors in enumerate(self._anchor_masks)
        ]
        is_visible = torch.cat(masks or [_NO_TOKENS])
        return is_visible.nonzero()[:, 0], int((~is_visible).sum())

    def _grown(self, old_NKLD: Tensor, room: int) -> Tensor:
        N, K, _, D = old_NKLD.shape
        grown = old_NKLD.new_empty(N, K, room, D)
        grown[:, :, : self.length] = old_NKLD[:, :, : self.length]
        return grown


_NO_TOKENS = torch.zeros(0, dtype=torch.bool)
