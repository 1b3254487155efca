"""Where a camera redirects to: a look of our own, without a password, before FFmpeg connects.

FFmpeg follows a redirect of RTSP to any host, logs in there, and has no option against it. So the
camera is asked first what FFmpeg will ask it. Whatever is no redirect is left to FFmpeg: also 401,
silence, and what is no answer at all.
"""

import re
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from ingest.errors import CameraLost

if TYPE_CHECKING:
    from ingest.camera import Camera

SECONDS = 3.0
"""How long all looks before one connection may take together."""
_SETTLING = 0.25
"""Seconds after a description: some servers take down what they prepared for us as we leave, and
refuse whoever comes meanwhile (GStreamer's does for some 10 ms)."""
_MOST_REDIRECTS = 5
_MOST_BYTES = 16 * 2**10
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_USERINFO = re.compile(r"(?<=://)[^/?#]*@")
_URL = re.compile(
    r"(?P<scheme>rtsps?|https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:[/?#][!-~]*)?)"
)
_STATUS = re.compile(r"\s*(?:RTSP|HTTP)/\S+\s+(?P<code>[0-9]{3})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A url without user and password, and its parts."""

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_encrypted(self) -> bool:
        return self.scheme.endswith("s")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """Where a camera redirects to, if anywhere, the address that answered, and if by a stream."""

    locations: tuple[str, ...]
    peer: str
    is_stream: bool = False


def url_to_open(camera: "Camera") -> str:
    """Return the url that FFmpeg may open for a live camera.

    That is its own, or over HTTP the one that it redirects to. Redirects are followed on the same
    host, but not from an encrypted scheme to a plain one, and to hosts in `camera.redirects`.
    Raises CameraLost, with both hosts and no password, where one leads anywhere else.
    """
    place = _place_of(_USERINFO.sub("", camera.url))
    if place is None:
        return camera.url  # FFmpeg says what it makes of it
    deadline = time.monotonic() + SECONDS
    userinfo = "".join(_USERINFO.findall(camera.url))
    for _ in range(_MOST_REDIRECTS):
        answer = _ask(place, deadline)
        if answer is not None and answer.is_stream:
            Event().wait(_SETTLING)
        if answer is None or not answer.locations:
            return camera.url if place.scheme.startswith("rtsp") else _with(userinfo, place)
        following = [_next(camera, place, answer.peer, each) for each in answer.locations]
        if not _is_host(following[-1].host, place.host, answer.peer):
            userinfo = ""
        place = following[-1]
    raise CameraLost(camera.name, f"{_shown(place)} redirects again and again: check its settings")


def _next(camera: "Camera", place: _Place, peer: str, location: str) -> _Place:
    """Return where a redirect leads; raise CameraLost where it must not."""
    told = "" if place.scheme.startswith("rtsp") else place.url
    target = _place_of(urljoin(told, location) if told else location)
    if target is None or target.scheme[:4] != place.scheme[:4]:
        raise CameraLost(camera.name, f"{_shown(place)} redirects to what is no address for it")
    if _is_host(target.host, *camera.redirects):
        return target
    if not _is_host(target.host, place.host, peer):
        told = (
            f"{_shown(place)} redirects to {_shown(target)}, another host, which would get the"
            " password: name that host under `redirects` if it is yours"
        )
        raise CameraLost(camera.name, told)
    if place.is_encrypted and not target.is_encrypted:
        told = (
            f"{_shown(place)} redirects from {place.scheme} to {target.scheme}, which is in clear"
        )
        raise CameraLost(camera.name, told)
    return target


def _ask(place: _Place, deadline: float) -> _Answer | None:
    """Return what a camera answers to the requests that FFmpeg begins with; None without any."""
    try:
        with _connected(place, deadline) as connection:
            peer = str(connection.getpeername()[0])
            for request in _requests(place):
                connection.sendall(request)
                head = _head(connection, deadline)
                if locations := tuple(_locations(head)):
                    return _Answer(locations=locations, peer=peer)
            is_stream = place.scheme.startswith("rtsp") and _code(head) == 200
            return _Answer(locations=(), peer=peer, is_stream=is_stream)
    except (OSError, ValueError):  # UnicodeError is what a name that is none makes
        return None


def _connected(place: _Place, deadline: float) -> socket.socket:
    plain = socket.create_connection((place.host, place.port), timeout=_left(deadline))
    if not place.is_encrypted:
        return plain
    # As FFmpeg connects: a camera signs its certificate itself, if it knows today's ciphers at all.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    try:
        return context.wrap_socket(plain, server_hostname=place.host)
    except BaseException:
        plain.close()
        raise


def _requests(place: _Place) -> Iterator[bytes]:
    agent = "User-Agent: longwatch\r\n"
    if place.scheme.startswith("rtsp"):
        yield f"OPTIONS {place.url} RTSP/1.0\r\nCSeq: 1\r\n{agent}\r\n".encode()
        accept = "Accept: application/sdp\r\n"
        yield f"DESCRIBE {place.url} RTSP/1.0\r\nCSeq: 2\r\n{accept}{agent}\r\n".encode()
    else:
        path = place.path.partition("#")[0]
        path = path if path.startswith("/") else f"/{path}"
        host = f"Host: {_shown(place)}\r\nConnection: close\r\nAccept: */*\r\n"
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
    if not 300 <= _code(head) < 400:
        return
    _, *fields = head.split("\n")
    for name, _, value in (field.partition(":") for field in fields):
        if name.strip().lower() == "location":
            yield value.strip()


def _code(head: str) -> int:
    """Return the status of an answer; 0 where it is none."""
    match = _STATUS.match(head)
    return int(match["code"]) if match else 0


def _place_of(url: str) -> _Place | None:
    match = _URL.fullmatch(url)
    if match is None:
        return None
    scheme, host = match["scheme"], match["host"].strip("[]")
    port = int(match["port"] or _PORTS[scheme])
    return _Place(url=url, scheme=scheme, host=host, port=port, path=match["path"])


def _is_host(host: str, *others: str) -> bool:
    return _plain(host) in map(_plain, others)


def _plain(host: str) -> str:
    """Return a host in the one spelling that it is compared in."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        return str(ip_address(host))
    except ValueError:
        return host


def _with(userinfo: str, place: _Place) -> str:
    return place.url.replace("://", f"://{userinfo}", 1)


def _shown(place: _Place) -> str:
    host = f"[{place.host}]" if ":" in place.host else place.host
    return host if place.port == _PORTS[place.scheme] else f"{host}:{place.port}"


def _left(deadline: float) -> float:
    """Return the seconds until a deadline, a very short time once it has passed."""
    return max(0.01, deadline - time.monotonic())
