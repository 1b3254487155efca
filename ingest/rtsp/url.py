"""Parse a url into its parts, without user and password."""

import re
from dataclasses import dataclass

_DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_MAX_PORT = 65_535
_USERINFO = re.compile(r"(?<=://)[^/?#]*@")
_URL = re.compile(
    r"(?P<scheme>rtsps?|https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:[/?#][!-~]*)?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraUrl:
    """A url without user and password, and its parts."""

    text: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_encrypted(self) -> bool:
        """Return whether it uses TLS."""
        return self.scheme.endswith("s")

    @property
    def is_rtsp(self) -> bool:
        """Return whether it uses RTSP, not HTTP."""
        return self.scheme.startswith("rtsp")

    @property
    def host_and_port(self) -> str:
        """Return `host:port`, without the port if it is the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def with_userinfo(self, userinfo: str) -> str:
        """Return the url with the result of `userinfo_of`."""
        return self.text.replace("://", f"://{userinfo}", 1)


def parse_url(url: str) -> CameraUrl | None:
    """Return the parts of a url without user and password; None if it is not valid in a request."""
    match = _URL.fullmatch(url)
    if match is None:
        return None
    scheme, host = match["scheme"], match["host"].strip("[]")
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if port > _MAX_PORT:
        return None
    return CameraUrl(text=url, scheme=scheme, host=host, port=port, path=match["path"])


def without_userinfo(url: str) -> str:
    """Return a url without its user and password."""
    return _USERINFO.sub("", url)


def userinfo_of(url: str) -> str:
    """Return the user and password of a url with the `@` after them; empty if it has none."""
    return "".join(_USERINFO.findall(url))
