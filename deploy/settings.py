"""All that can be set, in one tree, and what must fit together in it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from alerts.settings import ReceiverSettings, RuleSettings
from analyzer.settings import MemorySettings, ModelSettings, QuestionSettings
from ingest.settings import CameraSettings

PREFIX, DELIMITER = "LONGWATCH_", "__"

Name = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
Key = tuple[str | int, ...]
"""The way from the root of the settings to a value: `("rules", 0, "when")`."""


class Settings(BaseSettings):
    """The settings of one longwatch; a relative `data` is seen from the settings file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    cameras: Annotated[dict[Name, CameraSettings], Field(min_length=1)]
    questions: Annotated[dict[Name, QuestionSettings], Field(min_length=1)]
    rules: list[RuleSettings] = []
    receivers: dict[Name, ReceiverSettings] = {}
    model: ModelSettings = ModelSettings()
    memory: MemorySettings = MemorySettings()
    data: Path = Path("data")


def contradictions(settings: Settings) -> Iterator[tuple[Key, str]]:
    """Yield each value that does not fit the others, with what is wrong and what to do."""
    for name, camera in settings.cameras.items():
        if camera.window > settings.memory.horizon:
            yield ("cameras", name, "window"), "longer than memory.horizon: shorten it"
    for name, question in settings.questions.items():
        yield from _unknown(("questions", name, "cameras"), question.cameras, settings.cameras)
        if question.look_back and question.look_back > settings.memory.horizon:
            told = "longer than memory.horizon, which is all that is remembered: shorten it"
            yield ("questions", name, "look_back"), told
    yield from _out_of_order(settings.memory)
    names = Counter(rule.name for rule in settings.rules)
    for n, rule in enumerate(settings.rules):
        key: Key = ("rules", n)
        if names[rule.name] > 1:
            yield (*key, "name"), f"{rule.name!r} names more than one rule: rename one"
        yield from _unknown((*key, "when"), rule.when, settings.questions)
        yield from _unknown((*key, "cameras"), rule.cameras, settings.cameras)
        yield from _unknown((*key, "notify"), rule.notify, settings.receivers)
        yield from _never(key, rule, settings)


def _out_of_order(memory: MemorySettings) -> Iterator[tuple[Key, str]]:
    """Yield the times of the memory that are in no order with its horizon."""
    if memory.epoch <= memory.horizon:
        told = "timestamps must count for longer than memory.horizon: lengthen it"
        yield ("memory", "epoch"), told
    if memory.focus_horizon and memory.focus_horizon > memory.horizon:
        yield ("memory", "focus_horizon"), "longer than memory.horizon: shorten it"


def _unknown(key: Key, named: str | list[str], known: Iterable[str]) -> Iterator[tuple[Key, str]]:
    """Yield the names that name nothing; `key` ends in the word for what they should name."""
    places = (
        [(key, named)] if isinstance(named, str) else [((*key, n), v) for n, v in enumerate(named)]
    )
    what = {"cameras": "camera", "when": "question", "notify": "receiver"}[str(key[-1])]
    for place, name in places:
        if name not in known:
            told = ", ".join(sorted(known)) or f"there is none, add it under {what}s"
            yield place, f"no {what} is called {name!r} (known: {told})"


def _never(key: Key, rule: RuleSettings, settings: Settings) -> Iterator[tuple[Key, str]]:
    """Yield the cameras of a rule on which its question is never asked."""
    question = settings.questions.get(rule.when)
    asked = set(question.cameras if question else []) or set(settings.cameras)
    for n, camera in enumerate(rule.cameras):
        if camera in settings.cameras and camera not in asked:
            told = f"question {rule.when!r} is not asked of {camera!r}: add it to its cameras"
            yield (*key, "cameras", n), told
