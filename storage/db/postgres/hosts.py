"""Which of several PostgreSQL hosts is connected to: the primary, and never one of the past.

A primary that another has taken over from may come back and take writes, as if nothing had
happened (split brain). Each promotion begins a new timeline, so that the older one is known.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.pool import ConnectionPoolEntry

from storage.db.postgres.server_url import PostgresHost, ServerUrl

READ_ONLY_MESSAGES = ("session is read-only", "server is in hot standby mode")
"""What libpq says of a host that takes no writes."""
OLD_PRIMARY = "is an old primary"
_PRIMARY_TIMELINE = """
SELECT (SELECT system_identifier FROM pg_control_system()),
       ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
WHERE NOT pg_is_in_recovery()
"""
_ANY_SESSION = {"target_session_attrs": "any"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The cluster that a primary is of, and the number that grows by each promotion."""

    cluster: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresHostState:
    """What a host is: a primary with its `timeline`, a standby, or not reached and why."""

    host: PostgresHost
    is_standby: bool = False
    timeline: Timeline | None = None
    problem: str = ""


class PrimaryConnector:
    """Connect an engine that writes to the primary; refuse one of an older timeline."""

    def __init__(self, server: ServerUrl) -> None:
        self._server = server
        self._newest: Timeline | None = None

    def connect(
        self, dialect: Dialect, _: ConnectionPoolEntry, args: list[Any], options: dict[str, Any]
    ) -> Any:
        """Return a connection; raises the driver's OperationalError where there is no primary."""
        connection = dialect.connect(*args, **options)
        refused = self._refusal(connection)
        if refused is None:
            return connection
        for each in _options_per_host(self._server, options):
            try:
                connection = dialect.connect(*args, **each)
            except dialect.loaded_dbapi.OperationalError:
                continue
            if self._refusal(connection) is None:
                return connection
        raise dialect.loaded_dbapi.OperationalError(refused)

    def _refusal(self, connection: Any) -> str | None:
        """Note the timeline of a connection; close it, and say why, where it is an old one."""
        found, newest = read_timeline(connection), self._newest
        if newest is None or found is None or found.cluster != newest.cluster:
            self._newest = found or newest
            return None
        if found.number >= newest.number:
            self._newest = found
            return None
        host, port = connection.info.host, connection.info.port
        connection.close()
        return (
            f"{host}:{port} {OLD_PRIMARY}: it is on timeline {found.number}, we have written to"
            f" {newest.number}: stop it and make it a standby, or restart longwatch if it is right"
        )


def require_primary(engine: Engine, server: ServerUrl) -> None:
    """Let an engine that writes connect to the primary alone."""
    event.listen(engine, "do_connect", PrimaryConnector(server).connect)


def allow_standby(engine: Engine) -> None:
    """Let an engine that reads connect to a standby where no host takes writes."""
    event.listen(engine, "do_connect", _connect_to_any)


def _connect_to_any(
    dialect: Dialect, _: ConnectionPoolEntry, args: list[Any], options: dict[str, Any]
) -> Any:
    try:
        return dialect.connect(*args, **options)
    except dialect.loaded_dbapi.OperationalError as error:
        if not any(words in str(error) for words in READ_ONLY_MESSAGES):
            raise
        return dialect.connect(*args, **options | _ANY_SESSION)


def read_timeline(connection: Any) -> Timeline | None:
    """Return the timeline of a primary; None of a standby, or where the server does not tell.

    A connection that is lost is closed, and the driver's error raised.
    """
    try:
        with connection.cursor() as cursor:
            row = cursor.execute(_PRIMARY_TIMELINE).fetchone()
    except type(connection).Error:
        if connection.broken:
            connection.close()
            raise
        row = None  # servers that others run do not all let us ask
    connection.rollback()
    return None if row is None else Timeline(cluster=row[0], number=row[1])


def read_host_state(host: PostgresHost, connection: Any) -> PostgresHostState:
    """Return what a host is, by a connection to it."""
    with connection.cursor() as cursor:
        is_standby, *_ = cursor.execute("SELECT pg_is_in_recovery()").fetchone()
    return PostgresHostState(host=host, is_standby=is_standby, timeline=read_timeline(connection))


def _options_per_host(server: ServerUrl, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the options for each host alone."""
    for host in server.hosts:
        yield options | {"host": host.name, "port": str(host.port or "")}
