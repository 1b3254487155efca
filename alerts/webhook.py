"""One post of one event, as Standard Webhooks 1.0 asks for it.

A receiver may name any host, so a name is resolved once, every address is checked, and the
connection goes to an address that was checked. No proxy, no redirect, no answer body is used,
and all of it together ends after 15 s.
"""

import base64
import hmac
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit
from uuid import UUID

import httpcore

from alerts.network import AddressRefused, BoundedNetwork

TIMEOUT = timedelta(seconds=15)
MAX_BODY_BYTES = 20_000
_MAX_RETRY_AFTER = timedelta(hours=24)
_SLOW_DOWN = {429, 502, 503, 504}
_GONE = 410


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where to post and what to sign with; neither shows in a repr."""

    name: str
    url: str = field(repr=False)
    secret: str = field(repr=False)
    allow_private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The receiver took it (2xx)."""

    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """It did not go; `after` is how long the receiver asked to be left alone."""

    reason: str
    after: timedelta = timedelta()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The receiver wants nothing more (410)."""

    reason: str


Outcome = Delivered | Retry | Refused


def post(webhook: Webhook, delivery_id: UUID, body: bytes, now: datetime) -> Outcome:
    """Post one event and say what came of it; never raises for what a receiver does."""
    headers = {
        "Host": urlsplit(webhook.url).netloc,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "User-Agent": "longwatch",
        "webhook-id": str(delivery_id),
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": sign(webhook.secret, str(delivery_id), now, body),
    }
    try:
        status, answer = _answer(webhook, headers, body)
        return _outcome(status, answer, now)
    except AddressRefused as error:
        return Retry(reason=f"{error}; allow_private would admit it")
    except httpcore.TimeoutException:
        return Retry(reason=f"no answer within {TIMEOUT.seconds} s")
    except httpcore.ConnectError as error:
        return Retry(reason=f"cannot connect: {error}")
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        return Retry(reason=f"the connection broke: {type(error).__name__}")


def sign(secret: str, delivery_id: str, now: datetime, body: bytes) -> str:
    """Return the `webhook-signature`: HMAC-SHA256 over `id.timestamp.body`."""
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


def check_url(url: str, *, allow_private: bool) -> None:
    """Raise ValueError, without the URL, when it cannot be posted to."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("url must be a URL such as https://soc.example/hook") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or not _is_plain(url):
        raise ValueError("url must be a URL such as https://soc.example/hook, in plain ASCII")
    if parts.scheme == "http" and not allow_private:
        raise ValueError("url must be https; allow_private admits http inside your own network")
    if "@" in parts.netloc:
        raise ValueError("url must hold no user and password: receivers check the signature")


def _is_plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and " " not in url


def _answer(
    webhook: Webhook, headers: dict[str, str], body: bytes
) -> tuple[int, dict[bytes, bytes]]:
    network = BoundedNetwork(
        deadline=time.monotonic() + TIMEOUT.total_seconds(), allow_private=webhook.allow_private
    )
    url = urlsplit(webhook.url)._replace(fragment="").geturl()
    with (
        httpcore.ConnectionPool(network_backend=network) as pool,
        pool.stream("POST", url, headers=list(headers.items()), content=body) as response,
    ):
        return response.status, {name.lower(): value for name, value in response.headers}


def _outcome(status: int, headers: dict[bytes, bytes], now: datetime) -> Outcome:
    if 200 <= status < 300:
        return Delivered(status=status)
    if status == _GONE:
        return Refused(reason="status 410: it wants nothing more")
    after = _retry_after(headers.get(b"retry-after", b""), now) if status in _SLOW_DOWN else None
    return Retry(reason=f"status {status}", after=after or timedelta())


def _retry_after(value: bytes, now: datetime) -> timedelta | None:
    """Read seconds or an HTTP date (RFC 9110, 10.2.3), within a day; None when it is neither."""
    text = value.decode("latin-1")
    if text.isdecimal() and text.isascii():
        return min(timedelta(seconds=int(text[:9])), _MAX_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return min(max(at.astimezone(UTC) - now, timedelta()), _MAX_RETRY_AFTER)
