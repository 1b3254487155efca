"""One post of one message, as Standard Webhooks 1.0 asks for it."""

import base64
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import Field, SecretStr, model_validator

from alerts.notify.attachments import attach_stills
from alerts.notify.http import PUBLIC_EGRESS, EgressPolicy, check_url, post_json
from alerts.notify.outcomes import DeliveryOutcome
from alerts.notify.receivers import EndpointSettings, secret_parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where to post, and the secrets to sign with; neither shows in a repr.

    While secrets are rotated, each one signs: a receiver may know any of them. `stills` is the
    folder of the evidence if the stills of incidents are attached.
    """

    name: str
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    egress: EgressPolicy = field(default=PUBLIC_EGRESS, repr=False)
    stills: Path | None = field(default=None, repr=False)

    def send(self, delivery_id: UUID, body: bytes, now: datetime, /) -> DeliveryOutcome:
        """Post a message; never raises for what the receiver does."""
        body = body if self.stills is None else attach_stills(body, self.stills)
        signatures = [sign(secret, str(delivery_id), now, body) for secret in self.secrets]
        headers = {
            "webhook-id": str(delivery_id),
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
        return post_json(self.url, headers, body, now, self.egress)

    def secret_words(self) -> Iterable[str]:
        """Return the url, its parts after the host, and the secrets."""
        split = urlsplit(self.url)
        return (self.url, *secret_parts(f"{split.path}?{split.query}"), *self.secrets)


class WebhookSettings(EndpointSettings):
    """Where to post, and the secret to sign with, or several while they are rotated.

    `attach: still` adds a picture of at most 100 kB to each incident.
    """

    secret: SecretStr | None = None
    secrets: Annotated[tuple[SecretStr, ...], Field(max_length=5)] = ()
    attach: Literal["still"] | None = None

    @model_validator(mode="after")
    def _check_url_and_secrets(self) -> Self:
        check_url(self.url.get_secret_value(), allowed=self.allowed)
        if (self.secret is None) == (not self.secrets):
            raise ValueError("write either secret or secrets, which is a list of them")
        for secret in self._signing_secrets():
            signing_key(secret)
        return self

    def build(self, name: str, stills: Path | None = None) -> Webhook:
        """Return the receiver."""
        return Webhook(
            name=name,
            url=self.url.get_secret_value(),
            secrets=self._signing_secrets(),
            egress=EgressPolicy(allowed=self.allowed),
            stills=stills if self.attach == "still" else None,
        )

    def _signing_secrets(self) -> tuple[str, ...]:
        secrets = self.secrets if self.secret is None else (self.secret,)
        return tuple(secret.get_secret_value() for secret in secrets)


def sign(secret: str, delivery_id: str, now: datetime, body: bytes) -> str:
    """Return one `webhook-signature`: HMAC-SHA256 over `id.timestamp.body`."""
    signed = f"{delivery_id}.{int(now.timestamp())}.".encode() + body
    digest = hmac.digest(signing_key(secret), signed, "sha256")
    return "v1," + base64.b64encode(digest).decode()


def signing_key(secret: str) -> bytes:
    """Return the key in a `whsec_` secret; ValueError, without the secret, if it has none."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("secret must be whsec_ and then 24 to 64 bytes in base64")
    return key
