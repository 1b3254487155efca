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

from ingest.exchange import Exchange, left, requests_of, secured
from ingest.head import Head
from ingest.place import Place

Peer: TypeAlias = tuple[str, int]
"""An address and a port that a connection leads to."""
CONNECT = 5.0
"""Seconds for a connection to be made."""
ANSWER = 20.0
"""Seconds until a camera, or all that it redirects to, must have answered."""
_ON_DEMAND = 1.0
"""Seconds for a description after which a source was started for it."""
_ONE_PICTURE = 2.0
"""Seconds within which a connection ends that brings one picture."""
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake (RFC 8446, 5.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a camera answered, and who that was; `code` is 0 where it was no answer.

    `digests` are the algorithms of the digest log-ins that it offers, in its order. `held` is the
    open connection of one that started its source for us; whoever gets it closes it.
    """

    code: int
    peer: Peer
    locations: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    is_one_picture: bool = False
    encoding: str = ""
    """How what follows is compressed (RFC 9110, 8.4)."""
    other_scheme: str = ""
    """What the url should begin with, where the camera speaks something else at this port."""
    held: socket.socket | None = None


class NoAnswer(Exception):
    """The host does not answer; `is_connected` where it took the connection."""

    def __init__(self, is_connected: bool) -> None:
        super().__init__()
        self.is_connected = is_connected


class _NotSpoken(ValueError):
    """What came is no answer of this protocol; its text is what came."""


def ask(place: Place, deadline: float, met: Callable[[Peer], None]) -> Answer | None:
    """Return what a camera answers; None where it cannot be asked, as where nothing listens.

    `deadline` is on `time.monotonic`; `met` is told of each connection. Raises NoAnswer where one
    waits in vain.
    """
    try:
        plain = socket.create_connection(
            (place.host, place.port), timeout=min(CONNECT, left(deadline))
        )
    except TimeoutError:
        raise NoAnswer(False) from None
    except (OSError, ValueError):  # UnicodeError is what a name that is none makes
        return None
    peer = plain.getpeername()[:2]
    try:
        met(peer)
        return _ask(place, plain, peer, deadline)
    except TimeoutError:
        raise NoAnswer(True) from None
    except (OSError, ValueError) as error:
        met(peer)
        told = str(error) if isinstance(error, _NotSpoken) else ""
        return Answer(code=0, peer=peer, other_scheme=_other_scheme(place, told))


def _ask(place: Place, plain: socket.socket, peer: Peer, deadline: float) -> Answer:
    with suppress(OSError):  # a camera that starts anew is noticed while we wait for its answer
        _keep_alive(plain)
    connection = secured(plain, place.host, CONNECT) if place.is_encrypted else plain
    try:
        began = time.monotonic()
        head = _last_head(place, Exchange(connection, deadline))
        is_started = head.code == 200 and time.monotonic() - began > _ON_DEMAND
        answer = _answer(head, peer, connection)
    except BaseException:
        connection.close()
        raise
    if is_started:
        return replace(answer, held=connection)
    connection.close()
    return answer


def _last_head(place: Place, exchange: Exchange) -> Head:
    """Return the first answer that redirects, or the last one; raise _NotSpoken for no answer."""
    head = Head(text="")
    for request in requests_of(place):
        head = exchange.ask(request)
        if any(_locations(head)):
            break
    if not head.code:
        raise _NotSpoken(head.text)
    return head


def _answer(head: Head, peer: Peer, connection: socket.socket) -> Answer:
    if locations := tuple(_locations(head)):
        return Answer(code=head.code, peer=peer, locations=locations)
    return Answer(
        code=head.code,
        peer=peer,
        digests=tuple(_digests(head)),
        is_one_picture=_is_one_picture(head, connection),
        encoding=next(head.values("content-encoding"), ""),
    )


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), 2)


def _other_scheme(place: Place, told: str) -> str:
    """Return the scheme that is spoken at this port instead of the url's; empty if none is."""
    other = place.scheme.removesuffix("s") + ("" if place.is_encrypted else "s")
    if told.encode("latin-1")[:2] in _TLS_RECORDS:
        return other
    with (
        suppress(OSError, ValueError),
        socket.create_connection((place.host, place.port), timeout=CONNECT) as plain,
    ):
        if not place.is_encrypted:
            secured(plain, place.host, CONNECT).close()
            return other
        exchange = Exchange(plain, time.monotonic() + CONNECT)
        if exchange.ask(next(requests_of(place))).code:
            return other
    return ""


def _locations(head: Head) -> Iterator[str]:
    """Yield every Location of a redirect: which of several counts is each client's own choice."""
    if 300 <= head.code < 400:
        yield from head.values("location")


def _digests(head: Head) -> Iterator[str]:
    """Yield the algorithms of the digest log-ins that FFmpeg sees in an answer.

    It reads a field by the first scheme in it.
    """
    for challenges in head.challenges():
        if challenges and challenges[0].scheme == "digest":
            yield from (each.algorithm for each in challenges if each.scheme == "digest")


def _is_one_picture(head: Head, connection: socket.socket) -> bool:
    """Return whether an answer is a single picture: some cameras send JPEGs without end so, too."""
    if head.code != 200 or not any(
        value.startswith("image/") for value in head.values("content-type")
    ):
        return False
    if any(head.values("content-length")):
        return True
    deadline = time.monotonic() + _ONE_PICTURE
    with suppress(TimeoutError):
        while True:
            connection.settimeout(left(deadline))
            if not connection.recv(65_536):
                return True
    return False
