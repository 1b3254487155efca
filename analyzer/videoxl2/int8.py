"""Chunks in eight bits: half the bytes of bf16, for those that are kept in case they matter.

Keys are scaled per channel, because some channels of keys are far larger than others in every
token; values per token (KIVI, arXiv 2402.02750). A chunk is quantised once, whole, and never
again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from analyzer.videoxl2.kv import KVChunk, offload

LEVELS = 127


@dataclass(frozen=True, slots=True, eq=False)
class Int8Chunk:
    """Keys and values of a chunk with their scales."""

    keys_NKTD: Tensor
    values_NKTD: Tensor
    key_scales_NK1D: Tensor
    value_scales_NKT1: Tensor
    anchors_T: Tensor

    @classmethod
    def of(cls, chunk: KVChunk) -> Int8Chunk:
        """Quantise a chunk."""
        keys, key_scales = _quantised(chunk.keys_NKTD, dim=2)
        values, value_scales = _quantised(chunk.values_NKTD, dim=3)
        return cls(keys, values, key_scales, value_scales, chunk.anchors_T)

    @property
    def nbytes(self) -> int:
        """Return the bytes of keys, values and scales."""
        scales = self.key_scales_NK1D.nbytes + self.value_scales_NKT1.nbytes
        return self.keys_NKTD.nbytes + self.values_NKTD.nbytes + scales + self.anchors_T.nbytes

    def to(self, device: torch.device) -> Int8Chunk:
        """Return the chunk on a device."""
        return self._mapped(lambda tensor: tensor.to(device))

    def offloaded(self) -> Int8Chunk:
        """Return the chunk on the host, pinned where it comes from a CUDA device."""
        return self._mapped(offload)

    def restored(self) -> KVChunk:
        """Return the chunk in the precision it came in, off by half a level at most."""
        scales = self.key_scales_NK1D, self.value_scales_NKT1
        keys, values = (
            x.to(scale.dtype) * scale
            for x, scale in zip((self.keys_NKTD, self.values_NKTD), scales, strict=True)
        )
        return KVChunk(keys, values, self.anchors_T)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Int8Chunk:
        return Int8Chunk(
            change(self.keys_NKTD),
            change(self.values_NKTD),
            change(self.key_scales_NK1D),
            change(self.value_scales_NKT1),
            self.anchors_T,
        )


def _quantised(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    scale = x.abs().amax(dim, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny) / LEVELS
    return (x / scale).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale
