"""Query which log-ins a camera offers, without sending user and password.

Of its responses only known names are shown.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from ingest.rtsp.exchange import Exchange, build_requests, seconds_left, wrap_tls
from ingest.rtsp.response import Challenge, ResponseHead
from ingest.rtsp.url import CameraUrl, parse_url, without_userinfo

QUERY_TIMEOUT = 5.0
"""Seconds that a query may take."""
_SCHEMES = ("basic", "bearer", "negotiate", "ntlm")
_ALGORITHMS = ("md5", "md5-sess", "sha-256", "sha-256-sess", "sha-512-256", "sha-512-256-sess")
DIGEST_MD5 = ("digest-md5", "digest-md5-sess")


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """A camera's response to a client that does not log in; times in seconds.

    `connected` is the time to connect, `answered` from then to the first response, each None if it
    never came. `is_needed` is None if unknown. `offered` contains `basic`, `digest-md5`,
    `digest-sha-256` and the like, in the camera's order.
    """

    connected: float | None = None
    answered: float | None = None
    is_needed: bool | None = None
    offered: tuple[str, ...] = ()
    is_encrypted: bool = False


def query_authentication(url: str, seconds: float = QUERY_TIMEOUT) -> Authentication:
    """Return which log-ins a camera offers.

    `url` is one that `address_of` accepts; its user and password are not sent.
    """
    camera_url = parse_url(without_userinfo(url))
    if camera_url is None:
        return Authentication()
    query = _AuthenticationQuery(camera_url, time.monotonic() + seconds)
    with suppress(OSError, ValueError):  # an invalid host name raises UnicodeError
        query.run()
    return query.result()


class _AuthenticationQuery:
    """One connection, and the responses over it."""

    def __init__(self, url: CameraUrl, deadline: float) -> None:
        self._url = url
        self._deadline = deadline
        self._connect_seconds: float | None = None
        self._response_seconds: float | None = None
        self._heads: list[ResponseHead] = []
        self._is_complete = False

    def run(self) -> None:
        """Send all requests; raise OSError or ValueError on failure."""
        started_at = time.monotonic()
        with self._connect() as connection:
            self._connect_seconds = time.monotonic() - started_at
            exchange = Exchange(connection, self._deadline)
            for request in build_requests(self._url):
                self._send(exchange, request)
        self._is_complete = True

    def result(self) -> Authentication:
        """Return what the responses say."""
        statuses = [head.status for head in self._heads]
        is_refused = not {401, 407}.isdisjoint(statuses)
        is_open = self._is_complete and statuses[-1] == 200
        return Authentication(
            connected=self._connect_seconds,
            answered=self._response_seconds,
            is_needed=is_refused if is_refused or is_open else None,
            offered=tuple(
                dict.fromkeys(kind for head in self._heads for kind in offered_schemes(head))
            ),
            is_encrypted=self._url.is_encrypted,
        )

    def _connect(self) -> socket.socket:
        url, deadline = self._url, self._deadline
        plain = socket.create_connection((url.host, url.port), timeout=seconds_left(deadline))
        return wrap_tls(plain, url.host, seconds_left(deadline)) if url.is_encrypted else plain

    def _send(self, exchange: Exchange, request: bytes) -> None:
        """Send a request and keep the head of its response."""
        started_at = time.monotonic()
        head = exchange.send(request)
        if head.text and self._response_seconds is None:
            self._response_seconds = time.monotonic() - started_at
        self._heads.append(head)


def offered_schemes(head: ResponseHead) -> Iterator[str]:
    """Yield the known log-ins that a response offers (RFC 9110, 11.6.1; RFC 7616, 3.3)."""
    for challenges in head.challenges():
        yield from filter(None, map(_scheme_name, challenges))


def _scheme_name(challenge: Challenge) -> str:
    """Return our name of a log-in; empty for an unknown one."""
    if challenge.scheme == "digest" and challenge.algorithm.lower() in _ALGORITHMS:
        return f"digest-{challenge.algorithm.lower()}"
    return challenge.scheme if challenge.scheme in _SCHEMES else ""
