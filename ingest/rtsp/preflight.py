"""Ask a camera, without a password, what FFmpeg will ask it: a look before FFmpeg connects.

It tells where the camera redirects to, how it wants to be logged in to, and whether it answers at
all. A relay that starts its source on demand does so for whoever waits for its description; such a
connection is kept open until FFmpeg has its own, or the source would be stopped in between.
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
"""An address and a port that a connection leads to."""
CONNECT_TIMEOUT = 5.0
"""Seconds for a connection to be made."""
RESPONSE_TIMEOUT = 20.0
"""Seconds until a camera, or all that it redirects to, must have answered."""
_ON_DEMAND_SECONDS = 1.0
"""Seconds for a description after which a source was started for it."""
_SINGLE_PICTURE_SECONDS = 2.0
"""Seconds within which a connection ends that brings one picture."""
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake (RFC 8446, 5.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightResponse:
    """What a camera answered, and who that was; `code` is 0 where it was no answer.

    `digests` are the algorithms of the digest log-ins that it offers, in its order. `held` is the
    open connection of one that started its source for us; whoever gets it closes it.
    """

    status: int
    peer: Peer
    locations: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    is_single_picture: bool = False
    encoding: str = ""
    """How what follows is compressed (RFC 9110, 8.4)."""
    other_scheme: str = ""
    """What the url should begin with, where the camera speaks something else at this port."""
    open_connection: socket.socket | None = None


class NoAnswer(Exception):
    """The host does not answer; `is_connected` where it took the connection."""

    def __init__(self, is_connected: bool) -> None:
        super().__init__()
        self.is_connected = is_connected


class _WrongProtocol(ValueError):
    """What came is no answer of this protocol; its text is what came."""


def query_camera(
    url: CameraUrl, deadline: float, on_connect: Callable[[Peer], None]
) -> PreflightResponse | None:
    """Return what a camera answers; None where it cannot be asked, as where nothing listens.

    `deadline` is on `time.monotonic`; `met` is told of each connection. Raises NoAnswer where one
    waits in vain.
    """
    try:
        plain = socket.create_connection(
            (url.host, url.port), timeout=min(CONNECT_TIMEOUT, seconds_left(deadline))
        )
    except TimeoutError:
        raise NoAnswer(False) from None
    except (OSError, ValueError):  # UnicodeError is what a name that is none makes
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
    with suppress(OSError):  # a camera that starts anew is noticed while we wait for its answer
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
    """Return the first answer that redirects, or the last one; raise _NotSpoken for no answer."""
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
    """Return the scheme that is spoken at this port instead of the url's; empty if none is."""
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
    """Yield every Location of a redirect: which of several counts is each client's own choice."""
    if 300 <= head.status < 400:
        yield from head.header_values("location")


def _digests(head: ResponseHead) -> Iterator[str]:
    """Yield the algorithms of the digest log-ins that FFmpeg sees in an answer.

    It reads a field by the first scheme in it.
    """
    for challenges in head.challenges():
        if challenges and challenges[0].scheme == "digest":
            yield from (each.algorithm for each in challenges if each.scheme == "digest")


def _is_single_picture(head: ResponseHead, connection: socket.socket) -> bool:
    """Return whether an answer is a single picture: some cameras send JPEGs without end so, too."""
    if head.status != 200 or not any(
        value.startswith("image/") for value in head.header_values("content-type")
    ):
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
