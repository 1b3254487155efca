"""One HTTP POST to an untrusted host.

The name is resolved once, and the connection goes to an address that was checked. There is no
proxy and no redirect, the body of the response is not read, and all of it ends after 15 s.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import httpcore

from alerts.notify.egress import PUBLIC_ONLY, AddressRefused, EgressAllowlist, is_host
from alerts.notify.network import BoundedNetwork, Resolver, resolve
from alerts.notify.outcomes import (
    DeliveryOutcome,
    Retry,
    address_refused_retry,
    local_failure_retry,
    outcome_from_status,
    printable,
)

TIMEOUT = timedelta(seconds=15)
_CERTIFICATE = "certificate verify failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressPolicy:
    """Which addresses may be connected to, and how names are resolved."""

    allowed: EgressAllowlist = PUBLIC_ONLY
    resolve: Resolver = resolve


PUBLIC_EGRESS = EgressPolicy()
"""The public internet, and the system's resolver."""


def post_json(
    url: str, headers: Mapping[str, str], body: bytes, now: datetime, egress: EgressPolicy
) -> DeliveryOutcome:
    """Post; never raises for what the receiver does."""
    all_headers = {
        "Host": urlsplit(url).netloc,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "User-Agent": "longwatch",
        **headers,
    }
    try:
        status, answer = _exchange(url, all_headers, body, egress)
        return outcome_from_status(status, answer.get(b"retry-after", b"").decode("latin-1"), now)
    except AddressRefused as error:
        return address_refused_retry(error)
    except httpcore.TimeoutException:
        reason = f"no answer within {TIMEOUT.seconds} s"
        return Retry(reason=reason, hint="see whether it runs, and whether a firewall is between")
    except httpcore.ConnectError as error:
        return Retry(reason=printable(f"cannot connect: {error}"), hint=_connect_hint(str(error)))
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        reason = f"the connection broke: {type(error).__name__}"
        return Retry(reason=reason, hint="see whether it speaks HTTP at this port")
    except OSError as error:
        return local_failure_retry(error)


def check_url(url: str, *, allowed: EgressAllowlist) -> None:
    """Raise ValueError, without the URL, if it cannot be posted to."""
    try:
        split = urlsplit(url)
        _ = split.port
    except ValueError:
        raise ValueError("url must be a URL such as https://soc.example/hook") from None
    if "@" in split.netloc:
        raise ValueError("url must hold no user and password: receivers check the signature")
    host = split.hostname or ""
    if split.scheme not in ("https", "http") or not is_host(host) or not _is_plain(url):
        raise ValueError("url must be a URL such as https://soc.example/hook, in plain ASCII")
    if split.scheme == "http" and not allowed.has_host(host):
        raise ValueError("url must be https; http is for hosts that `allow` names")


def _exchange(
    url: str, headers: Mapping[str, str], body: bytes, egress: EgressPolicy
) -> tuple[int, dict[bytes, bytes]]:
    network = BoundedNetwork(
        deadline=time.monotonic() + TIMEOUT.total_seconds(),
        allowed=egress.allowed,
        resolve=egress.resolve,
    )
    target = urlsplit(url)._replace(fragment="").geturl()
    # Created before the connection, which the pool would not close if this failed.
    context = httpcore.default_ssl_context() if target.startswith("https:") else None
    with (
        httpcore.ConnectionPool(network_backend=network, ssl_context=context) as pool,
        pool.stream("POST", target, headers=list(headers.items()), content=body) as response,
    ):
        return response.status, {name.lower(): value for name, value in response.headers}


def _connect_hint(error_text: str) -> str:
    if _CERTIFICATE in error_text:
        return "renew its certificate, or name the file of your own authority in SSL_CERT_FILE"
    return "see whether it runs, and whether the URL names the right host and port"


def _is_plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and not set(url) & set(' \\"<>^`{|}')
