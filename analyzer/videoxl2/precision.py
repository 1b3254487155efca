"""Another precision for a model that is loaded: its weights are read from the files again.

What overflows in float16 has range enough in bfloat16; weights converted from float16 would
keep its gaps near zero.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from analyzer.errors import ModelUnusable
from analyzer.videoxl2.checkpoint import load_weights
from analyzer.videoxl2.kv import KVChunk
from analyzer.videoxl2.model import VideoXL2
from analyzer.videoxl2.shards import Weights
from analyzer.videoxl2.snapshot import Snapshot


def reload_as(model: VideoXL2, snapshot: Snapshot, identity: str, kind: torch.dtype) -> None:
    """Read the weights again as `kind`, in place: one old and one new weight exist at a time.

    `identity` is what `snapshot.identity()` was at the first loading; the files are hashed
    again. What was made of the old weights, as a prefix, is the caller's to make anew. Raises
    ModelUnusable, and changes nothing, where the files are no longer the same.
    """
    if snapshot.identity() != identity:
        raise ModelUnusable(f"{snapshot.folder}: changed since it was loaded as {identity}")
    load_weights(model, Weights(snapshot.shards), model.device, kind)


def is_finite(*made: KVChunk | Tensor) -> bool:
    """Return whether all numbers are finite; waits for the device once."""
    tests = [tensor.isfinite().all() for one in made for tensor in _tensors(one)]
    return bool(torch.stack(tests).all())


def _tensors(made: KVChunk | Tensor) -> Iterator[Tensor]:
    if isinstance(made, KVChunk):
        yield from (made.keys_NKTD, made.values_NKTD)
    else:
        yield made
