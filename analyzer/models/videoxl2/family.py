"""Video-XL-2 as a family."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from analyzer.models.model_config import ParsedConfig, Prompt
from analyzer.models.videoxl2 import checkpoint_keys
from analyzer.models.videoxl2 import prompt as texts
from analyzer.models.videoxl2.config import PUBLISHED_CONFIGS, VideoXL2Config, read_config

if TYPE_CHECKING:
    from analyzer.models.videoxl2.model import VideoXL2


class VideoXL2Family:
    """The 8B Video-XL-2, nano, and what is published in their format."""

    prompt: Prompt = texts
    published: Collection[str] = PUBLISHED_CONFIGS

    def read_config(self, path: Path) -> ParsedConfig[VideoXL2Config]:
        """Return the contents of a config.json, faults included."""
        return read_config(path)

    def published_config(self, name: str) -> VideoXL2Config:
        """Return the configuration of a model in `published`, without its files."""
        return VideoXL2Config.published(name)

    def build_meta_model(self, config: VideoXL2Config) -> VideoXL2:
        """Return a model on the meta device, ready for `load_weights`."""
        from analyzer.models.videoxl2.model import build_meta_model  # noqa: PLC0415  loads torch

        return build_meta_model(config)

    def unused_kind(self, key: str, config: VideoXL2Config) -> str | None:
        """Return the kind of a checkpoint key that the model never uses, else None."""
        return checkpoint_keys.unused_kind(key, config)
