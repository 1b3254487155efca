"""One HTTP POST to a host that may be anybody's.

The name is resolved once, every address is checked, and the connection goes to an address that
was checked. No proxy, no redirect, no answer body is read, and all of it together ends after 15 s.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import httpcore

from alerts.addresses import PUBLIC, AddressRefused, Allowed, is_host
from alerts.network import BoundedNetwork, Resolve, resolve
from alerts.outcomes import Outcome, Retry, no_means, not_allowed, outcome_of, printable

TIMEOUT = timedelta(seconds=15)
_CERTIFICATE = "certificate verify failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """How a host is reached: what is allowed, and who resolves its name."""

    allowed: Allowed = PUBLIC
    resolve: Resolve = resolve


FRONT = Door()
"""The public internet, and the system's resolver."""


def post_json(
    url: str, headers: Mapping[str, str], body: bytes, now: datetime, door: Door
) -> Outcome:
    """Post and say what came of it; never raises for what a receiver does."""
    sent = {
        "Host": urlsplit(url).netloc,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "User-Agent": "longwatch",
        **headers,
    }
    try:
        status, answer = _answer(url, sent, body, door)
        return outcome_of(status, answer.get(b"retry-after", b"").decode("latin-1"), now)
    except AddressRefused as error:
        return not_allowed(error)
    except httpcore.TimeoutException:
        told = f"no answer within {TIMEOUT.seconds} s"
        return Retry(reason=told, hint="see whether it runs, and whether a firewall is between")
    except httpcore.ConnectError as error:
        return Retry(reason=printable(f"cannot connect: {error}"), hint=_connect_hint(str(error)))
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        told = f"the connection broke: {type(error).__name__}"
        return Retry(reason=told, hint="see whether it speaks HTTP at this port")
    except OSError as error:
        return no_means(error)


def check_url(url: str, *, allowed: Allowed) -> None:
    """Raise ValueError, without the URL, when it cannot be posted to."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("url must be a URL such as https://soc.example/hook") from None
    if "@" in parts.netloc:
        raise ValueError("url must hold no user and password: receivers check the signature")
    host = parts.hostname or ""
    if parts.scheme not in ("https", "http") or not is_host(host) or not _is_plain(url):
        raise ValueError("url must be a URL such as https://soc.example/hook, in plain ASCII")
    if parts.scheme == "http" and not allowed.names(host):
        raise ValueError("url must be https; http is for hosts that `allow` names")


def _answer(
    url: str, headers: Mapping[str, str], body: bytes, door: Door
) -> tuple[int, dict[bytes, bytes]]:
    network = BoundedNetwork(
        deadline=time.monotonic() + TIMEOUT.total_seconds(),
        allowed=door.allowed,
        resolve=door.resolve,
    )
    target = urlsplit(url)._replace(fragment="").geturl()
    # Made before there is a connection, which the pool would not close where this fails.
    context = httpcore.default_ssl_context() if target.startswith("https:") else None
    with (
        httpcore.ConnectionPool(network_backend=network, ssl_context=context) as pool,
        pool.stream("POST", target, headers=list(headers.items()), content=body) as response,
    ):
        return response.status, {name.lower(): value for name, value in response.headers}


def _connect_hint(told: str) -> str:
    if _CERTIFICATE in told:
        return "renew its certificate, or name the file of your own authority in SSL_CERT_FILE"
    return "see whether it runs, and whether the URL names the right host and port"


def _is_plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and not set(url) & set(' \\"<>^`{|}')
