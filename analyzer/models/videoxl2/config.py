"""The shapes of a Video-XL-2 model, the only difference between the 8B model and nano."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from analyzer.models.checkpoint.keys import QUANTISED_REFUSAL
from analyzer.models.model_config import ParsedConfig

if TYPE_CHECKING:
    from transformers import Qwen2Config, SiglipVisionConfig

STILLS_PER_GROUP = 4
"""Dynamic Token Synthesis halves time twice: four stills become one group of visual tokens."""
DROPPED_LAYERS = 1
"""The method drops the last layer of the tower."""
GROUP_NORM = 32
"""Groups of channels that Dynamic Token Synthesis normalises."""
NAMED_TOWERS = {
    "siglip-so400m-patch14-384": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    }
}
"""The towers that a published configuration only names."""
PUBLISHED_CONFIGS: dict[str, dict[str, Any]] = {
    "BAAI/Video-XL-2": {
        "model_type": "qwen2",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "siglip-so400m-patch14-384",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
    }
}
"""The shapes in the config.json of a model on the hub, for use before it is fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoXL2Config:
    """Shapes of one model.

    `height` and `width` are the size of a still in pixels; the aspect ratio is not preserved.
    `grid` is the (rows, columns) that the tower's patches are resized to before synthesis,
    `pool` the side of the square of projected positions averaged into one visual token.
    `stem` is `patch` (SigLIP's embedding) or `conv` (a small convolutional one, which also gets
    the difference of each still from a running background). `tower["num_hidden_layers"]` is
    without the dropped layer. `previous` is how many chunks before its own a visual token
    attends to in full (published: 3). `cuda_dtype` is `auto` on CUDA: the reference evaluates in
    it, and the biases of Qwen2.5's keys are too large for bfloat16's eight bits.
    """

    cuda_dtype: ClassVar[Literal["float16", "bfloat16"]] = "float16"

    height: int
    width: int
    grid: tuple[int, int]
    pool: int
    stem: Literal["patch", "conv"]
    tower: dict[str, Any]
    language: dict[str, Any]
    previous: int = 3

    @property
    def tokens_per_group(self) -> int:
        """Return how many visual tokens a group of stills becomes."""
        return (self.grid[0] // self.pool) * (self.grid[1] // self.pool)

    @property
    def stills_per_group(self) -> int:
        """Return how many stills become one group of visual tokens."""
        return STILLS_PER_GROUP

    @property
    def vocabulary_size(self) -> int:
        """Return how many tokens the decoder knows."""
        return int(self.language["vocab_size"])

    @property
    def head_width(self) -> int:
        """Return the width of a head of the decoder."""
        language = self.language
        heads = language["num_attention_heads"]
        return int(language.get("head_dim") or language["hidden_size"] // heads)

    @property
    def pixel_channels(self) -> int:
        """Return the channels of a still as the stem takes it, with its difference or without."""
        return 6 if self.stem == "conv" else 3

    @property
    def is_trained_on_outlines(self) -> bool:
        """Return whether the model may know what "outlined in red" means.

        nano was not trained on it, nor was any other model with a convolutional stem.
        """
        return self.stem == "patch"

    @property
    def is_tied(self) -> bool:
        """Return whether the last layer of the decoder shares its embeddings."""
        return bool(self.language.get("tie_word_embeddings"))

    def tower_config(self) -> SiglipVisionConfig:
        """Return the configuration of the SigLIP tower, without its pooling head."""
        from transformers import SiglipVisionConfig  # noqa: PLC0415  loads torch

        return SiglipVisionConfig(**self.tower, vision_use_head=False)

    def language_config(self) -> Qwen2Config:
        """Return the configuration of the Qwen2 decoder."""
        from transformers import Qwen2Config  # noqa: PLC0415  loads torch

        return Qwen2Config(**self.language)

    @classmethod
    def read(cls, path: Path) -> VideoXL2Config:
        """Read a configuration of ours or a published one.

        Raises ModelUnusable with the file and the field.
        """
        return read_config(path).require_config(path)

    @classmethod
    def published(cls, name: str) -> Self:
        """Return the configuration of a model in `PUBLISHED_CONFIGS`."""
        return cls(**_PublishedConfig(PUBLISHED_CONFIGS[name]).shapes())

    def write(self, path: Path) -> None:
        """Write the configuration as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def read_config(path: Path) -> ParsedConfig[VideoXL2Config]:
    """Return the contents of a config.json, faults included."""
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return ParsedConfig(fields={}, problems=(f"cannot be read: {error}",))
    if not isinstance(fields, dict):
        return ParsedConfig(fields={}, problems=("has no fields",))
    if "tower" not in fields:
        return _PublishedConfig(fields).parse()
    try:
        config = VideoXL2Config(**{**fields, "grid": tuple(fields["grid"])})
    except (KeyError, TypeError) as error:
        reason = f"a field is missing or unknown: {error}"
        return ParsedConfig(fields=fields, problems=(reason,))
    return ParsedConfig(fields=fields, config=config)


class _PublishedConfig:
    """A config.json as LLaVA's training code saves it: the fields of Qwen2, and `mm_` ones.

    Only fields that change shapes or the computation are checked; `mismatches` collects faults.
    """

    def __init__(
        self, fields: Mapping[str, Any], key_prefix: str = "", mismatches: list[str] | None = None
    ) -> None:
        self.fields = fields
        self.key_prefix = key_prefix
        self.mismatches = list[str]() if mismatches is None else mismatches

    def parse(self) -> ParsedConfig[VideoXL2Config]:
        """Return the configuration, or all faults of the fields."""
        shapes = self.shapes()
        config = None if self.mismatches else VideoXL2Config(**shapes)
        return ParsedConfig(
            fields=self.fields,
            config=config,
            notes=tuple(self._notes()),
            mismatches=tuple(self.mismatches),
            problems=tuple(quantisation_problems(self.fields)),
        )

    def shapes(self) -> dict[str, Any]:
        """Return the arguments of a VideoXL2Config, valid only without mismatches."""
        self._require_value("model_type", "qwen2", "llava_qwen")
        self._require_value("mm_projector_type", "mlp2x_gelu")
        self._require_value("mm_spatial_pool_mode", "average", None)
        self._require_value("hidden_act", "silu", None)
        self._require_value("use_sliding_window", False, None)
        tower = self._tower()
        return {
            "height": tower["image_size"],
            "width": tower["image_size"],
            "grid": (24, 24),
            "pool": self._pool(),
            "stem": "patch",
            "tower": tower,
            "language": self._language(),
        }

    def _notes(self) -> Iterator[str]:
        """Yield the fields that the reference ignores, too: its constructor forces None."""
        rope_scaling = self.fields.get("rope_scaling")
        if rope_scaling is not None:
            yield f"rope_scaling is ignored, as the reference does (it is {rope_scaling!r})"

    def _tower(self) -> dict[str, int]:
        """Return the tower's shapes: a SigLIP `vision_config`, completed by the tower's name."""
        named = str(self.fields.get("mm_vision_tower")).rstrip("/").rpartition("/")[2]
        vision_fields = self.fields.get("vision_config")
        if vision_fields is None and named not in NAMED_TOWERS:
            self._refuse("mm_vision_tower", f"is {named!r}, not {', '.join(NAMED_TOWERS)}")
            return dict(NAMED_TOWERS["siglip-so400m-patch14-384"])
        vision_fields = {
            **NAMED_TOWERS.get(named, {}),
            **(vision_fields if isinstance(vision_fields, dict) else {}),
        }
        vision = _PublishedConfig(vision_fields, "vision_config.", self.mismatches)
        tower = {name: vision._size(name) for name in NAMED_TOWERS["siglip-so400m-patch14-384"]}
        tower["num_hidden_layers"] -= DROPPED_LAYERS
        width = tower["hidden_size"]
        if "hidden_size" in vision_fields and (
            width % GROUP_NORM or width % tower["num_attention_heads"]
        ):
            vision._refuse("hidden_size", f"is {width}, which does not divide")
        for name in ("mm_hidden_size", "mm_spatial_pool_out_channels"):
            if self.fields.get(name, width) != width:
                self._refuse(name, f"is {self.fields[name]}, the tower's width is {width}")
        return tower

    def _pool(self) -> int:
        name = "mm_spatial_pool_stride"
        return self._size(name) if name in self.fields else 2

    def _language(self) -> dict[str, Any]:
        sizes = (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
        )
        language: dict[str, Any] = {name: self._size(name) for name in sizes}
        if self.fields.get("head_dim") is not None:
            language["head_dim"] = self._size("head_dim")
        elif language["hidden_size"] % language["num_attention_heads"]:
            self._refuse("num_attention_heads", "does not divide hidden_size")
        if language["num_attention_heads"] % language["num_key_value_heads"]:
            self._refuse("num_key_value_heads", "does not divide num_attention_heads")
        language["rms_norm_eps"] = self._number(self.fields, "rms_norm_eps")
        language["rope_parameters"] = self._rope()
        language["tie_word_embeddings"] = bool(self.fields.get("tie_word_embeddings"))
        return language

    def _rope(self) -> dict[str, Any]:
        """Return RoPE's parameters, which newer files keep in a separate field."""
        rope_fields = self.fields.get("rope_parameters", self.fields)
        if (
            not isinstance(rope_fields, dict)
            or rope_fields.get("rope_type", "default") != "default"
        ):
            self._refuse("rope_parameters", "only rope_type `default` is known here")
            return {}
        return {"rope_type": "default", "rope_theta": self._number(rope_fields, "rope_theta")}

    def _require_value(self, name: str, *allowed: object) -> None:
        found = self.fields.get(name)
        if found not in allowed:
            wanted = " or ".join(str(each) for each in allowed if each is not None) or "none"
            self._refuse(name, f"is {found!r}, not {wanted}")

    def _size(self, name: str) -> int:
        """Return a size, or 1, which divides every other, if it is refused."""
        found = self.fields.get(name)
        if type(found) is not int or found < 1:
            self._refuse(name, f"is {found!r}, not a number from 1 on")
            return 1
        return found

    def _number(self, fields: Mapping[str, Any], name: str) -> float:
        found = fields.get(name)
        if not isinstance(found, int | float) or not found > 0:
            self._refuse(name, f"is {found!r}, not a number above 0")
            return 1.0
        return float(found)

    def _refuse(self, name: str, reason: str) -> None:
        self.mismatches.append(f"{self.key_prefix}{name} {reason}")


def quantisation_problems(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield a refusal for each field of quantised weights."""
    for name in ("quantization_config", "compression_config"):
        quantisation = fields.get(name)
        if quantisation is not None:
            method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
            yield f"{name} is {method or 'of no known kind'}: {QUANTISED_REFUSAL}"
