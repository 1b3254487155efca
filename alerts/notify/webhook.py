"""One post of one event, as Standard Webhooks 1.0 asks for it."""

import base64
import hmac
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

from alerts.notify.attachments import attach_stills
from alerts.notify.http import PUBLIC_EGRESS, EgressPolicy, post_json
from alerts.notify.outcomes import DeliveryOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where to post and what to sign with; neither shows in a repr.

    While secrets are rotated there are several: each signs, and a receiver may know any of them.
    Where `stills` names the folder of the evidence, the stills of incidents are attached.
    """

    name: str
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    egress: EgressPolicy = field(default=PUBLIC_EGRESS, repr=False)
    stills: Path | None = field(default=None, repr=False)


def post(webhook: Webhook, delivery_id: UUID, body: bytes, now: datetime) -> DeliveryOutcome:
    """Post one event and say what came of it; never raises for what a receiver does."""
    body = body if webhook.stills is None else attach_stills(body, webhook.stills)
    signatures = [sign(secret, str(delivery_id), now, body) for secret in webhook.secrets]
    headers = {
        "webhook-id": str(delivery_id),
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
    return post_json(webhook.url, headers, body, now, webhook.egress)


def sign(secret: str, delivery_id: str, now: datetime, body: bytes) -> str:
    """Return one `webhook-signature`: HMAC-SHA256 over `id.timestamp.body`."""
    signed = f"{delivery_id}.{int(now.timestamp())}.".encode() + body
    digest = hmac.digest(signing_key(secret), signed, "sha256")
    return "v1," + base64.b64encode(digest).decode()


def signing_key(secret: str) -> bytes:
    """Return the key in a `whsec_` secret; ValueError, without the secret, when there is none."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("secret must be whsec_ and then 24 to 64 bytes in base64")
    return key
