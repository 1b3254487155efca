"""The headers of safetensors files, one file or several with an index.

A file is 8 bytes (the length of the header, little-endian), the header (JSON), and the tensors
without a gap (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

from analyzer.errors import ModelUnusable

INDEX_FILE = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""No reader of the format accepts a longer one."""
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
"""Bytes of one number, for each supported type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor in the header of a file; `dtype` is the name in the format (BF16)."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def element_count(self) -> int:
        """Return how many numbers the tensor has."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of weights: its name, the offset of its data, and its tensors in file order."""

    name: str
    data_offset: int
    tensors: Mapping[str, TensorEntry]

    @property
    def nbytes(self) -> int:
        """Return the bytes of the whole file."""
        return self.data_offset + sum(entry.nbytes for entry in self.tensors.values())


def find_shards(folder: Path) -> list[Shard]:
    """Return the safetensors files of a model, those of its index if there is one.

    Reads headers only. Raises ModelUnusable with every missing or incomplete file.
    """
    shards, problems = scan_shards(folder)
    if problems:
        raise ModelUnusable("; ".join(problems))
    return shards


def scan_shards(folder: Path) -> tuple[list[Shard], list[str]]:
    """Return the complete files of a model, and the faults of the others."""
    shards, problems = list[Shard](), list[str]()
    try:
        paths = _shard_paths(folder)
    except ModelUnusable as error:
        return [], [str(error)]
    for path in paths:
        try:
            shards.append(_read_header(path))
        except ModelUnusable as error:
            problems.append(str(error))
    return shards, problems + _duplicate_tensors(folder, shards)


def index_names(index: Path) -> list[str]:
    """Return the names of the files that an index lists; raises ModelUnusable."""
    try:
        names = json.loads(index.read_bytes())["weight_map"].values()
        return sorted({str(name) for name in names})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnusable(f"{index}: cannot be read: {error!r}") from error


def tensors_of(shards: Iterable[Shard]) -> dict[str, TensorEntry]:
    """Return the tensors of several files by name."""
    return {name: entry for shard in shards for name, entry in shard.tensors.items()}


def header_length(begin: bytes) -> int:
    """Return the bytes of a file before its tensors; raises ValueError."""
    length = int.from_bytes(begin[:LENGTH_BYTES], "little")
    if len(begin) < LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:
        raise ValueError(f"the header cannot be {length} bytes long")
    return LENGTH_BYTES + length


def parse_header(name: str, raw: bytes) -> Shard:
    """Return the parsed header of a file (`raw` ends with it); raises ValueError."""
    fields = json.loads(raw[LENGTH_BYTES:])
    try:
        fields.pop("__metadata__", None)
        spans = sorted((tuple(each["data_offsets"]), key) for key, each in fields.items())
        tensors = {key: _entry(fields[key], end - begin) for (begin, end), key in spans}
        ends = [(0, 0), *(span for span, _ in spans)]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the header does not follow the format: {error!r}") from error
    if any(previous[1] != following[0] for previous, following in pairwise(ends)):
        raise ValueError("its tensors overlap, or leave a gap")
    return Shard(name=name, data_offset=len(raw), tensors=tensors)


def _entry(fields: Mapping[str, object], nbytes: int) -> TensorEntry:
    dtype, shape = fields["dtype"], fields["shape"]
    if not isinstance(shape, list) or any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"{shape} is no shape")
    entry = TensorEntry(dtype=str(dtype), shape=tuple(shape), nbytes=nbytes)
    wanted = entry.element_count * ITEM_BYTES[entry.dtype] if entry.dtype in ITEM_BYTES else nbytes
    if nbytes != wanted or nbytes < 0:
        raise ValueError(f"{nbytes} bytes for {shape} of {dtype}")
    return entry


def _read_header(path: Path) -> Shard:
    try:
        with path.open("rb") as file:
            begin = file.read(LENGTH_BYTES)
            shard = parse_header(path.name, begin + file.read(header_length(begin) - LENGTH_BYTES))
        size = path.stat().st_size
        if size != shard.nbytes:
            raise ValueError(f"{size} bytes, its header says {shard.nbytes}")
    except ValueError as error:
        reason = f"cut off or damaged ({error}): fetch or copy it again"
        raise ModelUnusable(f"{path}: {reason}") from error
    except OSError as error:
        raise ModelUnusable(f"{path}: cannot be read: {error.strerror}") from error
    return shard


def _duplicate_tensors(folder: Path, shards: list[Shard]) -> list[str]:
    first, problems = dict[str, str](), list[str]()
    for shard in shards:
        for key in shard.tensors.keys() & first.keys():
            problems.append(f"{folder / shard.name}: holds {key}, and so does {first[key]}")
        first |= dict.fromkeys(shard.tensors, shard.name)
    return problems


def _shard_paths(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    if index.is_file():
        paths = [_shard_path(index, name) for name in index_names(index)]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            reason = "; ".join(f"{path}: missing, and {INDEX_FILE} names it" for path in missing)
            raise ModelUnusable(reason)
    else:
        paths = sorted(folder.glob("*.safetensors"))
        if len(paths) > 1:
            raise ModelUnusable(
                f"{index}: missing: it says how {len(paths)} shards belong together"
            )
    if not paths:
        raise ModelUnusable(_no_weights_reason(folder))
    return paths


def _shard_path(index: Path, name: str) -> Path:
    """Return the path of a shard, which must be beside the index."""
    if name != Path(name).name or not name.endswith(".safetensors"):
        raise ModelUnusable(f"{index}: {name!r} is not the name of a safetensors file beside it")
    return index.parent / name


def _no_weights_reason(folder: Path) -> str:
    pickles = [path.name for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    if pickles:
        reason = "a pickle, which can run any code, is never loaded: save it as safetensors"
        return f"{folder / pickles[0]}: {reason}"
    return f"{folder}: no *.safetensors in it"
