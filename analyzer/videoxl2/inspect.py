"""What would load of a model, what would be refused and why, from its small files and heads."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from analyzer.errors import ModelUnusable
from analyzer.videoxl2.config import VideoXL2Config, read_config
from analyzer.videoxl2.keys import KeyCheck, check_keys, used_parameters
from analyzer.videoxl2.prompt import NO, YES
from analyzer.videoxl2.shards import Shard, scan_shards, tensors_of
from analyzer.videoxl2.snapshot import CONFIG, folder_of, is_on_the_hub
from analyzer.videoxl2.tokenizer import SINGLE, read_tokenizer

FIELDS = (
    "model_type",
    "architectures",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
    "rope_theta",
    "rope_scaling",
    "mm_vision_tower",
    "mm_projector_type",
    "mm_spatial_pool_mode",
    "mm_spatial_pool_stride",
    "torch_dtype",
    "dtype",
    "transformers_version",
)
"""The fields of a config.json that say which model it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What is known of a model without its weights; it loads where there are no problems.

    `notes` say what is accepted and passed over, `dtypes` counts numbers by type, `tokens` has
    the ids of the tokens that every prompt needs, `nbytes_read` is what an inspection over the
    network read. `keys` is None where no configuration says what is needed.
    """

    name: str
    commit: str | None = None
    problems: Sequence[str]
    notes: Sequence[str]
    fields: Mapping[str, Any]
    shards: int
    nbytes: int
    parameters: int
    dtypes: Mapping[str, int]
    keys: KeyCheck | None
    vocabulary: int | None
    tokens: Mapping[str, Sequence[int]]
    nbytes_read: int | None = None

    @property
    def loads(self) -> bool:
        """Whether the model would load."""
        return not self.problems


def inspect(name: str, revision: str | None = None) -> Inspection:
    """Inspect `nano`, a folder, or a repository on the hub, of which nothing is kept.

    Raises ModelUnusable and NotFetched where there is nothing to look at.
    """
    if not is_on_the_hub(name):
        return inspect_folder(folder_of(name, revision), name)
    from analyzer.videoxl2 import hub  # noqa: PLC0415  takes half a second

    with hub.fetch_heads(name, revision or hub.MAIN) as heads:
        found = inspect_folder(heads.folder, name)
    return replace(found, commit=heads.commit, nbytes_read=heads.nbytes)


def inspect_folder(folder: Path, name: str) -> Inspection:
    """Inspect the files in a folder, of which the shards may be heads alone."""
    if not (folder / CONFIG).is_file():
        raise ModelUnusable(f"{name}: no {CONFIG} in it")
    reading = read_config(folder / CONFIG)
    tokenizer, unread = _tokenizer(folder, reading.config)
    shards, damaged = scan_shards(folder)
    found = tensors_of(shards)
    keys = _keys(reading.config, shards, is_whole=not damaged)
    problems = [f"{CONFIG}: {each}" for each in (*reading.problems, *reading.other)]
    problems += [each.replace(f"{folder}/", "") for each in (*unread, *damaged)]
    problems += [f"weights: {each}" for each in (keys.problems if keys else [])]
    dtypes = Counter[str]()
    for entry in found.values():
        dtypes[entry.dtype] += entry.numbers
    return Inspection(
        name=name,
        problems=[each.replace(str(folder), name) for each in problems],
        notes=[*reading.notes, *([keys.note] if keys and keys.note else [])],
        fields={field: reading.fields[field] for field in FIELDS if field in reading.fields},
        shards=len(shards),
        nbytes=sum(shard.nbytes for shard in shards),
        parameters=used_parameters(found, reading.config),
        dtypes=dict(dtypes.most_common()),
        keys=keys,
        vocabulary=tokenizer.get_vocab_size() if tokenizer else None,
        tokens=_tokens(tokenizer) if tokenizer else {},
    )


def _keys(
    config: VideoXL2Config | None, shards: Sequence[Shard], is_whole: bool
) -> KeyCheck | None:
    """Compare the keys; where a shard cannot be read, none is called missing."""
    if config is None:
        return None
    from analyzer.videoxl2.checkpoint import blank, wanted_tensors  # noqa: PLC0415  loads torch

    check = check_keys(wanted_tensors(blank(config)), tensors_of(shards), config)
    return check if is_whole else replace(check, missing=[])


def _tokenizer(
    folder: Path, config: VideoXL2Config | None
) -> tuple[Tokenizer | None, Sequence[str]]:
    try:
        return read_tokenizer(folder, config.language["vocab_size"] if config else None), []
    except ModelUnusable as error:
        return None, [str(error)]


def _tokens(tokenizer: Tokenizer) -> dict[str, list[int]]:
    return {
        word: tokenizer.encode(word, add_special_tokens=False).ids for word in (*SINGLE, YES, NO)
    }
