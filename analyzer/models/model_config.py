"""What every family's configuration and prompt provide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from analyzer.errors import ModelUnusable

Config = TypeVar("Config")


class ModelConfig(Protocol):
    """The shapes of a model."""

    @property
    def height(self) -> int:
        """Return the height of a still in pixels."""

    @property
    def width(self) -> int:
        """Return the width of a still in pixels."""

    @property
    def previous(self) -> int:
        """Return how many chunks before its own a visual token attends to in full."""

    @property
    def is_trained_on_outlines(self) -> bool:
        """Return whether the model may know what "outlined in red" means."""

    @property
    def tokens_per_group(self) -> int:
        """Return how many visual tokens a group of stills becomes."""

    @property
    def stills_per_group(self) -> int:
        """Return how many stills become one group of visual tokens."""


class Prompt(Protocol):
    """The texts around the stills. `YES` and `NO` begin with tokens that differ."""

    PREFIX: str
    YES: str
    NO: str
    END: str

    def timestamp(self, seconds: float, /) -> str:
        """Return the text in front of a group whose first still is at `seconds`."""

    def last_timestamp(self, latest: timedelta, /) -> str:
        """Return the longest timestamp before `latest`."""

    def question_text(self, ask: str, /) -> str:
        """Return the text after the stills that asks a question."""

    def times_in_seconds(self, ask: str, /) -> str:
        """Return a question with each time in the unit of the timestamps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedConfig(Generic[Config]):
    """The contents of a config.json, and every reason why the model cannot be used.

    `notes` name ignored fields, `mismatches` the fields of another kind of model, `problems`
    all other faults. Without `config` the shapes are unknown.
    """

    fields: Mapping[str, Any]
    config: Config | None = None
    notes: tuple[str, ...] = ()
    mismatches: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def require_config(self, path: Path) -> Config:
        """Return the configuration; raises ModelUnusable with the file and all reasons."""
        if self.config is None or self.problems:
            another = f"{'; '.join(self.mismatches)}: this is the config of another model"
            reasons = [*self.problems, *([another] if self.mismatches else [])]
            raise ModelUnusable(f"{path}: {'; '.join(reasons)}")
        return self.config
