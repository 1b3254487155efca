"""Whether a model would load, and why not, from its small files and its shards' headers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from analyzer.errors import ModelUnusable
from analyzer.models.checkpoint.keys import KeyCheck, used_parameters
from analyzer.models.checkpoint.shards import Shard, scan_shards, tensors_of
from analyzer.models.families import FAMILY
from analyzer.models.files import CONFIG_FILE, is_hub_name, model_folder
from analyzer.models.tokenizer import SINGLE_TOKENS, read_tokenizer, token_ids
from analyzer.models.videoxl2.config import VideoXL2Config

MODEL_FIELDS = (
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
"""The fields of a config.json that identify the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInspection:
    """A report on a model without its weights; the model is loadable if there are no problems.

    `notes` name what is ignored, `dtypes` counts numbers by type, `tokens` has the ids of the
    tokens that every prompt needs, `nbytes_read` counts bytes read over the network. `keys` is
    None without a valid configuration.
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
    def is_loadable(self) -> bool:
        """Return whether the model would load."""
        return not self.problems


def inspect(name: str, revision: str | None = None) -> ModelInspection:
    """Inspect `nano`, a folder, or a repository on the hub, of which no file is kept.

    Raises ModelUnusable and NotFetched if there is no model to inspect.
    """
    if not is_hub_name(name):
        return inspect_folder(model_folder(name, revision), name)
    from analyzer.models import hub  # noqa: PLC0415  takes half a second

    with hub.fetch_headers(name, revision or hub.DEFAULT_REVISION) as headers:
        found = inspect_folder(headers.folder, name)
    return replace(found, commit=headers.commit, nbytes_read=headers.nbytes)


def inspect_folder(folder: Path, name: str) -> ModelInspection:
    """Inspect the files in a folder; shards may consist of their headers alone."""
    if not (folder / CONFIG_FILE).is_file():
        raise ModelUnusable(f"{name}: no {CONFIG_FILE} in it")
    parsed = FAMILY.read_config(folder / CONFIG_FILE)
    tokenizer, tokenizer_problems = _read_tokenizer(folder, parsed.config)
    shards, shard_problems = scan_shards(folder)
    found = tensors_of(shards)
    keys = _check_keys(parsed.config, shards, is_whole=not shard_problems)
    problems = [f"{CONFIG_FILE}: {each}" for each in (*parsed.problems, *parsed.mismatches)]
    problems += [each.replace(f"{folder}/", "") for each in (*tokenizer_problems, *shard_problems)]
    problems += [f"weights: {each}" for each in (keys.problems if keys else [])]
    config, dtypes = parsed.config, Counter[str]()

    def unused_kind(key: str) -> str | None:
        return FAMILY.unused_kind(key, config) if config else None

    for entry in found.values():
        dtypes[entry.dtype] += entry.element_count
    return ModelInspection(
        name=name,
        problems=[each.replace(str(folder), name) for each in problems],
        notes=[*parsed.notes, *([keys.note] if keys and keys.note else [])],
        fields={field: parsed.fields[field] for field in MODEL_FIELDS if field in parsed.fields},
        shards=len(shards),
        nbytes=sum(shard.nbytes for shard in shards),
        parameters=used_parameters(found, unused_kind),
        dtypes=dict(dtypes.most_common()),
        keys=keys,
        vocabulary=tokenizer.get_vocab_size() if tokenizer else None,
        tokens=_required_tokens(tokenizer) if tokenizer else {},
    )


def _check_keys(
    config: VideoXL2Config | None, shards: Sequence[Shard], is_whole: bool
) -> KeyCheck | None:
    """Compare the keys; none is reported missing if a shard cannot be read."""
    if config is None:
        return None
    from analyzer.models.loading import compare_keys  # noqa: PLC0415  loads torch

    check = compare_keys(FAMILY.build_meta_model(config), tensors_of(shards))
    return check if is_whole else replace(check, missing=[])


def _read_tokenizer(
    folder: Path, config: VideoXL2Config | None
) -> tuple[Tokenizer | None, Sequence[str]]:
    try:
        return read_tokenizer(folder, config.vocabulary_size if config else None), []
    except ModelUnusable as error:
        return None, [str(error)]


def _required_tokens(tokenizer: Tokenizer) -> dict[str, list[int]]:
    words = *SINGLE_TOKENS, FAMILY.prompt.YES, FAMILY.prompt.NO
    return {word: token_ids(tokenizer, word) for word in words}
