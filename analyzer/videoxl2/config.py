"""The numbers that make a Video-XL-2 model; the 8B model and nano differ here only."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from transformers import Qwen2Config, SiglipVisionConfig

STILLS_PER_GROUP = 4
"""Dynamic Token Synthesis halves time twice: four stills become one set of visual tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoXL2Config:
    """Shapes of one model.

    `height` and `width` are the still as the tower sees it, in pixels; aspect is not kept.
    `grid` is the (rows, columns) that the tower's patches are resized to before synthesis,
    `pool` the side of the square of projected positions averaged into one visual token.
    `stem` is `patch` (SigLIP's own embedding) or `conv` (a small convolutional one, which
    also sees the difference of each still from a running background).
    `tower["num_hidden_layers"]` counts the layers kept, without the one the method drops.
    `previous` is how many chunks before its own a visual token sees in full (published: 3).
    """

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
        """How many visual tokens stand for four stills."""
        return (self.grid[0] // self.pool) * (self.grid[1] // self.pool)

    def tower_config(self) -> SiglipVisionConfig:
        """Return the configuration of the SigLIP tower, without its pooling head."""
        return SiglipVisionConfig(**self.tower, vision_use_head=False)

    def language_config(self) -> Qwen2Config:
        """Return the configuration of the Qwen2 decoder."""
        return Qwen2Config(**self.language)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a configuration that `write` wrote."""
        fields = json.loads(path.read_text())
        return cls(**{**fields, "grid": tuple(fields["grid"])})

    def write(self, path: Path) -> None:
        """Write the configuration as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
