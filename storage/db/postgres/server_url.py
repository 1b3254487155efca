"""The url of a PostgreSQL server, or of several of which one takes writes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

URL_FORMAT = "postgresql://USER:PASSWORD@HOST/NAME"
_URL = re.compile(
    r"postgresql(?:\+psycopg)?://"
    r"(?:(?P<user>[^:/@?]*)(?::(?P<password>[^@]*))?@)?"
    r"(?P<hosts>[^/?]*)/(?P<database>[^?]+)(?:\?(?P<query>.*))?"
)
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]*)(?::(?P<port>.*))?")
_URL_OPTIONS = {"host", "port", "user", "password"}
"""The options that the url has places of their own for."""
_NO_SOCKET_FOLDER = "/dev/null"
"""A folder of sockets that there never is: libpq checks the options, and connects to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresHost:
    """A host, or the folder of a socket, and its port."""

    name: str
    port: int | None = None

    @property
    def netloc(self) -> str:
        """Return the host as a url has it."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUrl:
    """Where a database is, who we are there, and the options of libpq; empty where not given."""

    hosts: tuple[PostgresHost, ...]
    database: str
    user: str = ""
    password: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def location(self) -> str:
        """Return the url as it may be shown: without user, password and options."""
        return f"postgresql://{','.join(host.netloc for host in self.hosts)}/{self.database}"


def parse_server_url(url: str) -> ServerUrl:
    """Take a url apart; raises ValueError, which repeats no secret, where it cannot work.

    Several hosts stand as `HOST:PORT,HOST:PORT`, or each as an option `host`.
    """
    found = split_server_url(url)
    if found.options.get("connect_timeout", "1").strip() in ("", "0"):
        raise ValueError("connect_timeout: it would wait for ever: name a number of seconds")
    problem = _libpq_problem(found)
    if problem:
        raise ValueError(f"{problem}: see the options of a connection in PostgreSQL's manual")
    return found


def split_server_url(url: str) -> ServerUrl:
    """Do the same and check no options."""
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(f"a server is written as {URL_FORMAT}")
    parts = {name: text or "" for name, text in match.groupdict().items()}
    options = parse_qsl(parts["query"], keep_blank_values=True)
    option_values = dict(options)
    named = [parts["hosts"], *(value for name, value in options if name == "host")]
    ports = [value for name, value in options if name == "port"]
    hosts = [text for value in named for text in value.split(",") if text]
    return ServerUrl(
        hosts=tuple(map(_parse_host, _with_ports(hosts, ports))),
        database=unquote(parts["database"]),
        user=unquote(parts["user"]) or option_values.get("user", ""),
        password=unquote(parts["password"]) or option_values.get("password", ""),
        options={name: value for name, value in options if name not in _URL_OPTIONS},
    )


def _with_ports(hosts: list[str], options: list[str]) -> list[str]:
    """Return the hosts with the ports of an option `port`: one for all, or one each."""
    if not options:
        return hosts
    ports = options[-1].split(",")
    if len(ports) not in (1, len(hosts)):
        raise ValueError("port: name one, or one for each host")
    each = ports if len(ports) > 1 else ports * len(hosts)
    return [f"{host}:{port}" for host, port in zip(hosts, each, strict=True)]


def _parse_host(text: str) -> PostgresHost:
    match = _HOST.fullmatch(text)
    if match is None or "@" in text:
        message = (
            "a host is written as HOST, HOST:PORT or [ADDRESS]:PORT, and @ in a password as %40"
        )
        raise ValueError(message)
    name, port = unquote(match["name"]).strip("[]"), match["port"]
    if port is None:
        return PostgresHost(name=name)
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"the port of {name} is a number from 1 to 65535")
    return PostgresHost(name=name, port=int(port))


def _libpq_problem(url: ServerUrl) -> str | None:
    """Return what libpq says against the options before it connects to anything."""
    try:
        from psycopg import ProgrammingError, conninfo, pq
    except ImportError:
        return None  # who connects says what to install
    try:
        conninfo.timeout_from_conninfo(dict(url.options))
        text = conninfo.make_conninfo(**dict(url.options) | {"host": _NO_SOCKET_FOLDER})
        message = pq.PGconn.connect_start(text.encode()).get_error_message()
    except (ProgrammingError, ValueError) as error:
        message = str(error)
    message = message.strip().splitlines()[0]
    is_of_socket = "connection to server" in message or "local socket" in message
    return None if is_of_socket else message.removeprefix("connection is bad: ")
