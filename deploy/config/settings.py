"""All settings of a longwatch, and the contradictions between them."""

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
from deploy.config.problems import SettingKey, SettingProblem
from ingest.settings import CameraSettings
from storage.clock import TOLERANCE
from storage.log.kafka.client.config import KafkaConfig
from storage.settings import DatabaseUrl, Duration, HomePath, LogSettings

PREFIX, DELIMITER = "LONGWATCH_", "__"

Name = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
_BEYOND_HORIZON = "longer than memory.horizon: shorten it"
_NOUN_OF_KEY = {
    "cameras": "camera",
    "when": "question",
    "then": "question",
    "without": "question",
    "notify": "receiver",
    "rule": "rule",
    "zone": "zone",
}


class HasRules(Protocol):
    """Settings with rules, and the names that rules may use."""

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
    """The data directory; a relative path starts at the settings file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    data: HomePath = Path("data")


class DefaultsSettings(BaseModel):
    """Settings of all cameras that do not set them themselves; checked as theirs."""

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
        """Fill in the defaults that a camera does not set itself."""
        defaults, cameras = values.get("defaults"), values.get("cameras")
        common = defaults.get("cameras") if isinstance(defaults, dict) else None
        if not isinstance(common, dict) or not isinstance(cameras, dict):
            return values
        filled = {
            name: common | camera if isinstance(camera, dict) else camera
            for name, camera in cameras.items()
        }
        return values | {"cameras": filled}


def contradictions(settings: LongwatchSettings) -> Iterator[SettingProblem]:
    """Yield each setting that contradicts another one."""
    for name, camera in settings.cameras.items():
        if camera.window > settings.memory.horizon:
            yield SettingProblem(key=("cameras", name, "window"), message=_BEYOND_HORIZON)
        yield from _large_windows(("cameras", name, "still_side"), camera, settings)
    for name, question in settings.questions.items():
        yield from _unknown_names(
            ("questions", name, "cameras"), question.cameras, settings.cameras
        )
        if question.look_back and question.look_back > settings.memory.horizon:
            message = "longer than memory.horizon, which is all that is remembered: shorten it"
            yield SettingProblem(key=("questions", name, "look_back"), message=message)
        yield from _unknown_zones(name, question, settings.cameras)
    yield from _bad_durations(settings.memory)
    for n, rule in enumerate(settings.rules):
        if rule.quiet > settings.retention.incidents:
            message = "longer than retention.incidents, which deletes the incident: shorten it"
            yield SettingProblem(key=("rules", n, "quiet"), message=message)
    yield from rule_contradictions(settings)
    if not settings.questions and not any(rule.health for rule in settings.rules):
        yield SettingProblem(key=("questions",), message="missing: add one, or a rule about health")
    names = [rule.name for rule in settings.rules]
    for n, inhibition in enumerate(settings.inhibit):
        for side in ("source", "target"):
            rule_names = getattr(inhibition, side).rule or []
            yield from _unknown_names(("inhibit", n, side, "rule"), rule_names, names)
    for n, window in enumerate(settings.maintenance):
        yield from _unknown_names(("maintenance", n, "cameras"), window.cameras, settings.cameras)
    for name, receiver in settings.receivers.items():
        yield from _forbidden_addresses(("receivers", name), receiver)
    notified = settings.heartbeat.notify if settings.heartbeat else ()
    yield from _unknown_names(("heartbeat", "notify"), notified, settings.receivers)


def rule_contradictions(settings: HasRules) -> Iterator[SettingProblem]:
    """Yield each rule that names no camera, question or receiver, or can never fire."""
    names = Counter(rule.name for rule in settings.rules)
    for n, rule in enumerate(settings.rules):
        key: SettingKey = ("rules", n)
        if names[rule.name] > 1:
            message = f"{rule.name!r} names more than one rule: rename one"
            yield SettingProblem(key=(*key, "name"), message=message)
        for field, question in _rule_questions(rule):
            yield from _unknown_names((*key, field), question, settings.questions)
            yield from _never_asked(key, rule.cameras, question, settings)
        yield from _disjoint_questions(key, rule, settings)
        yield from _unknown_names((*key, "cameras"), rule.cameras, settings.cameras)
        yield from _unknown_names((*key, "notify"), rule.notify, settings.receivers)


def _large_windows(
    key: SettingKey, camera: CameraSettings, settings: LongwatchSettings
) -> Iterator[SettingProblem]:
    """Yield a still side with which a window may exceed Kafka's message size.

    A square of noise, the largest JPEG, takes up to a byte a pixel at quality 85, two beyond.
    """
    worst_bytes = camera.stills_per_window * camera.still_side**2 * (1 + (camera.jpeg_quality > 85))
    limit_bytes = KafkaConfig(bootstrap=()).largest_value
    if settings.log.kafka is not None and worst_bytes > limit_bytes:
        message = (
            f"{camera.stills_per_window} stills may take {worst_bytes / 1e6:.1f} MB, a message"
            f" {limit_bytes / 1e6:.1f} MB: make still_side, window or jpeg_quality smaller"
        )
        yield SettingProblem(key=key, message=message)


def _forbidden_addresses(key: SettingKey, receiver: ReceiverSettings) -> Iterator[SettingProblem]:
    """Yield a receiver whose url names a forbidden address.

    The address of a host name is checked when it is connected to.
    """
    url = receiver.endpoint.url.get_secret_value()
    try:
        receiver.endpoint.allowed.check_named(urlsplit(url).hostname or "")
    except AddressRefused as error:
        message = f"{error}: name its net or host in `allow`"
        yield SettingProblem(key=(*key, receiver.kind, "url"), message=message)


def names_matching(pattern: str | None, names: Iterable[str]) -> list[str]:
    """Return the names that a name or a glob matches."""
    return [name for name in names if pattern is not None and fnmatchcase(name, pattern)]


def _rule_questions(rule: RuleSettings) -> list[tuple[str, str]]:
    """Return the key and the name of each question of a rule."""
    named = (("when", rule.when), ("then", rule.then), ("without", rule.without))
    return [(field, question) for field, question in named if question is not None]


def _unknown_zones(
    name: str, question: QuestionSettings, cameras: Mapping[str, CameraSettings]
) -> Iterator[SettingProblem]:
    """Yield a zone that no camera has, and each camera of the question without the zone."""
    if question.zone is None:
        return
    known = {zone for camera in cameras.values() for zone in camera.zones}
    yield from _unknown_names(("questions", name, "zone"), question.zone, known)
    for n, pattern in enumerate(question.cameras):
        for camera in names_matching(pattern, cameras):
            if question.zone in known and question.zone not in cameras[camera].zones:
                message = f"camera {camera!r} has no zone {question.zone!r}: add it to its zones"
                yield SettingProblem(key=("questions", name, "cameras", n), message=message)


def _bad_durations(memory: MemorySettings) -> Iterator[SettingProblem]:
    """Yield the durations of the memory that contradict its horizon."""
    if memory.epoch and memory.epoch < 2 * memory.horizon:
        message = "timestamps must count for at least twice memory.horizon: lengthen it"
        yield SettingProblem(key=("memory", "epoch"), message=message)
    if memory.focus_horizon and memory.focus_horizon > memory.horizon:
        yield SettingProblem(key=("memory", "focus_horizon"), message=_BEYOND_HORIZON)


def _unknown_names(
    key: SettingKey, named: str | Sequence[str], known: Iterable[str]
) -> Iterator[SettingProblem]:
    """Yield the unknown names; `key` ends in the kind of thing that they name."""
    if isinstance(named, str):
        keys: list[tuple[SettingKey, str]] = [(key, named)]
    else:
        keys = [((*key, n), name) for n, name in enumerate(named)]
    noun = _NOUN_OF_KEY[str(key[-1])]
    for name_key, name in keys:
        if not names_matching(name, known):
            message = unknown_name(noun, name, known, f"there is none, add it under {noun}s")
            yield SettingProblem(key=name_key, message=message)


def unknown_name(noun: str, name: str, known: Iterable[str], none: str = "there is none") -> str:
    """Return the message about a name that nothing has."""
    return f"no {noun} is called {name!r} (known: {', '.join(sorted(known)) or none})"


def _never_asked(
    key: SettingKey, cameras: list[str], question: str, settings: HasRules
) -> Iterator[SettingProblem]:
    """Yield the cameras of a rule that are never asked its question."""
    asked_cameras = _cameras_asked(question, settings)
    for n, pattern in enumerate(cameras):
        found = names_matching(pattern, settings.cameras)
        is_known = found and names_matching(question, settings.questions)
        if is_known and not asked_cameras.intersection(found):
            message = f"question {question!r} is not asked of {pattern!r}: add it to its cameras"
            yield SettingProblem(key=(*key, "cameras", n), message=message)


def _disjoint_questions(
    key: SettingKey, rule: RuleSettings, settings: HasRules
) -> Iterator[SettingProblem]:
    """Yield the second question of a sequence if no camera is asked both."""
    first, *second = _rule_questions(rule) or [("", "")]
    for field, question in second:
        both = _cameras_asked(first[1], settings), _cameras_asked(question, settings)
        if all(both) and not set.intersection(*both):
            message = f"no camera is asked both {first[1]!r} and {question!r}: add one to both"
            yield SettingProblem(key=(*key, field), message=message)


def _cameras_asked(question: str, settings: HasRules) -> set[str]:
    """Return the cameras that are asked the questions that a name or glob matches."""
    asked = [settings.questions[name] for name in names_matching(question, settings.questions)]
    return {
        camera
        for each in asked
        for camera in each.cameras or settings.cameras
        if _has_zone(settings.cameras.get(camera), each.zone)
    }


def _has_zone(camera: object, zone: str | None) -> bool:
    """Return whether a camera may have a zone; one whose zones were not read may."""
    return zone is None or not isinstance(camera, CameraSettings) or zone in camera.zones
