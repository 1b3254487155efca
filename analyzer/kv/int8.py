"""Chunks in eight bits: half the bytes of half precision.

Keys are scaled per channel, because some channels are far larger than others in every token;
values per token (KIVI, arXiv 2402.02750). The mean of a channel of keys is subtracted first and
kept in float32: the biases of Qwen2.5 reach 900 and would use up the levels. A chunk is
quantised once.

Legend: N layers, K key heads, T tokens, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from analyzer.kv.cache import KVChunk, offload
from analyzer.kv.host_slab import HostSlab

LEVELS = 127


@dataclass(frozen=True, slots=True, eq=False)
class Int8Chunk:
    """Keys minus their mean over the tokens, values, and their scales."""

    keys_NKTD: Tensor
    values_NKTD: Tensor
    key_means_NK1D: Tensor
    key_scales_NK1D: Tensor
    value_scales_NKT1: Tensor
    anchors_T: Tensor

    @classmethod
    def quantise(cls, chunk: KVChunk) -> Int8Chunk:
        """Quantise a chunk."""
        means_NK1D = chunk.keys_NKTD.mean(2, keepdim=True, dtype=torch.float32)
        dtype = chunk.keys_NKTD.dtype
        keys, key_scales = _quantised(chunk.keys_NKTD - means_NK1D, 2, dtype)
        values, value_scales = _quantised(chunk.values_NKTD.float(), 3, dtype)
        return cls(keys, values, means_NK1D, key_scales, value_scales, chunk.anchors_T)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors on the chunk's device; `anchors_T` is always on the host."""
        return (
            self.keys_NKTD,
            self.values_NKTD,
            self.key_means_NK1D,
            self.key_scales_NK1D,
            self.value_scales_NKT1,
        )

    @property
    def nbytes(self) -> int:
        """Return the bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors) + self.anchors_T.nbytes

    def to(self, device: torch.device) -> Int8Chunk:
        """Return the chunk on a device."""
        return self._mapped(lambda tensor: tensor.to(device))

    def offloaded(self, slab: HostSlab | None = None) -> Int8Chunk:
        """Return the chunk on the host, in the slab if there is one."""
        return self._mapped(lambda tensor: offload(tensor, slab))

    def restored(self) -> KVChunk:
        """Return the chunk in its original precision.

        The error is at most half a level (the largest distance from the mean of the channel or
        token, over 254), plus the rounding of the scale and of the precision.
        """
        dtype = self.value_scales_NKT1.dtype
        keys = self.keys_NKTD * self.key_scales_NK1D.float() + self.key_means_NK1D
        values = self.values_NKTD * self.value_scales_NKT1.float()
        return KVChunk(keys.to(dtype), values.to(dtype), self.anchors_T)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Int8Chunk:
        keys, values, means, key_scales, value_scales = map(change, self.tensors)
        return Int8Chunk(keys, values, means, key_scales, value_scales, self.anchors_T)


def _quantised(x: Tensor, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return float32 numbers in eight bits, and their scales in the precision of a chunk.

    The scales are rounded before the division, so that they add no error of their own.
    """
    largest = x.abs().amax(dim, keepdim=True).clamp_min(torch.finfo(dtype).tiny)
    scale = (largest / LEVELS).to(dtype)
    return (x / scale.float()).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale
