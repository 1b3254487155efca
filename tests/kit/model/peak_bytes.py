"""The most bytes that tensors take at once while some work runs, counted by operator."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _LiveStorages(TorchDispatchMode):
    """Counts the storages that operators make on a device and that are still held."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.peak = 0
        self._live = dict[int, tuple[StorageWeakRef, int]]()
        self._foreign = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in self._storages((args, kwargs)):
            if storage._cdata not in self._live:
                self._foreign.add(storage._cdata)
        out = func(*args, **(kwargs or {}))
        for storage in self._storages(out):
            if storage._cdata not in self._foreign:
                self._track(storage)
        return out

    def _storages(self, values: Any) -> list[torch.UntypedStorage]:
        leaves = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        return [leaf.untyped_storage() for leaf in leaves if leaf.device.type == self.device]

    def _track(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._live:
            self._live = {key: one for key, one in self._live.items() if not one[0].expired()}
            self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            self.peak = max(self.peak, sum(size for _, size in self._live.values()))


class _FusedAttention(TorchFunctionMode):
    """Attention as a fused kernel does it, where a device has no kernels: it makes its output."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and args[0].device.type == "meta":
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def peak_bytes(work: Callable[[], object], device: str) -> int:
    """Return the most bytes that were held at once of what `work` made on a device."""
    with torch.inference_mode(), _FusedAttention(), _LiveStorages(device) as live:
        work()
    return live.peak
