"""The settings of questions, the model and its memory."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from storage.byte_size import ByteSize
from storage.duration import parse_duration
from storage.settings import expand_home

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


def check_device(device: object) -> object:
    """Return a device or a list of distinct cards; raise ValueError for anything else."""
    if isinstance(device, str) and re.fullmatch(r"auto|all|cpu|cuda(:\d+)?", device):
        return device
    cards = device if isinstance(device, list) else []
    if not cards or not all(re.fullmatch(r"cuda:\d+", str(card)) for card in cards):
        raise ValueError("write auto, cpu, cuda, cuda:1, [cuda:0, cuda:1] or all")
    if len(set(cards)) < len(cards):
        raise ValueError("names a card twice")
    return device


Device = Annotated[str | list[str], BeforeValidator(check_device)]


def model_name(name: str) -> str:
    """Return the name of a model, with `~` expanded in that of a folder."""
    return str(expand_home(Path(name))) if name.startswith("~") else name


class QuestionSettings(BaseModel):
    """A standing yes/no question; no `cameras` means all.

    With `zone` it is about that zone, and concerns the cameras that have a zone of this name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ask: str = Field(min_length=3, max_length=300)
    cameras: list[str] = []
    every: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(seconds=16)
    look_back: Annotated[Duration, Field(ge=timedelta(seconds=1))] | None = None
    zone: str | None = Field(default=None, min_length=1)


class ModelSettings(BaseModel):
    """Which model answers, on which device and in which precision.

    `name` is `nano`, a folder, or a fetched model of the hub (OWNER/NAME), with `revision` as its
    branch, tag or commit, `main` by default. Each of several cards, by name or `all`, runs an
    analyzer, and these share the cameras.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(model_name)] = "nano"
    revision: str | None = Field(default=None, min_length=1)
    device: Device = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @property
    def one_device(self) -> str:
        """Return the first device, for commands that use one alone."""
        if isinstance(self.device, str):
            return "auto" if self.device == "all" else self.device
        return self.device[0]


class MemorySettings(BaseModel):
    """How far back each camera is remembered, and in which form (see `analyzer.kv.budget`).

    `focus_horizon` is `horizon` by default, `epoch` an hour or twice the horizon if that is longer.
    `limit` is the bytes of all cameras together, by default what the machine has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    horizon: Annotated[Duration, Field(ge=timedelta(seconds=16))] = timedelta(seconds=64)
    focus_horizon: Annotated[Duration, Field(ge=timedelta(seconds=1))] | None = None
    recent: int = Field(default=4, ge=1, le=1024)
    focus: int = Field(default=4, ge=0, le=64)
    compression: int = Field(default=4, ge=1, le=1024)
    mass: Literal["reference", "corrected"] = "reference"
    int8: bool = False
    epoch: Duration | None = None
    limit: ByteSize | None = None
