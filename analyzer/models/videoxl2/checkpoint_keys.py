"""The keys of a checkpoint: which the model needs, which the method never uses, which are wrong."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analyzer.models.checkpoint.shards import ITEM_BYTES, TensorEntry
from analyzer.models.videoxl2.config import QUANTISED_REFUSAL, VideoXL2Config

MAX_KEYS_NAMED = 5
"""How many keys of each kind an error names."""
VISION = "model.vision_tower.vision_tower.vision_model"
LM_HEAD = "lm_head.weight"
OPTIONAL = f"{VISION}.post_layernorm."
"""The norm behind the tower's last layer, which the method drops: it may be missing."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_QUANTISED_KEY = re.compile(
    r".*\.(qweight|qzeros|scales|g_idx|weight_packed|weight_scale(_inv|_2)?|weight_shape"
    r"|input_scale|SCB|weight\.(absmax|quant_map|quant_state\..*|nested_.*))"
)
"""What GPTQ, AWQ, compressed-tensors, FP8 and bitsandbytes call their parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedTensor:
    """One weight that a model has."""

    shape: tuple[int, ...]
    is_float: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCheck:
    """How the keys of a checkpoint compare with those of a model, sorted by name.

    `unused` has the kind of each key that the method never uses; `misshapen` and `quantised`
    say of each key what it is.
    """

    used: int
    unused: Mapping[str, str]
    missing: Sequence[str]
    unexpected: Sequence[str]
    misshapen: Sequence[str]
    quantised: Sequence[str]

    @property
    def note(self) -> str | None:
        """Say in one line what is accepted and not used; None where nothing is."""
        if not self.unused:
            return None
        kinds = Counter(self.unused.values())
        count = "1 key is" if len(self.unused) == 1 else f"{len(self.unused)} keys are"
        summary = ", ".join(f"{kind} ({number})" for kind, number in sorted(kinds.items()))
        return f"{count} not used: {summary}"

    @property
    def problems(self) -> list[str]:
        """Say what is wrong, one kind of fault each; nothing where the checkpoint fits."""
        quantised = _summarise("quantised", self.quantised)
        return [
            *_summarise("missing", self.missing),
            *_summarise("of another shape", self.misshapen),
            *(f"{each}: {QUANTISED_REFUSAL}" for each in quantised),
            *_summarise("not expected", self.unexpected),
        ]


def check_keys(
    expected: Mapping[str, ExpectedTensor], found: Mapping[str, TensorEntry], config: VideoXL2Config
) -> KeyCheck:
    """Compare the keys of a checkpoint with what a model of this configuration needs."""
    extra = sorted(found.keys() - expected.keys())
    unused = {key: kind for key in extra if (kind := unused_kind(key, config))}
    quantised = [key for key in sorted(found) if _is_quantised(key, expected, found[key])]
    shared = [key for key in sorted(expected.keys() & found.keys()) if key not in quantised]
    missing = sorted(key for key in expected.keys() - found.keys() if OPTIONAL not in key)
    return KeyCheck(
        used=len(expected.keys() & found.keys()),
        unused=unused,
        missing=missing,
        unexpected=[key for key in extra if key not in unused and key not in quantised],
        misshapen=[said for key in shared if (said := _mismatch(key, expected[key], found[key]))],
        quantised=[f"{key} is {found[key].dtype}" for key in quantised],
    )


def unused_kind(key: str, config: VideoXL2Config) -> str | None:
    """Return what a key is that the method never uses; None for every other key."""
    dropped_layer = config.tower["num_hidden_layers"]
    kinds = {
        "text_mlp": r"model\.text_mlp\..*",
        "image_newline": r"model\.image_newline",
        "vision_resampler": r"model\.vision_resampler\..*",
        "rotary inv_freq": r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
        "position_ids": rf"{VISION}\.embeddings\.position_ids",
        "pooling head of the tower": rf"{VISION}\.head\..*",
        "dropped last layer of the tower": rf"{VISION}\.encoder\.layers\.{dropped_layer}\..*",
    }
    if config.is_tied and key == LM_HEAD:
        return "lm_head of tied embeddings"
    return next((kind for kind, keys in kinds.items() if re.fullmatch(keys, key)), None)


def used_parameters(found: Mapping[str, TensorEntry], config: VideoXL2Config | None) -> int:
    """Return how many numbers of a checkpoint the method uses, as far as that is known."""
    return sum(
        each.element_count
        for key, each in found.items()
        if config is None or not unused_kind(key, config)
    )


def _is_quantised(key: str, expected: Mapping[str, ExpectedTensor], entry: TensorEntry) -> bool:
    if key in expected:
        return expected[key].is_float and entry.dtype not in FLOATS
    return _QUANTISED_KEY.fullmatch(key) is not None


def _mismatch(key: str, expected: ExpectedTensor, found: TensorEntry) -> str | None:
    if found.shape != expected.shape:
        return f"{key} is {list(found.shape)}, the configuration says {list(expected.shape)}"
    if not expected.is_float and (found.dtype in FLOATS or found.dtype not in ITEM_BYTES):
        return f"{key} is {found.dtype}, not whole numbers"
    return None


def _summarise(what: str, keys: Iterable[str]) -> list[str]:
    """Count keys and name the first, in at most one text."""
    listed = list(keys)
    more = ", ..." if len(listed) > MAX_KEYS_NAMED else ""
    return [f"{len(listed)} {what} ({', '.join(listed[:MAX_KEYS_NAMED])}{more})"] if listed else []
