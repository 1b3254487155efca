"""Weights on disk: safetensors files, one or several with an index, mapped into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safetensors import SafetensorError, safe_open

from analyzer.errors import ModelUnusable

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def find_shards(folder: Path) -> list[Path]:
    """Return the safetensors files of a model; the index says which, if there is one.

    Raises ModelUnusable where one is missing or not whole, or the index leads out of the folder.
    """
    index = folder / INDEX
    if index.is_file():
        shards = [_inside(index, name) for name in _named(index)]
    else:
        shards = sorted(folder.glob("*.safetensors"))
        if len(shards) > 1:
            raise ModelUnusable(
                f"{index}: missing: it says how {len(shards)} shards belong together"
            )
    if not shards:
        raise ModelUnusable(_nothing(folder))
    for shard in shards:
        keys_of(shard)
    return shards


def keys_of(shard: Path) -> list[str]:
    """Return the names of the tensors in a shard, of which only the head is read."""
    with _open(shard, "np") as file:
        return list(file.keys())


class Weights(Mapping[str, "Tensor"]):
    """The tensors of several shards by name.

    A shard is mapped while one of its tensors is read: what was read and is not held any
    longer takes no memory.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards: dict[str, Path] = {}
        for shard in shards:
            for key in keys_of(shard):
                if key in self._shards:
                    first = self._shards[key].name
                    raise ModelUnusable(f"{shard}: holds {key}, and so does {first}")
                self._shards[key] = shard

    def __getitem__(self, key: str) -> Tensor:
        """Return a tensor whose bytes stay in the file until they are looked at."""
        with _open(self._shards[key], "pt") as file:
            tensor: Tensor = file.get_tensor(key)
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)


def _open(shard: Path, framework: Literal["np", "pt"]) -> safe_open:
    try:
        return safe_open(shard, framework=framework)
    except SafetensorError as error:
        told = f"cut off or damaged ({error}): fetch or copy it again"
        raise ModelUnusable(f"{shard}: {told}") from error
    except OSError as error:
        raise ModelUnusable(f"{shard}: cannot be read: {error}") from error


def _named(index: Path) -> list[str]:
    """Return the shards that an index names."""
    try:
        names = json.loads(index.read_bytes())["weight_map"].values()
        return sorted({str(name) for name in names})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnusable(f"{index}: cannot be read: {error!r}") from error


def _inside(index: Path, name: str) -> Path:
    """Return where a shard lies, which is beside the index and nowhere else."""
    if name != Path(name).name or not name.endswith(".safetensors"):
        raise ModelUnusable(f"{index}: {name!r} is not the name of a safetensors file beside it")
    if not (index.parent / name).is_file():
        raise ModelUnusable(f"{index.parent / name}: missing, and {INDEX} names it")
    return index.parent / name


def _nothing(folder: Path) -> str:
    pickles = [path.name for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    if pickles:
        told = "a pickle, which can run any code, is never loaded: save it as safetensors"
        return f"{folder / pickles[0]}: {told}"
    return f"{folder}: no *.safetensors in it"
