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
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from alerts.dispatch.rate_limit import MessageRate
from alerts.dispatch.templates import check_template
from alerts.hours import Hours
from alerts.notify.apprise import check_apprise_url
from alerts.notify.egress import EgressAllowlist, parse_allowlist
from alerts.notify.http import check_url
from alerts.notify.pagerduty import EVENTS_URL
from alerts.notify.webhook import signing_key
from alerts.rules.health import HealthState
from storage.duration import parse_duration

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9*?][A-Za-z0-9_.*?-]{0,63}$")]
"""A name, or a glob such as `dock-*` that stands for several."""
Score = Annotated[float, Field(ge=0.0, le=1.0)]
Severity = Literal["low", "medium", "high", "critical"]


def _parse_hours(text: object) -> Hours:
    if not isinstance(text, str):
        raise ValueError("write it as Mon-Fri 18:00-06:00 Europe/Berlin")
    return Hours.parse(text)


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


ActiveHours = Annotated[Hours, PlainValidator(_parse_hours)]
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
"""Labels of the operator's own, which every message carries."""
Site = Annotated[str, AfterValidator(_check_site)]
"""The name of this longwatch among others; empty where there is one."""


def _check_external_url(text: str) -> str:
    check_url(text, allowed=ALLOW_EVERYTHING)
    if len(text) > 200 or set("?#") & set(text):
        raise ValueError("url must have at most 200 characters, and no ? and no #")
    return text


ALLOW_EVERYTHING = EgressAllowlist(everything=True)
ExternalUrl = Annotated[str, AfterValidator(_check_external_url)]
"""Where people find incidents in a browser: `/incidents/ID` is added to it."""


class RuleSettings(BaseModel):
    """When answers become an incident.

    `when` alone: they stay above a score. `when` and `then` (or `without`): one question and
    then, `within` a time, another (or not the other). `health`: what the ledger of coverage
    says of a camera, that a receiver was not told (`undelivered`), that a role cannot run as it
    is configured (`role_down`), that the log does not answer alerts (`log_unreachable`), that a
    camera's clock is ahead of ours (`clock_ahead`), or that alerts doubts its own clock
    (`clock_behind`). `summary` and `description` are the sentences of a message, with
    placeholders (see `alerts.dispatch.templates`).
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


GroupLabel = Literal["camera", "rule", "severity"]


def _parse_rate(text: object) -> MessageRate:
    match = re.fullmatch(r"(\d{1,6})/(s|m|h|d)", text) if isinstance(text, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError("write it as 60/h: so many messages in one of s, m, h, d")
    return MessageRate(count=int(match[1]), per=parse_duration(f"1{match[2]}"))


RateLimit = Annotated[MessageRate, PlainValidator(_parse_rate)]


class RouteSettings(BaseModel):
    """How receivers are told, in Alertmanager's words; what is not written is the default."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    group_by: list[GroupLabel] | None = None
    group_wait: Duration | None = None
    group_interval: Annotated[Duration, Field(ge=timedelta(seconds=1))] | None = None
    repeat_interval: Annotated[Duration, Field(ge=timedelta(seconds=1))] | None = None
    rate_limit: RateLimit | Literal["none"] | None = None
    urgent_wait: Duration | None = None
    digest_after: Annotated[int, Field(ge=1)] | None = None


class InhibitSourceSettings(BaseModel):
    """Which alerts mute others: those of health rules about a state, or of a rule."""

    model_config = ConfigDict(extra="forbid")

    health: HealthState | None = None
    rule: Name | None = None

    @model_validator(mode="after")
    def _check_health_or_rule(self) -> Self:
        if (self.health is None) is (self.rule is None):
            raise ValueError("write either `health: STATE` or `rule: NAME`")
        return self


class InhibitTargetSettings(BaseModel):
    """Which alerts are muted; none named: all."""

    model_config = ConfigDict(extra="forbid")

    camera: Name | None = None
    rule: Name | None = None
    severity: Severity | None = None


class InhibitSettings(BaseModel):
    """While a source fires, targets with the same labels in `equal` are muted."""

    model_config = ConfigDict(extra="forbid")

    source: InhibitSourceSettings
    target: InhibitTargetSettings = InhibitTargetSettings()
    equal: list[GroupLabel] = ["camera"]


class MaintenanceSettings(BaseModel):
    """Hours in which nobody is told of some cameras; none named: of all."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    cameras: list[Pattern] = []
    active: ActiveHours


RetentionPeriod = Annotated[Duration, Field(ge=timedelta(days=1))]


class RetentionSettings(BaseModel):
    """How long what is over is kept, counted from its end.

    `incidents` are those that opened, with their trail, notices and stills; `dismissed` those
    that never did. `deliveries` are kept with their bodies. Nothing but findings outlives the
    incidents: what is not set and would is kept for as long as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    incidents: RetentionPeriod = timedelta(days=400)
    deliveries: RetentionPeriod = timedelta(days=90)
    dismissed: RetentionPeriod = timedelta(days=7)
    findings: RetentionPeriod = timedelta(days=90)
    stills: RetentionPeriod = timedelta(days=90)

    @field_validator("deliveries", "dismissed", "stills")
    @classmethod
    def _check_not_longer_than_incidents(cls, period: timedelta, info: ValidationInfo) -> timedelta:
        longest = info.data.get("incidents")
        if longest is not None and period > longest:
            raise ValueError("longer than retention.incidents: shorten it, or lengthen that")
        return period


class HeartbeatSettings(BaseModel):
    """Tell receivers every so often that longwatch is alive, so that its silence is heard."""

    model_config = ConfigDict(extra="forbid")

    every: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(minutes=1)
    notify: Annotated[list[Name], Field(min_length=1)]


class AllowSettings(BaseModel):
    """What may be connected to besides the public internet, by https or http."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    allow: list[str] = []
    allow_private: bool = False

    @field_validator("allow")
    @classmethod
    def _check_allow(cls, entries: list[str]) -> list[str]:
        parse_allowlist(entries)
        return entries

    @property
    def allowed(self) -> EgressAllowlist:
        """Return these as a value."""
        return parse_allowlist(self.allow, everything=self.allow_private)


class WebhookSettings(AllowSettings):
    """Where to post, and the secret to sign with, or several while they are rotated.

    `attach: still` adds a picture of at most 100 kB to each incident.
    """

    url: SecretStr
    secret: SecretStr | None = None
    secrets: Annotated[list[SecretStr], Field(max_length=5)] = []
    attach: Literal["still"] | None = None

    @model_validator(mode="after")
    def _check_url_and_secrets(self) -> Self:
        check_url(self.url.get_secret_value(), allowed=self.allowed)
        if (self.secret is None) == (not self.secrets):
            raise ValueError("write either secret or secrets, which is a list of them")
        for secret in self.signing_secrets:
            signing_key(secret)
        return self

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """Return the secrets that sign."""
        secrets = [self.secret] if self.secret is not None else self.secrets
        return tuple(secret.get_secret_value() for secret in secrets)


class PagerDutySettings(AllowSettings):
    """A service of PagerDuty: the key of its Events API v2 integration."""

    routing_key: SecretStr
    url: SecretStr = SecretStr(EVENTS_URL)

    @model_validator(mode="after")
    def _check_url_and_key(self) -> Self:
        check_url(self.url.get_secret_value(), allowed=self.allowed)
        if not re.fullmatch("[A-Za-z0-9]{32}", self.routing_key.get_secret_value()):
            raise ValueError("routing_key must be the 32 characters that PagerDuty shows")
        return self


class AppriseSettings(AllowSettings):
    """A service as apprise writes it, say mailto:// or slack://; all of it is a secret."""

    url: SecretStr

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        check_apprise_url(self.url.get_secret_value())
        return self


class ReceiverSettings(BaseModel):
    """Somebody who wants to hear of incidents, in one of these ways."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    webhook: WebhookSettings | None = None
    pagerduty: PagerDutySettings | None = None
    apprise: AppriseSettings | None = None
    route: RouteSettings = RouteSettings()

    @model_validator(mode="after")
    def _check_one_kind(self) -> Self:
        if sum(way is not None for way in (self.webhook, self.pagerduty, self.apprise)) != 1:
            raise ValueError("write one of webhook, pagerduty and apprise")
        return self
