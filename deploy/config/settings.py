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

from alerts.dispatch.heartbeat import Heartbeat
from alerts.dispatch.muting import Maintenance
from alerts.evidence.retention import RetentionPeriods
from alerts.notify.egress import AddressRefused
from alerts.rules.health import HealthState
from alerts.settings import (
    ExternalUrl,
    InhibitSettings,
    InhibitSourceSettings,
    Labels,
    ReceiverSettings,
    RouteSettings,
    RuleSettings,
    Site,
)
from analyzer.settings import MemorySettings, ModelSettings, QuestionSettings
from ingest.settings import CameraSettings
from storage.log.clock_guard import TOLERANCE
from storage.log.kafka.client.config import KafkaConfig
from storage.settings import DatabaseUrl, Duration, HomePath, LogSettings

PREFIX, DELIMITER = "LONGWATCH_", "__"

Name = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
_NOUN_OF_KEY = {
    "cameras": "camera",
    "when": "question",
    "then": "question",
    "without": "question",
    "notify": "receiver",
    "rule": "rule",
    "zone": "zone",
}
SettingKey = tuple[str | int, ...]
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


class LongwatchSettings(DataSettings):
    """The settings of one longwatch."""

    model_config = SettingsConfigDict(extra="forbid")

    defaults: DefaultsSettings = DefaultsSettings()
    cameras: Annotated[dict[Name, CameraSettings], Field(min_length=1)]
    questions: dict[Name, QuestionSettings] = {}
    rules: list[RuleSettings] = []
    receivers: dict[Name, ReceiverSettings] = {}
    route: RouteSettings = RouteSettings()
    inhibit: list[InhibitSettings] = [
        InhibitSettings(source=InhibitSourceSettings(health=HealthState.CAMERA_DOWN))
    ]
    maintenance: list[Maintenance] = []
    heartbeat: Heartbeat | None = None
    retention: RetentionPeriods = RetentionPeriods()
    clock_tolerance: Annotated[
        Duration, Field(ge=timedelta(seconds=10), validate_default=False)
    ] = TOLERANCE
    model: ModelSettings = ModelSettings()
    memory: MemorySettings = MemorySettings()
    site: Site = ""
    labels: Labels = {}
    external_url: ExternalUrl | None = None
    log: LogSettings = LogSettings()
    database: DatabaseUrl = None

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


def contradictions(settings: LongwatchSettings) -> Iterator[tuple[SettingKey, str]]:
    """Yield each value that does not fit the others, with what is wrong and what to do."""
    for name, camera in settings.cameras.items():
        if camera.window > settings.memory.horizon:
            yield ("cameras", name, "window"), "longer than memory.horizon: shorten it"
        yield from _window_size_problems(("cameras", name, "still_side"), camera, settings)
    for name, question in settings.questions.items():
        yield from _unknown_name_problems(
            ("questions", name, "cameras"), question.cameras, settings.cameras
        )
        if question.look_back and question.look_back > settings.memory.horizon:
            message = "longer than memory.horizon, which is all that is remembered: shorten it"
            yield ("questions", name, "look_back"), message
        yield from _zone_problems(name, question, settings.cameras)
    yield from _memory_duration_problems(settings.memory)
    for n, rule in enumerate(settings.rules):
        if rule.quiet > settings.retention.incidents:
            message = (
                "longer than retention.incidents, after which it would be forgotten: shorten it"
            )
            yield ("rules", n, "quiet"), message
    yield from rule_contradictions(settings)
    if not settings.questions and not any(rule.health for rule in settings.rules):
        yield ("questions",), "missing: add one, or a rule about health"
    names = [rule.name for rule in settings.rules]
    for n, inhibition in enumerate(settings.inhibit):
        for side in ("source", "target"):
            rule_names = getattr(inhibition, side).rule or []
            yield from _unknown_name_problems(("inhibit", n, side, "rule"), rule_names, names)
    for n, window in enumerate(settings.maintenance):
        yield from _unknown_name_problems(
            ("maintenance", n, "cameras"), window.cameras, settings.cameras
        )
    for name, receiver in settings.receivers.items():
        yield from _receiver_address_problems(("receivers", name), receiver)
    notified = settings.heartbeat.notify if settings.heartbeat else ()
    yield from _unknown_name_problems(("heartbeat", "notify"), notified, settings.receivers)


def rule_contradictions(settings: HasRules) -> Iterator[tuple[SettingKey, str]]:
    """Yield what in rules does not fit the names of cameras, questions and receivers."""
    names = Counter(rule.name for rule in settings.rules)
    for n, rule in enumerate(settings.rules):
        key: SettingKey = ("rules", n)
        if names[rule.name] > 1:
            yield (*key, "name"), f"{rule.name!r} names more than one rule: rename one"
        for field, question in _rule_questions(rule):
            yield from _unknown_name_problems((*key, field), question, settings.questions)
            yield from _never_asked_problems(key, rule.cameras, question, settings)
        yield from _disjoint_question_problems(key, rule, settings)
        yield from _unknown_name_problems((*key, "cameras"), rule.cameras, settings.cameras)
        yield from _unknown_name_problems((*key, "notify"), rule.notify, settings.receivers)


def _window_size_problems(
    key: SettingKey, camera: CameraSettings, settings: LongwatchSettings
) -> Iterator[tuple[SettingKey, str]]:
    """Yield a still side with which a window may not fit a message of Kafka's.

    A square of noise, the worst picture there is, takes up to a byte a pixel as a JPEG of
    quality 85, and up to two beyond.
    """
    worst_bytes = camera.stills_per_window * camera.still_side**2 * (1 + (camera.jpeg_quality > 85))
    limit_bytes = KafkaConfig(bootstrap=()).largest_value
    if settings.log.kafka is not None and worst_bytes > limit_bytes:
        message = (
            f"{camera.stills_per_window} stills may take {worst_bytes / 1e6:.1f} MB, a message"
            f" {limit_bytes / 1e6:.1f} MB: make still_side, window or jpeg_quality smaller"
        )
        yield key, message


def _receiver_address_problems(
    key: SettingKey, receiver: ReceiverSettings
) -> Iterator[tuple[SettingKey, str]]:
    """Yield a receiver whose url names an address that nobody may connect to.

    What a name resolves to is known only when it is connected to, and checked there.
    """
    url = receiver.endpoint.url.get_secret_value()
    try:
        receiver.endpoint.allowed.check_named(urlsplit(url).hostname or "")
    except AddressRefused as error:
        yield (*key, receiver.kind, "url"), f"{error}: name its net or host in `allow`"


def names_matching(pattern: str | None, names: Iterable[str]) -> list[str]:
    """Return the names that a name or a glob stands for."""
    return [name for name in names if pattern is not None and fnmatchcase(name, pattern)]


def _rule_questions(rule: RuleSettings) -> list[tuple[str, str]]:
    """Return the questions that a rule names, each with the key that names it."""
    named = (("when", rule.when), ("then", rule.then), ("without", rule.without))
    return [(field, question) for field, question in named if question is not None]


def _zone_problems(
    name: str, question: QuestionSettings, cameras: Mapping[str, CameraSettings]
) -> Iterator[tuple[SettingKey, str]]:
    """Yield a zone that no camera has, and each camera of the question that does not have it."""
    if question.zone is None:
        return
    known = {zone for camera in cameras.values() for zone in camera.zones}
    yield from _unknown_name_problems(("questions", name, "zone"), question.zone, known)
    for n, pattern in enumerate(question.cameras):
        for camera in names_matching(pattern, cameras):
            if question.zone in known and question.zone not in cameras[camera].zones:
                message = f"camera {camera!r} has no zone {question.zone!r}: add it to its zones"
                yield ("questions", name, "cameras", n), message


def _memory_duration_problems(memory: MemorySettings) -> Iterator[tuple[SettingKey, str]]:
    """Yield the times of the memory that are in no order with its horizon."""
    if memory.epoch and memory.epoch < 2 * memory.horizon:
        message = "timestamps must count for at least twice memory.horizon: lengthen it"
        yield ("memory", "epoch"), message
    if memory.focus_horizon and memory.focus_horizon > memory.horizon:
        yield ("memory", "focus_horizon"), "longer than memory.horizon: shorten it"


def _unknown_name_problems(
    key: SettingKey, named: str | Sequence[str], known: Iterable[str]
) -> Iterator[tuple[SettingKey, str]]:
    """Yield the names that name nothing; `key` ends in the word for what they should name."""
    places = (
        [(key, named)] if isinstance(named, str) else [((*key, n), v) for n, v in enumerate(named)]
    )
    what = _NOUN_OF_KEY[str(key[-1])]
    for place, name in places:
        if not names_matching(name, known):
            message = ", ".join(sorted(known)) or f"there is none, add it under {what}s"
            yield place, f"no {what} is called {name!r} (known: {message})"


def _never_asked_problems(
    key: SettingKey, cameras: list[str], question: str, settings: HasRules
) -> Iterator[tuple[SettingKey, str]]:
    """Yield the cameras of a rule on which a question of it is never asked."""
    asked_cameras = _cameras_asked(question, settings)
    for n, pattern in enumerate(cameras):
        found = names_matching(pattern, settings.cameras)
        if (
            names_matching(question, settings.questions)
            and found
            and not asked_cameras.intersection(found)
        ):
            message = f"question {question!r} is not asked of {pattern!r}: add it to its cameras"
            yield (*key, "cameras", n), message


def _disjoint_question_problems(
    key: SettingKey, rule: RuleSettings, settings: HasRules
) -> Iterator[tuple[SettingKey, str]]:
    """Yield the second question of a sequence that no camera is asked together with the first."""
    first, *second = _rule_questions(rule) or [("", "")]
    for field, question in second:
        both = _cameras_asked(first[1], settings), _cameras_asked(question, settings)
        if all(both) and not set.intersection(*both):
            message = f"no camera is asked both {first[1]!r} and {question!r}: add one to both"
            yield (*key, field), message


def _cameras_asked(question: str, settings: HasRules) -> set[str]:
    """Return the cameras of which the questions that a name or glob stands for are asked."""
    asked = [settings.questions[name] for name in names_matching(question, settings.questions)]
    return {
        camera
        for each in asked
        for camera in each.cameras or settings.cameras
        if _has_zone(settings.cameras.get(camera), each.zone)
    }


def _has_zone(camera: object, zone: str | None) -> bool:
    """Return whether a camera may be asked about a zone; what is not read of it may have it."""
    return zone is None or not isinstance(camera, CameraSettings) or zone in camera.zones
