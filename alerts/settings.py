"""The settings of rules and receivers, in the words Prometheus users know."""

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from alerts.dispatch.rate_limit import MessageRate
from alerts.dispatch.templates import check_template
from alerts.hours import ActiveHours
from alerts.names import IncidentLabel, Name, Pattern
from alerts.notify.apprise import AppriseSettings
from alerts.notify.egress import EgressAllowlist
from alerts.notify.http import check_url
from alerts.notify.pagerduty import PagerDutySettings
from alerts.notify.receivers import EndpointSettings
from alerts.notify.webhook import WebhookSettings
from alerts.rules.health import HealthState
from storage.duration import parse_duration
from storage.settings import Duration

Score = Annotated[float, Field(ge=0.0, le=1.0)]
Severity = Literal["low", "medium", "high", "critical"]


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


Template = Annotated[str, AfterValidator(check_template)]


def _check_label(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("write 1 to 64 characters in one line")
    return text


def _check_label_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", text):
        raise ValueError("write a label's name with letters, digits and _, at most 64 of them")
    return text


def _check_site(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", text):
        raise ValueError("write letters, digits, ., _ and - only, at most 64 of them")
    return text


LabelName = Annotated[str, AfterValidator(_check_label_name)]
LabelValue = Annotated[str, Field(max_length=64), AfterValidator(_check_label)]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=16)]
"""Labels that every message carries."""
Site = Annotated[str, AfterValidator(_check_site)]
"""The name of this longwatch; empty if there is only one."""


def _check_external_url(text: str) -> str:
    check_url(text, allowed=ALLOW_EVERYTHING)
    if len(text) > 200 or set("?#") & set(text):
        raise ValueError("url must have at most 200 characters, and no ? and no #")
    return text


ALLOW_EVERYTHING = EgressAllowlist(everything=True)
ExternalUrl = Annotated[str, AfterValidator(_check_external_url)]
"""The base URL of incidents in a browser; `/incidents/ID` is appended."""


class RuleSettings(BaseModel):
    """When answers become an incident.

    `when` alone: its score stays above a threshold. `when` and `then` (or `without`): one question
    and, `within` a time, another (or not the other). `health`: a state of the watching itself (see
    `alerts.rules.health`). `summary` and `description` are templates (see
    `alerts.dispatch.templates`).
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    name: Name
    when: Pattern | None = None
    health: HealthState | None = Field(default=None, validate_default=True)
    then: Name | None = None
    without: Name | None = None
    within: Duration | None = Field(default=None, validate_default=True)
    cameras: list[Pattern] = []
    above: Score | None = Field(default=None, validate_default=True)
    below: Score | None = None
    for_: Duration = Field(default=timedelta(), alias="for")
    keep_firing_for: Duration = timedelta()
    quiet: Duration = timedelta()
    active: Annotated[list[ActiveHours], BeforeValidator(_as_list)] = []
    severity: Severity = "medium"
    notify: list[Name] = []
    summary: Template | None = None
    description: Template | None = None

    @field_validator("health")
    @classmethod
    def _check_when_or_health(cls, health: str | None, info: ValidationInfo) -> str | None:
        if "when" in info.data and (health is None) is (info.data["when"] is None):
            raise ValueError("write either `when: QUESTION` or `health: STATE`")
        return health

    @field_validator("then", "without")
    @classmethod
    def _check_second_question(cls, second: str | None, info: ValidationInfo) -> str | None:
        if second is None:
            return None
        if info.data.get("then") is not None:
            raise ValueError("either then or without: make two rules of it")
        if info.data.get("when") is None:
            raise ValueError("goes with `when: QUESTION`, which comes first")
        if second == info.data["when"]:
            raise ValueError("names the question of `when`: name another")
        return second

    @field_validator("within")
    @classmethod
    def _check_within(cls, within: timedelta | None, info: ValidationInfo) -> timedelta | None:
        if "then" not in info.data or "without" not in info.data:
            return within
        is_sequence = _is_sequence(info)
        if within is None and is_sequence:
            raise ValueError("missing: add it, as 40m")
        if within is not None and not is_sequence:
            raise ValueError("goes with then or without: add one, or drop it")
        if within is not None and within <= timedelta():
            raise ValueError("a gap of nothing holds nothing: make it longer")
        return within

    @field_validator("above")
    @classmethod
    def _check_above(cls, above: float | None, info: ValidationInfo) -> float | None:
        if above is None and info.data.get("when") is not None:
            raise ValueError("missing: add it")
        if above is not None and info.data.get("health") is not None:
            raise ValueError("health holds or does not, it has no score: drop it")
        if above == 0:
            raise ValueError("no score is below 0, it would fire for ever: make it greater")
        return above

    @field_validator("below")
    @classmethod
    def _check_below(cls, below: float | None, info: ValidationInfo) -> float | None:
        above = info.data.get("above")
        if below is not None and info.data.get("health") is not None:
            raise ValueError("health holds or does not, it has no score: drop it")
        if below is not None and above is not None and below > above:
            raise ValueError("below must not be greater than above")
        if below == 0:
            raise ValueError("no score is below 0, it would never close: make it greater")
        return below

    @field_validator("for_", "keep_firing_for")
    @classmethod
    def _check_sequence_times(cls, time: timedelta, info: ValidationInfo) -> timedelta:
        if info.field_name == "for_" and time and _is_sequence(info):
            raise ValueError("within takes its place here: drop it")
        if time and info.data.get("without") is not None:
            raise ValueError("what was missing ends it when it comes: drop it")
        return time


def _is_sequence(info: ValidationInfo) -> bool:
    return not (info.data.get("then") is None and info.data.get("without") is None)


def _parse_rate(text: object) -> MessageRate:
    match = re.fullmatch(r"(\d{1,6})/(s|m|h|d)", text) if isinstance(text, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError("write it as 60/h: a number of messages per s, m, h or d")
    return MessageRate(count=int(match[1]), per=parse_duration(f"1{match[2]}"))


RateLimit = Annotated[MessageRate, PlainValidator(_parse_rate)]


class RouteSettings(BaseModel):
    """How receivers are notified, in Alertmanager's words; None is the default."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    group_by: tuple[IncidentLabel, ...] | None = None
    group_wait: Duration | None = None
    group_interval: Annotated[Duration, Field(ge=timedelta(seconds=1))] | None = None
    repeat_interval: Annotated[Duration, Field(ge=timedelta(seconds=1))] | None = None
    rate_limit: RateLimit | Literal["none"] | None = None
    urgent_wait: Duration | None = None
    digest_after: Annotated[int, Field(ge=1)] | None = None


class InhibitSourceSettings(BaseModel):
    """Which incidents mute others: those of a health state, or of a rule."""

    model_config = ConfigDict(extra="forbid")

    health: HealthState | None = None
    rule: Name | None = None

    @model_validator(mode="after")
    def _check_health_or_rule(self) -> Self:
        if (self.health is None) is (self.rule is None):
            raise ValueError("write either `health: STATE` or `rule: NAME`")
        return self


class InhibitTargetSettings(BaseModel):
    """Which incidents are muted; an empty target means all."""

    model_config = ConfigDict(extra="forbid")

    camera: Name | None = None
    rule: Name | None = None
    severity: Severity | None = None


class InhibitSettings(BaseModel):
    """While a source fires, targets with the same labels in `equal` are muted."""

    model_config = ConfigDict(extra="forbid")

    source: InhibitSourceSettings
    target: InhibitTargetSettings = InhibitTargetSettings()
    equal: list[IncidentLabel] = ["camera"]


class ReceiverSettings(BaseModel):
    """A receiver of messages, of one of these kinds."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    webhook: WebhookSettings | None = None
    pagerduty: PagerDutySettings | None = None
    apprise: AppriseSettings | None = None
    route: RouteSettings = RouteSettings()

    @model_validator(mode="after")
    def _check_one_kind(self) -> Self:
        if len(self._endpoints()) != 1:
            *others, last = RECEIVER_KINDS
            raise ValueError(f"write one of {', '.join(others)} and {last}")
        return self

    @property
    def kind(self) -> str:
        """Return the name of its kind."""
        return next(iter(self._endpoints()))

    @property
    def endpoint(self) -> EndpointSettings:
        """Return the settings of its kind."""
        return self._endpoints()[self.kind]

    def _endpoints(self) -> dict[str, EndpointSettings]:
        return {name: each for name, each in self if isinstance(each, EndpointSettings)}


RECEIVER_KINDS = tuple(name for name in ReceiverSettings.model_fields if name != "route")
