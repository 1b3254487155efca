"""All that can be set, in one tree, and what must fit together in it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from alerts.addresses import AddressRefused
from alerts.settings import (
    Duration,
    ExternalUrl,
    HeartbeatSettings,
    InhibitSettings,
    InhibitSourceSettings,
    Labels,
    MaintenanceSettings,
    ReceiverSettings,
    RetentionSettings,
    RouteSettings,
    RuleSettings,
    Site,
)
from analyzer.settings import MemorySettings, ModelSettings, QuestionSettings
from ingest.settings import CameraSettings
from storage.instants import TOLERANCE
from storage.kafka_place import KafkaPlace
from storage.settings import Database, HomePath, LogSettings

PREFIX, DELIMITER = "LONGWATCH_", "__"

Name = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
_NAMED = {
    "cameras": "camera",
    "when": "question",
    "then": "question",
    "without": "question",
    "notify": "receiver",
    "rule": "rule",
    "zone": "zone",
}
Key = tuple[str | int, ...]
"""The way from the root of the settings to a value: `("rules", 0, "when")`."""


class HasRules(Protocol):
    """Settings with rules, and the names that these may use."""

    @property
    def cameras(self) -> Mapping[str, object]:
        """Return the cameras by name."""

    @property
    def questions(self) -> Mapping[str, QuestionSettings]:
        """Return the questions by name."""

    @property
    def rules(self) -> Sequence[RuleSettings]:
        """Return the rules."""

    @property
    def receivers(self) -> Mapping[str, object]:
        """Return the receivers by name."""


class DataSettings(BaseSettings):
    """Where the data are; a relative `data` is seen from the settings file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    data: HomePath = Path("data")


class DefaultsSettings(BaseModel):
    """What holds for all cameras that do not set it themselves; checked as theirs."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    cameras: dict[str, Any] = {}


class Settings(DataSettings):
    """The settings of one longwatch."""

    model_config = SettingsConfigDict(extra="forbid")

    defaults: DefaultsSettings = DefaultsSettings()
    cameras: Annotated[dict[Name, CameraSettings], Field(min_length=1)]
    questions: dict[Name, QuestionSettings] = {}
    rules: list[RuleSettings] = []
    receivers: dict[Name, ReceiverSettings] = {}
    route: RouteSettings = RouteSettings()
    inhibit: list[InhibitSettings] = [
        InhibitSettings(source=InhibitSourceSettings(health="camera_down"))
    ]
    maintenance: list[MaintenanceSettings] = []
    heartbeat: HeartbeatSettings | None = None
    retention: RetentionSettings = RetentionSettings()
    clock_tolerance: Annotated[
        Duration, Field(ge=timedelta(seconds=10), validate_default=False)
    ] = TOLERANCE
    model: ModelSettings = ModelSettings()
    memory: MemorySettings = MemorySettings()
    site: Site = ""
    labels: Labels = {}
    external_url: ExternalUrl | None = None
    log: LogSettings = LogSettings()
    database: Database = None

    @model_validator(mode="before")
    @classmethod
    def _fill_cameras(cls, values: Any) -> Any:
        """Give each camera the defaults that it does not set itself."""
        defaults, cameras = values.get("defaults"), values.get("cameras")
        common = defaults.get("cameras") if isinstance(defaults, dict) else None
        if not isinstance(common, dict) or not isinstance(cameras, dict):
            return values
        filled = {
            name: common | camera if isinstance(camera, dict) else camera
            for name, camera in cameras.items()
        }
        return values | {"cameras": filled}


def contradictions(settings: Settings) -> Iterator[tuple[Key, str]]:
    """Yield each value that does not fit the others, with what is wrong and what to do."""
    for name, camera in settings.cameras.items():
        if camera.window > settings.memory.horizon:
            yield ("cameras", name, "window"), "longer than memory.horizon: shorten it"
        yield from _too_large(("cameras", name, "still_side"), camera, settings)
    for name, question in settings.questions.items():
        yield from _unknown(("questions", name, "cameras"), question.cameras, settings.cameras)
        if question.look_back and question.look_back > settings.memory.horizon:
            told = "longer than memory.horizon, which is all that is remembered: shorten it"
            yield ("questions", name, "look_back"), told
        yield from _without_zone(name, question, settings.cameras)
    yield from _out_of_order(settings.memory)
    for n, rule in enumerate(settings.rules):
        if rule.quiet > settings.retention.incidents:
            told = "longer than retention.incidents, after which it would be forgotten: shorten it"
            yield ("rules", n, "quiet"), told
    yield from rule_contradictions(settings)
    if not settings.questions and not any(rule.health for rule in settings.rules):
        yield ("questions",), "missing: add one, or a rule about health"
    names = [rule.name for rule in settings.rules]
    for n, inhibition in enumerate(settings.inhibit):
        for side in ("source", "target"):
            named = getattr(inhibition, side).rule or []
            yield from _unknown(("inhibit", n, side, "rule"), named, names)
    for n, window in enumerate(settings.maintenance):
        yield from _unknown(("maintenance", n, "cameras"), window.cameras, settings.cameras)
    for name, receiver in settings.receivers.items():
        yield from _private(("receivers", name), receiver)
    hear = settings.heartbeat.notify if settings.heartbeat else []
    yield from _unknown(("heartbeat", "notify"), hear, settings.receivers)


def rule_contradictions(settings: HasRules) -> Iterator[tuple[Key, str]]:
    """Yield what in rules does not fit the names of cameras, questions and receivers."""
    names = Counter(rule.name for rule in settings.rules)
    for n, rule in enumerate(settings.rules):
        key: Key = ("rules", n)
        if names[rule.name] > 1:
            yield (*key, "name"), f"{rule.name!r} names more than one rule: rename one"
        for word, asked in _questions(rule):
            yield from _unknown((*key, word), asked, settings.questions)
            yield from _never(key, rule.cameras, asked, settings)
        yield from _apart(key, rule, settings)
        yield from _unknown((*key, "cameras"), rule.cameras, settings.cameras)
        yield from _unknown((*key, "notify"), rule.notify, settings.receivers)


def _too_large(key: Key, camera: CameraSettings, settings: Settings) -> Iterator[tuple[Key, str]]:
    """Yield a still side with which a window may not fit a message of Kafka's.

    A square of noise, the worst picture there is, takes up to a byte a pixel as a JPEG of
    quality 85, and up to two beyond.
    """
    worst = camera.stills_per_window * camera.still_side**2 * (1 + (camera.jpeg_quality > 85))
    most = KafkaPlace(bootstrap=()).largest_value
    if settings.log.kafka is not None and worst > most:
        told = (
            f"{camera.stills_per_window} stills may take {worst / 1e6:.1f} MB, a message"
            f" {most / 1e6:.1f} MB: make still_side, window or jpeg_quality smaller"
        )
        yield key, told


def _private(key: Key, receiver: ReceiverSettings) -> Iterator[tuple[Key, str]]:
    """Yield a receiver whose url names an address that nobody may connect to.

    What a name resolves to is known only when it is connected to, and checked there.
    """
    for way in ("webhook", "pagerduty", "apprise"):
        settings = getattr(receiver, way)
        if settings is not None:
            url = settings.url.get_secret_value()
            try:
                settings.allowed.check_named(urlsplit(url).hostname or "")
            except AddressRefused as error:
                yield (*key, way, "url"), f"{error}: name its net or host in `allow`"


def matching(pattern: str | None, names: Iterable[str]) -> list[str]:
    """Return the names that a name or a glob stands for."""
    return [name for name in names if pattern is not None and fnmatchcase(name, pattern)]


def _questions(rule: RuleSettings) -> list[tuple[str, str]]:
    """Return the questions that a rule names, each with the key that names it."""
    named = (("when", rule.when), ("then", rule.then), ("without", rule.without))
    return [(word, question) for word, question in named if question is not None]


def _without_zone(
    name: str, question: QuestionSettings, cameras: Mapping[str, CameraSettings]
) -> Iterator[tuple[Key, str]]:
    """Yield a zone that no camera has, and each camera of the question that does not have it."""
    if question.zone is None:
        return
    known = {zone for camera in cameras.values() for zone in camera.zones}
    yield from _unknown(("questions", name, "zone"), question.zone, known)
    for n, pattern in enumerate(question.cameras):
        for camera in matching(pattern, cameras):
            if question.zone in known and question.zone not in cameras[camera].zones:
                told = f"camera {camera!r} has no zone {question.zone!r}: add it to its zones"
                yield ("questions", name, "cameras", n), told


def _out_of_order(memory: MemorySettings) -> Iterator[tuple[Key, str]]:
    """Yield the times of the memory that are in no order with its horizon."""
    if memory.epoch and memory.epoch < 2 * memory.horizon:
        told = "timestamps must count for at least twice memory.horizon: lengthen it"
        yield ("memory", "epoch"), told
    if memory.focus_horizon and memory.focus_horizon > memory.horizon:
        yield ("memory", "focus_horizon"), "longer than memory.horizon: shorten it"


def _unknown(key: Key, named: str | list[str], known: Iterable[str]) -> Iterator[tuple[Key, str]]:
    """Yield the names that name nothing; `key` ends in the word for what they should name."""
    places = (
        [(key, named)] if isinstance(named, str) else [((*key, n), v) for n, v in enumerate(named)]
    )
    what = _NAMED[str(key[-1])]
    for place, name in places:
        if not matching(name, known):
            told = ", ".join(sorted(known)) or f"there is none, add it under {what}s"
            yield place, f"no {what} is called {name!r} (known: {told})"


def _never(
    key: Key, cameras: list[str], question: str, settings: HasRules
) -> Iterator[tuple[Key, str]]:
    """Yield the cameras of a rule on which a question of it is never asked."""
    asked = _asked(question, settings)
    for n, pattern in enumerate(cameras):
        found = matching(pattern, settings.cameras)
        if matching(question, settings.questions) and found and not asked.intersection(found):
            told = f"question {question!r} is not asked of {pattern!r}: add it to its cameras"
            yield (*key, "cameras", n), told


def _apart(key: Key, rule: RuleSettings, settings: HasRules) -> Iterator[tuple[Key, str]]:
    """Yield the second question of a sequence that no camera is asked together with the first."""
    first, *second = _questions(rule) or [("", "")]
    for word, question in second:
        both = _asked(first[1], settings), _asked(question, settings)
        if all(both) and not set.intersection(*both):
            told = f"no camera is asked both {first[1]!r} and {question!r}: add one to both"
            yield (*key, word), told


def _asked(question: str, settings: HasRules) -> set[str]:
    """Return the cameras of which the questions that a name or glob stands for are asked."""
    asked = [settings.questions[name] for name in matching(question, settings.questions)]
    return {
        camera
        for each in asked
        for camera in each.cameras or settings.cameras
        if _has_zone(settings.cameras.get(camera), each.zone)
    }


def _has_zone(camera: object, zone: str | None) -> bool:
    """Return whether a camera may be asked about a zone; what is not read of it may have it."""
    return zone is None or not isinstance(camera, CameraSettings) or zone in camera.zones
