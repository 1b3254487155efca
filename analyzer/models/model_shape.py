"""What is known of a model before its weights are read, or even fetched."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

from analyzer.errors import ModelUnusable
from analyzer.models.checkpoint.shards import tensors_of
from analyzer.models.files import ModelFiles
from analyzer.models.videoxl2.checkpoint_keys import used_parameters
from analyzer.models.videoxl2.config import PUBLISHED_CONFIGS, VideoXL2Config
from analyzer.models.videoxl2.prompt import last_timestamp, question_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The shapes of a model and how many numbers its weights are; no tokenizer: not fetched."""

    config: VideoXL2Config
    tokenizer: "Tokenizer | None"
    parameters: int

    @classmethod
    def find(cls, name: str, revision: str | None = None) -> Self:
        """Find a model as `ModelFiles.find` does, or else from what is published of it.

        Raises ModelUnusable.
        """
        if name in PUBLISHED_CONFIGS and not _is_fetched(name, revision):
            config = VideoXL2Config.published(name)
            return cls(config=config, tokenizer=None, parameters=_parameter_count(config))
        found = ModelFiles.find(name, revision)
        parameters = used_parameters(tensors_of(found.shards), found.config)
        return cls(config=found.config, tokenizer=found.tokenizer, parameters=parameters)

    @property
    def is_fetched(self) -> bool:
        """Return whether the model's files are here."""
        return self.tokenizer is not None

    def timestamp_tokens(self, latest: timedelta) -> int:
        """Return how many tokens the longest timestamp takes where they count up to `latest`."""
        text = last_timestamp(latest)
        if self.tokenizer is None:
            # Qwen parts it into "Time", the space, each digit, ".", "s" and ":".
            return len(text.replace("Time", "T"))
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def question_tokens(self, ask: str) -> int:
        """Return about how many tokens a question takes with the words around it."""
        text = question_text(ask)
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
    from analyzer.models.loading import build_meta_model  # noqa: PLC0415  loads torch

    return sum(weight.numel() for weight in build_meta_model(config).parameters())
