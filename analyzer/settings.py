"""What an operator may say about questions and the model."""

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from storage.duration import parse_duration

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class QuestionSettings(BaseModel):
    """A standing yes/no question; no `cameras` means all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ask: str = Field(min_length=3, max_length=300)
    cameras: list[str] = []
    every: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(seconds=16)
    look_back: Annotated[Duration, Field(ge=timedelta(seconds=1))] | None = None


class ModelSettings(BaseModel):
    """Which model answers, where it runs, and how far back it remembers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "nano"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    horizon: Annotated[Duration, Field(ge=timedelta(seconds=16))] = timedelta(seconds=64)
