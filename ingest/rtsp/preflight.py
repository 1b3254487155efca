"""Send FFmpeg's first requests to a camera, without a password, before FFmpeg connects.

The responses show redirects, the log-ins on offer, and whether the camera responds at all. A relay
may start its source on demand for this request; then the connection stays open until FFmpeg has its
own, or the relay would stop the source in between.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

from ingest.rtsp.exchange import Exchange, build_requests, seconds_left, wrap_tls
from ingest.rtsp.response import ResponseHead
from ingest.rtsp.url import CameraUrl

Peer: TypeAlias = tuple[str, int]
"""The address and port of the other end of a connection."""
CONNECT_TIMEOUT = 5.0
"""Seconds to make a connection."""
RESPONSE_TIMEOUT = 20.0
"""Seconds until a camera, and all that it redirects to, must have responded."""
_ON_DEMAND_SECONDS = 1.0
"""A slower response, in seconds, means that a source was started for it."""
_SINGLE_PICTURE_SECONDS = 2.0
"""Seconds within which a connection with a single picture ends."""
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake (RFC 8446, 5.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightResponse:
    """A camera's response, and the peer that sent it; `status` is 0 if it was not valid.

    `digests` are the algorithms of the digest log-ins on offer, in order. `open_connection` is kept
    if a relay started its source for us; the caller closes it.
    """

    status: int
    peer: Peer
    locations: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    is_single_picture: bool = False
    encoding: str = ""
    """The compression of the body (RFC 9110, 8.4)."""
    other_scheme: str = ""
    """The scheme that the url should have, if the camera uses another one at this port."""
    open_connection: socket.socket | None = None


class NoAnswer(Exception):
    """The host does not respond; `is_connected` says that it accepted the connection."""

    def __init__(self, is_connected: bool) -> None:
        super().__init__()
        self.is_connected = is_connected


class _WrongProtocol(ValueError):
    """The data is no response of this protocol; the text is the data."""


def query_camera(
    url: CameraUrl, deadline: float, on_connect: Callable[[Peer], None]
) -> PreflightResponse | None:
    """Return a camera's response; None if no connection is possible.

    `deadline` is on `time.monotonic`; `on_connect` is called with each peer. Raises NoAnswer on
    timeouts.
    """
    try:
        timeout = min(CONNECT_TIMEOUT, seconds_left(deadline))
        plain = socket.create_connection((url.host, url.port), timeout)
    except TimeoutError:
        raise NoAnswer(False) from None
    except (OSError, ValueError):  # an invalid host name raises UnicodeError
        return None
    peer = plain.getpeername()[:2]
    try:
        on_connect(peer)
        return _query_over(url, plain, peer, deadline)
    except TimeoutError:
        raise NoAnswer(True) from None
    except (OSError, ValueError) as error:
        on_connect(peer)
        received = str(error) if isinstance(error, _WrongProtocol) else ""
        return PreflightResponse(status=0, peer=peer, other_scheme=_detect_scheme(url, received))


def _query_over(
    url: CameraUrl, plain: socket.socket, peer: Peer, deadline: float
) -> PreflightResponse:
    with suppress(OSError):  # to notice a reboot while we wait
        _keep_alive(plain)
    connection = wrap_tls(plain, url.host, CONNECT_TIMEOUT) if url.is_encrypted else plain
    try:
        started_at = time.monotonic()
        head = _final_head(url, Exchange(connection, deadline))
        is_on_demand = head.status == 200 and time.monotonic() - started_at > _ON_DEMAND_SECONDS
        response = _parse_response(head, peer, connection)
    except BaseException:
        connection.close()
        raise
    if is_on_demand:
        return replace(response, open_connection=connection)
    connection.close()
    return response


def _final_head(url: CameraUrl, exchange: Exchange) -> ResponseHead:
    """Return the first redirect, or the last response; raise _WrongProtocol if it is none."""
    head = ResponseHead(text="")
    for request in build_requests(url):
        head = exchange.send(request)
        if any(_locations(head)):
            break
    if not head.status:
        raise _WrongProtocol(head.text)
    return head


def _parse_response(head: ResponseHead, peer: Peer, connection: socket.socket) -> PreflightResponse:
    if locations := tuple(_locations(head)):
        return PreflightResponse(status=head.status, peer=peer, locations=locations)
    return PreflightResponse(
        status=head.status,
        peer=peer,
        digests=tuple(_digests(head)),
        is_single_picture=_is_single_picture(head, connection),
        encoding=next(head.header_values("content-encoding"), ""),
    )


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), 2)


def _detect_scheme(url: CameraUrl, received: str) -> str:
    """Return the scheme that this port uses instead of the url's; empty if unknown."""
    alternative = url.scheme.removesuffix("s") + ("" if url.is_encrypted else "s")
    if received.encode("latin-1")[:2] in _TLS_RECORDS:
        return alternative
    with (
        suppress(OSError, ValueError),
        socket.create_connection((url.host, url.port), timeout=CONNECT_TIMEOUT) as plain,
    ):
        if not url.is_encrypted:
            wrap_tls(plain, url.host, CONNECT_TIMEOUT).close()
            return alternative
        exchange = Exchange(plain, time.monotonic() + CONNECT_TIMEOUT)
        if exchange.send(next(build_requests(url))).status:
            return alternative
    return ""


def _locations(head: ResponseHead) -> Iterator[str]:
    """Yield every Location of a redirect: clients differ in which one they follow."""
    if 300 <= head.status < 400:
        yield from head.header_values("location")


def _digests(head: ResponseHead) -> Iterator[str]:
    """Yield the digest algorithms that FFmpeg reads, which knows only a field's first scheme."""
    for challenges in head.challenges():
        if challenges and challenges[0].scheme == "digest":
            yield from (each.algorithm for each in challenges if each.scheme == "digest")


def _is_single_picture(head: ResponseHead, connection: socket.socket) -> bool:
    """Return whether the body is one picture, not an endless stream of JPEGs."""
    types = head.header_values("content-type")
    if head.status != 200 or not any(each.startswith("image/") for each in types):
        return False
    if any(head.header_values("content-length")):
        return True
    deadline = time.monotonic() + _SINGLE_PICTURE_SECONDS
    with suppress(TimeoutError):
        while True:
            connection.settimeout(seconds_left(deadline))
            if not connection.recv(65_536):
                return True
    return False
