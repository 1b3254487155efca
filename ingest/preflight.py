"""Ask a camera, without a password, what FFmpeg will ask it: a look before FFmpeg connects.

It tells where the camera redirects to, how it wants to be logged in to, and whether it answers at
all. A relay that starts its source on demand does so for whoever waits for its description; such a
connection is kept open until FFmpeg has its own, or the source would be stopped in between.
"""

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

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
_MOST_BYTES = 16 * 2**10
PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_STATUS = re.compile(r"\s*(?P<protocol>RTSP|HTTP)/\S+\s+(?P<code>[0-9]{3})\b")
_ALGORITHM = re.compile(r"\balgorithm\s*=\s*\"?([\w-]+)", re.IGNORECASE)
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake (RFC 8446, 5.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A url without user and password, and its parts."""

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_encrypted(self) -> bool:
        """Return whether it is asked over TLS."""
        return self.scheme.endswith("s")

    @property
    def is_rtsp(self) -> bool:
        """Return whether it is asked over RTSP, not HTTP."""
        return self.scheme.startswith("rtsp")

    @property
    def shown(self) -> str:
        """Return `host:port`, the port where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


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
            (place.host, place.port), timeout=min(CONNECT, _left(deadline))
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
        head = str(error) if isinstance(error, _NotSpoken) else ""
        return Answer(code=0, peer=peer, other_scheme=_other_scheme(place, head))


def _ask(place: Place, plain: socket.socket, peer: Peer, deadline: float) -> Answer:
    with suppress(OSError):  # a camera that starts anew is noticed while we wait for its answer
        _keep_alive(plain)
    connection = _secured(plain, place) if place.is_encrypted else plain
    is_held = False
    try:
        head, began = "", time.monotonic()
        for request in _requests(place):
            connection.settimeout(_left(deadline))
            connection.sendall(request)
            head = _head(connection, deadline)
            if locations := tuple(_locations(head)):
                return Answer(code=_code(head), peer=peer, locations=locations)
        if not _code(head):
            raise _NotSpoken(head)
        is_held = _code(head) == 200 and time.monotonic() - began > _ON_DEMAND
        return Answer(
            code=_code(head),
            peer=peer,
            digests=tuple(_digests(head)),
            is_one_picture=_is_one_picture(head, connection),
            encoding=next(_values(head, "content-encoding"), ""),
            held=connection if is_held else None,
        )
    finally:
        if not is_held:
            connection.close()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), 2)


def tls_of_cameras() -> ssl.SSLContext:
    """Return TLS as FFmpeg speaks it to a camera.

    A camera signs its certificate itself, if it knows today's ciphers at all.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def _secured(plain: socket.socket, place: Place) -> socket.socket:
    plain.settimeout(CONNECT)
    try:
        return tls_of_cameras().wrap_socket(plain, server_hostname=place.host)
    except TimeoutError:  # it waits for the end of what it takes for a request
        plain.close()
        raise ssl.SSLError from None
    except BaseException:
        plain.close()
        raise


def _other_scheme(place: Place, head: str) -> str:
    """Return the scheme that is spoken at this port instead of the url's; empty if none is."""
    other = place.scheme.removesuffix("s") + ("" if place.is_encrypted else "s")
    if head.encode("latin-1")[:2] in _TLS_RECORDS:
        return other
    with (
        suppress(OSError, ValueError),
        socket.create_connection((place.host, place.port), timeout=CONNECT) as plain,
    ):
        if not place.is_encrypted:
            _secured(plain, place).close()
            return other
        plain.sendall(next(_requests(place)))
        if _code(_head(plain, time.monotonic() + CONNECT)):
            return other
    return ""


def _requests(place: Place) -> Iterator[bytes]:
    agent = "User-Agent: longwatch\r\n"
    if place.is_rtsp:
        yield f"OPTIONS {place.url} RTSP/1.0\r\nCSeq: 1\r\n{agent}\r\n".encode()
        accept = "Accept: application/sdp\r\n"
        yield f"DESCRIBE {place.url} RTSP/1.0\r\nCSeq: 2\r\n{accept}{agent}\r\n".encode()
    else:
        path = place.path.partition("#")[0]
        path = path if path.startswith("/") else f"/{path}"
        host = f"Host: {place.shown}\r\nConnection: close\r\nAccept: */*\r\n"
        yield f"GET {path} HTTP/1.1\r\n{host}{agent}\r\n".encode()


def _head(connection: socket.socket, deadline: float) -> str:
    """Return the beginning of an answer, up to its first empty line if that is near."""
    head = b""
    while b"\n\n" not in head.replace(b"\r", b"") and len(head) < _MOST_BYTES:
        connection.settimeout(_left(deadline))
        more = connection.recv(4096)
        if not more:
            break
        head += more
    return head.replace(b"\r", b"").partition(b"\n\n")[0].decode("latin-1")


def _locations(head: str) -> Iterator[str]:
    """Yield every Location of a redirect: which of several counts is each client's own choice."""
    if 300 <= _code(head) < 400:
        yield from _values(head, "location")


def _digests(head: str) -> Iterator[str]:
    """Yield the algorithms of the digest log-ins that an answer offers (RFC 7616, 3.3)."""
    for challenge in _values(head, "www-authenticate"):
        if challenge.lower().startswith("digest "):
            match = _ALGORITHM.search(challenge)
            yield match[1] if match else "MD5"


def _is_one_picture(head: str, connection: socket.socket) -> bool:
    """Return whether an answer is a single picture: some cameras send JPEGs without end so, too."""
    if _code(head) != 200 or not any(
        value.startswith("image/") for value in _values(head, "content-type")
    ):
        return False
    if any(_values(head, "content-length")):
        return True
    deadline = time.monotonic() + _ONE_PICTURE
    with suppress(TimeoutError):
        while time.monotonic() < deadline:
            connection.settimeout(_left(deadline))
            if not connection.recv(65_536):
                return True
    return False


def _values(head: str, wanted: str) -> Iterator[str]:
    """Yield the values of a field of an answer."""
    _, *fields = head.split("\n")
    for name, _, value in (field.partition(":") for field in fields):
        if name.strip().lower() == wanted:
            yield value.strip()


def _code(head: str) -> int:
    """Return the status of an answer; 0 where it is none."""
    match = _STATUS.match(head)
    return int(match["code"]) if match else 0


def _left(deadline: float) -> float:
    """Return the seconds until a deadline, a very short time once it has passed."""
    return max(0.01, deadline - time.monotonic())
