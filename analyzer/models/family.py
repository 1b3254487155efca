"""What the rest of the analyzer needs to know of a model family.

A family is a folder beside this file; `families` lists them. Positions are plain integers, one
per token and counted along the stream: a family's decoder maps them to rotary angles.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from analyzer.models.model_config import Config, ParsedConfig, Prompt

if TYPE_CHECKING:
    from analyzer.models.video_model import VideoModel


class ModelFamily(Protocol[Config]):
    """One kind of model. Reading files and prompts loads no torch; `build_meta_model` does."""

    @property
    def prompt(self) -> Prompt:
        """Return the texts around the stills."""

    @property
    def published(self) -> Collection[str]:
        """Return the names of models whose shapes are known before they are fetched."""

    def read_config(self, path: Path) -> ParsedConfig[Config]:
        """Return the contents of a config.json, faults included."""

    def published_config(self, name: str) -> Config:
        """Return the configuration of a model in `published`, without its files."""

    def build_meta_model(self, config: Config) -> VideoModel:
        """Return a model on the meta device, ready for `load_weights`."""

    def unused_kind(self, key: str, config: Config) -> str | None:
        """Return the kind of a checkpoint key that the model never uses, else None."""
