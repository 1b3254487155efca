"""Weights from files into a model: each file is read once, hashed and checked on the way.

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
from analyzer.videoxl2.shards import Shard, TensorEntry

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
}
STAGE = 8 * 2**20
"""Bytes that are read, hashed and copied at a time; through pinned memory to a card."""
AT_ONCE = 4
"""Files that are read at a time: SHA-256 takes longer than the copy."""


class Slot:
    """Where one weight of a model is kept: a module, and the name that it has there."""

    def __init__(self, model: nn.Module, key: str) -> None:
        path, _, self._leaf = key.rpartition(".")
        self._module = model.get_submodule(path)

    @property
    def weight(self) -> Tensor:
        """The weight that is there now."""
        weight: Tensor = getattr(self._module, self._leaf)
        return weight

    def fill(self, weight: Tensor) -> None:
        """Put a weight in the place of the one that is there."""
        is_learned = isinstance(self.weight, nn.Parameter)
        setattr(self._module, self._leaf, nn.Parameter(weight) if is_learned else weight)


class Loader:
    """Fills the slots of a model, by the names that the checkpoint has, on one device."""

    def __init__(
        self, slots: Mapping[str, Slot], device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self._slots = slots
        self._device = torch.device(device)
        self._dtype = dtype
        self._filled: set[str] = set()
        self._spans: dict[str, Tensor] = {}

    def copy_all(self, folder: Path, shards: tuple[Shard, ...]) -> dict[str, str]:
        """Copy what the model uses of all files; return the SHA-256 of each by name."""
        with ThreadPoolExecutor(min(AT_ONCE, len(shards)), "load") as pool:
            digests = list(pool.map(lambda shard: self.copy(folder, shard), shards))
        return {shard.name: digest for shard, digest in zip(shards, digests, strict=True)}

    def copy(self, folder: Path, shard: Shard) -> str:
        """Copy what the model uses of a file; return its SHA-256. Raises ModelUnusable."""
        path, digest = folder / shard.name, hashlib.sha256()
        stage_U = _stage(self._device)
        try:
            with path.open("rb") as file:
                digest.update(file.read(shard.begin))
                for name, entry in shard.tensors.items():
                    self._take(name, entry, _pieces(file, entry.nbytes, stage_U, digest))
        except EOFError as error:
            raise ModelUnusable(f"{path}: cut off while it was read") from error
        except OSError as error:
            raise ModelUnusable(f"{path}: cannot be read: {error.strerror}") from error
        return digest.hexdigest()

    def fill(self, name: str, weight: Tensor) -> None:
        """Put a weight into its slot, as it is."""
        self._slots[name].fill(weight)
        self._filled.add(name)
        if name not in self._spans:
            self._watch(name, weight)

    def finish(self) -> None:
        """Check what was copied, and fill with zeros what the checkpoint may leave out.

        Raises ModelUnusable with the first weight that is NaN or infinite, as it was copied.
        """
        self._check_finite()
        for name in self._slots.keys() - self._filled:
            empty = self._slots[name].weight
            kept = self.kept_as(empty.dtype)
            self.fill(name, torch.zeros(empty.shape, dtype=kept, device=self._device))

    def kept_as(self, dtype: torch.dtype) -> torch.dtype:
        """Return the type in which a weight of this one is kept: counters keep theirs."""
        return self._dtype if dtype.is_floating_point else dtype

    def _take(self, name: str, entry: TensorEntry, pieces: Iterator[Tensor]) -> None:
        """Copy a tensor piece by piece, or read past one that the model does not use."""
        if name not in self._slots:
            deque(pieces, maxlen=0)
            return
        weight, first = self._empty(entry), 0
        for piece_U in pieces:
            piece_N = piece_U.view(DTYPES[entry.dtype])
            into_N = weight.view(-1)[first : first + len(piece_N)]
            # The type changes where the weight is: half the bytes cross to a card.
            self._watch(name, into_N.copy_(piece_N.to(self._device)))
            first += len(piece_N)
        self.fill(name, weight)

    def _empty(self, entry: TensorEntry) -> Tensor:
        kept = self.kept_as(DTYPES[entry.dtype])
        return torch.empty(entry.shape, dtype=kept, device=self._device)

    def _watch(self, name: str, copied: Tensor) -> None:
        """Note the span of what was copied: NaN and infinity show in it, and it is one number."""
        if copied.is_floating_point() and copied.numel():
            least, most = copied.aminmax()  # unlike a sum in float32, without a second tensor
            span = most.float() - least.float()
            self._spans[name] = self._spans[name] + span if name in self._spans else span

    def _check_finite(self) -> None:
        names = sorted(self._spans)
        if not names:
            return
        is_finite_N = torch.stack([self._spans[name] for name in names]).isfinite().tolist()
        wrong = [name for name, is_finite in zip(names, is_finite_N, strict=True) if not is_finite]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            word = str(self._dtype).removeprefix("torch.")
            do = ": set model.dtype to bfloat16" if self._dtype is torch.float16 else ""
            raise ModelUnusable(f"{wrong[0]}{more} holds NaN or infinity as {word}{do}")


def _stage(device: torch.device) -> Tensor:
    """Return a buffer to read into, pinned by the very card that it is copied to."""
    if device.type != "cuda":
        return torch.empty(STAGE, dtype=torch.uint8)
    with torch.cuda.device(device):
        return torch.empty(STAGE, dtype=torch.uint8, pin_memory=True)


def _pieces(
    file: BufferedReader, nbytes: int, stage_U: Tensor, digest: "hashlib._Hash"
) -> Iterator[Tensor]:
    """Yield the next bytes of a file, hashed, each in place of the last; raises EOFError."""
    for begin in range(0, nbytes, len(stage_U)):
        piece_U = stage_U[: min(len(stage_U), nbytes - begin)]
        view = piece_U.numpy().data
        if file.readinto(view) != len(view):
            raise EOFError
        digest.update(view)
        yield piece_U
