"""Copy weights from files into a model; each file is read once, hashed and checked.

Legend: U bytes, N numbers.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor, nn

from analyzer.errors import ModelUnusable
from analyzer.models.checkpoint.shards import Shard, TensorEntry

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
}
STAGING_BYTES = 8 * 2**20
"""Bytes to read, hash and copy at a time, through pinned memory to a GPU."""
PARALLEL_FILES = 4
"""Files to read at a time: SHA-256 takes longer than the copy."""


class WeightTarget:
    """One weight of a model: its module, and its name there."""

    def __init__(self, model: nn.Module, key: str) -> None:
        path, _, self._leaf = key.rpartition(".")
        self._module = model.get_submodule(path)

    @property
    def weight(self) -> Tensor:
        """Return the current weight."""
        weight: Tensor = getattr(self._module, self._leaf)
        return weight

    def set_weight(self, weight: Tensor) -> None:
        """Replace the weight."""
        is_learned = isinstance(self.weight, nn.Parameter)
        setattr(self._module, self._leaf, nn.Parameter(weight) if is_learned else weight)


class WeightLoader:
    """Fills the weights of a model on one device, by their names in the checkpoint."""

    def __init__(
        self, targets: Mapping[str, WeightTarget], device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self._targets = targets
        self._device = torch.device(device)
        self._dtype = dtype
        self._filled: set[str] = set()
        self._value_ranges: dict[str, Tensor] = {}

    def copy_shards(self, folder: Path, shards: tuple[Shard, ...]) -> dict[str, str]:
        """Copy the used weights of all files; return the SHA-256 of each by name."""
        with ThreadPoolExecutor(min(PARALLEL_FILES, len(shards)), "load") as pool:
            digests = list(pool.map(lambda shard: self.copy_shard(folder, shard), shards))
        return {shard.name: digest for shard, digest in zip(shards, digests, strict=True)}

    def copy_shard(self, folder: Path, shard: Shard) -> str:
        """Copy the used weights of a file; return its SHA-256. Raises ModelUnusable."""
        path, digest = folder / shard.name, hashlib.sha256()
        staging_U = _staging_buffer(self._device)
        try:
            with path.open("rb") as file:
                digest.update(file.read(shard.data_offset))
                for name, entry in shard.tensors.items():
                    self._copy_tensor(
                        name, entry, _read_pieces(file, entry.nbytes, staging_U, digest)
                    )
        except EOFError as error:
            raise ModelUnusable(f"{path}: truncated while it was read") from error
        except OSError as error:
            raise ModelUnusable(f"{path}: cannot be read: {error.strerror}") from error
        return digest.hexdigest()

    def set_weight(self, name: str, weight: Tensor) -> None:
        """Set a weight of the model, unchanged."""
        self._targets[name].set_weight(weight)
        self._filled.add(name)
        if name not in self._value_ranges:
            self._track_range(name, weight)

    def complete(self) -> None:
        """Check the copied weights, and fill with zeros those that the checkpoint may lack.

        Raises ModelUnusable with the first weight that is NaN or infinite in its new type.
        """
        self._check_finite()
        for name in self._targets.keys() - self._filled:
            empty = self._targets[name].weight
            dtype = self.target_dtype(empty.dtype)
            self.set_weight(name, torch.zeros(empty.shape, dtype=dtype, device=self._device))

    def target_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the type of a weight in the model: integers keep theirs."""
        return self._dtype if dtype.is_floating_point else dtype

    def _copy_tensor(self, name: str, entry: TensorEntry, pieces: Iterator[Tensor]) -> None:
        """Copy a tensor piece by piece, or skip one that the model does not use."""
        if name not in self._targets:
            deque(pieces, maxlen=0)
            return
        weight, first = self._empty_weight(entry), 0
        for piece_U in pieces:
            piece_N = piece_U.view(TORCH_DTYPES[entry.dtype])
            target_N = weight.view(-1)[first : first + len(piece_N)]
            # The type changes on the device: half the bytes are transferred.
            self._track_range(name, target_N.copy_(piece_N.to(self._device)))
            first += len(piece_N)
        self.set_weight(name, weight)

    def _empty_weight(self, entry: TensorEntry) -> Tensor:
        dtype = self.target_dtype(TORCH_DTYPES[entry.dtype])
        return torch.empty(entry.shape, dtype=dtype, device=self._device)

    def _track_range(self, name: str, copied: Tensor) -> None:
        """Add the span of a copied piece to one number, which shows any NaN or infinity."""
        if copied.is_floating_point() and copied.numel():
            least, most = copied.aminmax()  # unlike a sum in float32, without a second tensor
            span = most.float() - least.float()
            self._value_ranges[name] = (
                self._value_ranges[name] + span if name in self._value_ranges else span
            )

    def _check_finite(self) -> None:
        names = sorted(self._value_ranges)
        if not names:
            return
        is_finite_N = torch.stack([self._value_ranges[name] for name in names]).isfinite().tolist()
        non_finite = [
            name for name, is_finite in zip(names, is_finite_N, strict=True) if not is_finite
        ]
        if non_finite:
            more = f" (and {len(non_finite) - 1} more)" if len(non_finite) > 1 else ""
            dtype_name = str(self._dtype).removeprefix("torch.")
            remedy = ": set model.dtype to bfloat16" if self._dtype is torch.float16 else ""
            raise ModelUnusable(
                f"{non_finite[0]}{more} holds NaN or infinity as {dtype_name}{remedy}"
            )


def _staging_buffer(device: torch.device) -> Tensor:
    """Return a buffer to read into, pinned by the GPU that it is copied to."""
    if device.type != "cuda":
        return torch.empty(STAGING_BYTES, dtype=torch.uint8)
    with torch.cuda.device(device):
        return torch.empty(STAGING_BYTES, dtype=torch.uint8, pin_memory=True)


def _read_pieces(
    file: BufferedReader, nbytes: int, staging_U: Tensor, digest: "hashlib._Hash"
) -> Iterator[Tensor]:
    """Yield the next bytes of a file, hashed, in one reused buffer; raises EOFError."""
    for begin in range(0, nbytes, len(staging_U)):
        piece_U = staging_U[: min(len(staging_U), nbytes - begin)]
        view = piece_U.numpy().data
        if file.readinto(view) != len(view):
            raise EOFError
        digest.update(view)
        yield piece_U
