"""The shapes and sizes of a model, known before its weights are read or fetched."""

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from analyzer.errors import ModelUnusable
from analyzer.models.checkpoint.keys import used_parameters
from analyzer.models.checkpoint.shards import tensors_of
from analyzer.models.families import FAMILY
from analyzer.models.files import ModelFiles
from analyzer.models.videoxl2.config import VideoXL2Config

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The shapes of a model and its number of parameters; no tokenizer means not fetched."""

    config: VideoXL2Config
    tokenizer: "Tokenizer | None"
    parameters: int

    @classmethod
    def find(cls, name: str, revision: str | None = None) -> Self:
        """Find a model as `ModelFiles.find` does, or else among the published configurations.

        Raises ModelUnusable.
        """
        if name in FAMILY.published and not _is_fetched(name, revision):
            config = FAMILY.published_config(name)
            return cls(config=config, tokenizer=None, parameters=_parameter_count(config))
        found = ModelFiles.find(name, revision)
        unused_kind = partial(FAMILY.unused_kind, config=found.config)
        parameters = used_parameters(tensors_of(found.shards), unused_kind)
        return cls(config=found.config, tokenizer=found.tokenizer, parameters=parameters)

    @property
    def is_fetched(self) -> bool:
        """Return whether the model's files are on this machine."""
        return self.tokenizer is not None

    def timestamp_tokens(self, latest: timedelta) -> int:
        """Return the number of tokens of the longest timestamp before `latest`."""
        text = FAMILY.prompt.last_timestamp(latest)
        if self.tokenizer is None:
            # Qwen splits it into "Time", the space, each digit, ".", "s" and ":".
            return len(text.replace("Time", "T"))
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def question_tokens(self, ask: str) -> int:
        """Return the approximate number of tokens of a question with its chat frame."""
        text = FAMILY.prompt.question_text(ask)
        if self.tokenizer is None:
            return len(text) // 3
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)


def _is_fetched(name: str, revision: str | None) -> bool:
    from analyzer.models import hub  # noqa: PLC0415  takes half a second

    try:
        hub.find_fetched(name, revision)
    except ModelUnusable:
        return Path(name).is_dir()
    return True


def _parameter_count(config: VideoXL2Config) -> int:
    return sum(weight.numel() for weight in FAMILY.build_meta_model(config).parameters())
