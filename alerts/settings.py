"""The settings of rules and receivers, in the words Prometheus users know."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from alerts.webhook import check_url, signing_key
from storage.duration import parse_duration

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Score = Annotated[float, Field(ge=0.0, le=1.0)]


class RuleSettings(BaseModel):
    """Open an incident when the answers to a question stay above a score."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    when: Name
    cameras: list[Name] = []
    above: Score
    below: Score | None = None
    for_: Duration = Field(default=timedelta(), alias="for")
    keep_firing_for: Duration = timedelta()
    severity: Literal["low", "medium", "high", "critical"] = "medium"
    notify: list[Name] = []

    @model_validator(mode="after")
    def _closes_below_where_it_opens(self) -> Self:
        if self.below is not None and self.below > self.above:
            raise ValueError("below must not be greater than above")
        return self


class WebhookSettings(BaseModel):
    """Where to post, and the secret to sign with; `allow_private` admits http and local nets."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: SecretStr
    secret: SecretStr
    allow_private: bool = False

    @model_validator(mode="after")
    def _can_be_posted(self) -> Self:
        check_url(self.url.get_secret_value(), allow_private=self.allow_private)
        signing_key(self.secret.get_secret_value())
        return self


class ReceiverSettings(BaseModel):
    """Somebody who wants to hear of incidents."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    webhook: WebhookSettings
