"""What is known of a model before its weights are read, or even fetched."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from analyzer.errors import ModelUnusable
from analyzer.videoxl2.config import PUBLISHED, VideoXL2Config
from analyzer.videoxl2.keys import used_parameters
from analyzer.videoxl2.prompt import last_timestamp, question
from analyzer.videoxl2.shards import tensors_of
from analyzer.videoxl2.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The shapes of a model and how many numbers its weights are; no tokenizer: not fetched."""

    config: VideoXL2Config
    tokenizer: Tokenizer | None
    parameters: int

    @classmethod
    def find(cls, name: str, revision: str | None = None) -> Self:
        """Find a model as `Snapshot.find` does, or else from what is published of it.

        Raises ModelUnusable.
        """
        if name in PUBLISHED and not _is_fetched(name, revision):
            config = VideoXL2Config.published(name)
            return cls(config=config, tokenizer=None, parameters=_parameters_of(config))
        found = Snapshot.find(name, revision)
        parameters = used_parameters(tensors_of(found.shards), found.config)
        return cls(config=found.config, tokenizer=found.tokenizer, parameters=parameters)

    @property
    def is_fetched(self) -> bool:
        """Return whether the model's files are here."""
        return self.tokenizer is not None

    def stamp(self, latest: timedelta) -> int:
        """Return how many tokens the longest timestamp takes where they count up to `latest`."""
        text = last_timestamp(latest)
        if self.tokenizer is None:
            # Qwen parts it into "Time", the space, each digit, ".", "s" and ":".
            return len(text.replace("Time", "T"))
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def tokens(self, ask: str) -> int:
        """Return about how many tokens a question takes with the words around it."""
        text = question(ask)
        if self.tokenizer is None:
            return len(text) // 3
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)


def _is_fetched(name: str, revision: str | None) -> bool:
    from analyzer.videoxl2 import hub  # noqa: PLC0415  takes half a second

    try:
        hub.find(name, revision)
    except ModelUnusable:
        return Path(name).is_dir()
    return True


def _parameters_of(config: VideoXL2Config) -> int:
    from analyzer.videoxl2.checkpoint import blank  # noqa: PLC0415  loads torch

    return sum(weight.numel() for weight in blank(config).parameters())
