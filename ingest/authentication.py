"""Which log-ins a camera offers: a look of our own, without user and password.

All that a server sends is untrusted: it is read to a bound, in a bounded time, and nothing of it is
shown but the names that are known here.
"""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from ingest.preflight import tls_of_cameras

SECONDS = 5.0
"""How long a look may take."""
_MOST_BYTES = 16 * 2**10
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_USERINFO = re.compile(r"(?<=://)[^/?#]*@")
_STATUS = re.compile(r"^(?:RTSP|HTTP)/\S{1,8} +([0-9]{3})\b", re.MULTILINE)
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 (RFC 9110, 5.6.2)
_ITEM = re.compile(rf'({_TOKEN})(?:[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^\s,"]*))?')
_SCHEMES = ("basic", "bearer", "negotiate", "ntlm")
_ALGORITHMS = ("md5", "md5-sess", "sha-256", "sha-256-sess", "sha-512-256", "sha-512-256-sess")
DIGEST_MD5 = ("digest-md5", "digest-md5-sess")


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """What a camera says to one who does not log in; times in seconds.

    `connected` is how long it took to connect, `answered` until the first answer after that; None
    where there was neither. `is_needed` is None where no answer says it. `offered` are `basic`,
    `digest-md5`, `digest-sha-256` and the like, in the camera's order.
    """

    connected: float | None = None
    answered: float | None = None
    is_needed: bool | None = None
    offered: tuple[str, ...] = ()
    is_encrypted: bool = False


def authentication_of(url: str, seconds: float = SECONDS) -> Authentication:
    """Ask a camera which log-ins it offers; what it does not say is None.

    `url` is one that `address_of` takes; its user and password are not sent.
    """
    look = _Look(_USERINFO.sub("", url), time.monotonic() + seconds)
    with suppress(OSError, ValueError):  # UnicodeError is what a name that is none makes
        look.run()
    return look.found()


class _Look:
    """One connection, and what was learnt over it."""

    def __init__(self, url: str, deadline: float) -> None:
        self._url = url
        self._parts = urlsplit(url)
        self._deadline = deadline
        self._connected: float | None = None
        self._answered: float | None = None
        self._heads: list[str] = []
        self._is_answered = False

    def run(self) -> None:
        """Ask all that there is to ask; raise OSError or ValueError where that is not possible."""
        if not re.fullmatch(r"[!-~]+", self._url):
            raise ValueError("no request can name it")
        began = time.monotonic()
        with self._connect() as connection:
            self._connected = time.monotonic() - began
            for request in _requests(self._parts):
                self._ask(connection, request)
        self._is_answered = True

    def found(self) -> Authentication:
        """Return what was learnt."""
        codes = [_code(head) for head in self._heads]
        is_refused = not {401, 407}.isdisjoint(codes)
        is_open = self._is_answered and codes[-1] == 200
        return Authentication(
            connected=self._connected,
            answered=self._answered,
            is_needed=is_refused if is_refused or is_open else None,
            offered=tuple(dict.fromkeys(kind for head in self._heads for kind in kinds(head))),
            is_encrypted=self._is_encrypted,
        )

    @property
    def _is_encrypted(self) -> bool:
        return self._parts.scheme.endswith("s")

    def _connect(self) -> socket.socket:
        host, port = self._parts.hostname or "", self._parts.port or _PORTS[self._parts.scheme]
        plain = socket.create_connection((host, port), timeout=self._left())
        return _encrypted(plain, host) if self._is_encrypted else plain

    def _ask(self, connection: socket.socket, request: bytes) -> None:
        """Send a request and keep the head of its answer."""
        began = time.monotonic()
        connection.settimeout(self._left())
        connection.sendall(request)
        head = b""
        while b"\n\n" not in head and len(head) < _MOST_BYTES:
            connection.settimeout(self._left())
            more = connection.recv(4096)
            if not more:
                break
            head = (head + more).replace(b"\r", b"")
        if head and self._answered is None:
            self._answered = time.monotonic() - began
        self._heads.append(_head(head.decode("latin-1")))

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _head(text: str) -> str:
    """Return the head of an answer, without what may be left of the one before."""
    status = _STATUS.search(text)
    return text[status.start() :].partition("\n\n")[0] if status else ""


def _code(head: str) -> int:
    status = _STATUS.match(head)
    return int(status[1]) if status else 0


def kinds(head: str) -> Iterator[str]:
    """Yield the log-ins that the head of an answer offers (RFC 9110, 11.6.1; RFC 7616, 3.3).

    What is not known here is passed over.
    """
    for name, _, value in (line.partition(":") for line in head.split("\n")):
        if name.strip().lower() == "www-authenticate":
            yield from _kinds(value)


def _kinds(challenges: str) -> Iterator[str]:
    """Yield the kinds in one field; it may hold several challenges, with commas in quotes."""
    is_digest, algorithm = False, "md5"
    for match in _ITEM.finditer(challenges):
        name, value = match[1].lower(), match[2]
        if value is not None:
            if name == "algorithm":
                algorithm = value.strip('"').strip().lower()
            continue
        if is_digest and algorithm in _ALGORITHMS:
            yield f"digest-{algorithm}"
        is_digest, algorithm = name == "digest", "md5"
        if name in _SCHEMES:
            yield name
    if is_digest and algorithm in _ALGORITHMS:
        yield f"digest-{algorithm}"


def _requests(parts: SplitResult) -> Iterator[bytes]:
    agent, url = "User-Agent: longwatch\r\n", parts.geturl()
    if parts.scheme.startswith("rtsp"):
        yield f"OPTIONS {url} RTSP/1.0\r\nCSeq: 1\r\n{agent}\r\n".encode()
        accept = "Accept: application/sdp\r\n"
        yield f"DESCRIBE {url} RTSP/1.0\r\nCSeq: 2\r\n{accept}{agent}\r\n".encode()
        return
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = f"Host: {parts.netloc}\r\nConnection: close\r\nAccept: */*\r\n"
    yield f"GET {path} HTTP/1.1\r\n{fields}{agent}\r\n".encode()


def _encrypted(plain: socket.socket, host: str) -> socket.socket:
    try:
        return tls_of_cameras().wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise
