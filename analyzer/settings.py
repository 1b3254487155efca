"""What an operator may say about questions and the model."""

from datetime import timedelta
from typing import Annotated, Literal

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
    """Which model answers, where and in what precision it runs, and how far back it remembers.

    `name` is `nano`, a folder, or a model on the hub (OWNER/NAME) that was fetched; `revision`
    is the branch, tag or commit of the latter, `main` by default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "nano"
    revision: str | None = Field(default=None, min_length=1)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    horizon: Annotated[Duration, Field(ge=timedelta(seconds=16))] = timedelta(seconds=64)
