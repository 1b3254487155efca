"""What every kind of receiver has: how it is set, sent to, and which words of it are secret.

To add a kind, write a module with its settings and its value, and name the settings in
`alerts.settings.ReceiverSettings`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Protocol
from uuid import UUID

from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

from alerts.notify.egress import EgressAllowlist, parse_allowlist
from alerts.notify.outcomes import DeliveryOutcome

_MIN_SECRET_LENGTH = 6
"""A shorter part of a URL is no secret; redacting it would hide half of every log line."""


class Receiver(Protocol):
    """An endpoint that messages are delivered to."""

    @property
    def name(self) -> str:
        """Return its name in the settings."""

    def send(self, delivery_id: UUID, body: bytes, now: datetime, /) -> DeliveryOutcome:
        """Send a delivery; never raises for what the receiver does."""

    def secret_words(self) -> Iterable[str]:
        """Return the words that no log line may show."""


class EndpointSettings(BaseModel, ABC):
    """The URL of a receiver, and the addresses outside the public internet that are allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    is_pager: ClassVar[bool] = False
    """Whether it gets one alert per incident."""
    allow: list[str] = []
    allow_private: bool = False
    url: SecretStr

    @field_validator("allow")
    @classmethod
    def _check_allow(cls, entries: list[str]) -> list[str]:
        parse_allowlist(entries)
        return entries

    @property
    def allowed(self) -> EgressAllowlist:
        """Return what may be connected to."""
        return parse_allowlist(self.allow, everything=self.allow_private)

    @abstractmethod
    def build(self, name: str, stills: Path | None = None) -> Receiver:
        """Return the receiver; `stills` is the folder of the evidence that it may attach."""


def secret_parts(url_part: str) -> list[str]:
    """Return the words of a part of a URL that are long enough for a secret."""
    words = re.split(r"[/?&=#:@]+", url_part)
    return [word for word in words if len(word) >= _MIN_SECRET_LENGTH]
