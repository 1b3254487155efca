"""Whether what a model made is a number everywhere."""

import torch
from torch import Tensor

from analyzer.videoxl2.arena import ArenaChunk, Form


def is_finite(*made: Form | Tensor) -> bool:
    """Return whether all numbers are finite; waits for the device once."""
    tensors = list[Tensor]()
    for one in made:
        if isinstance(one, Tensor):
            tensors.append(one)
            continue
        chunk = one.restored() if isinstance(one, ArenaChunk) else one
        tensors += [chunk.keys_NKTD, chunk.values_NKTD]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
