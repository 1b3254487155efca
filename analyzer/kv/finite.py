"""Whether what a model made is a number everywhere."""

import torch
from torch import Tensor

from analyzer.kv.arena.arena import AnyChunk, ArenaChunk


def is_finite(*outputs: AnyChunk | Tensor) -> bool:
    """Return whether all numbers are finite; waits for the device once."""
    tensors = list[Tensor]()
    for each in outputs:
        if isinstance(each, Tensor):
            tensors.append(each)
            continue
        chunk = each.restored() if isinstance(each, ArenaChunk) else each
        tensors += [chunk.keys_NKTD, chunk.values_NKTD]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
