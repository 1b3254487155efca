"""What the database asks of PostgreSQL."""

from dataclasses import replace

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

from storage.errors import StorageUnfit
from storage.postgres_errors import READ_ONLY, reason_of
from storage.postgres_hosts import HostState, accept_standby, find_primary, state_of
from storage.postgres_locks import WRITERS
from storage.postgres_session import check_session, set_local
from storage.server_url import Host, ServerUrl, parse_server, read_server

_WRITING_SECONDS, _READING_SECONDS = 10, 3
"""How long a statement waits for a lock."""
_SETTINGS = "longwatch_settings"
"""The execution option of an engine that holds the statements which set a transaction."""
_CONNECTING = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "longwatch",
    "client_encoding": "UTF8",
}


def parse(url: str) -> URL:
    """Take a url apart; raises ValueError, which repeats no secret, where it cannot work."""
    return _url_of(parse_server(url))


def _url_of(server: ServerUrl) -> URL:
    query: dict[str, str | list[str]] = dict(server.options)
    name = port = None
    if len(server.hosts) == 1:
        name, port = server.hosts[0].name, server.hosts[0].port
    else:
        query["host"] = [host.text for host in server.hosts]
    user, password = server.user or None, server.password or None
    return URL.create("postgresql", user, password, name, port, server.database, query)


def postgres_engine(url: URL, *, reading: bool = False) -> Engine:
    """Return an engine whose connections are looked at before they are used again."""
    server = _server(url)
    seconds = _READING_SECONDS if reading else _WRITING_SECONDS
    arguments = _CONNECTING | _hosts(server, reading=reading) | dict(server.options)
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg", query={}),
            pool_pre_ping=True,
            pool_recycle=1800,
            connect_args=arguments,
        )
    except ModuleNotFoundError as error:
        told = f"no {error.name} is installed: pip install 'psycopg[binary]'"
        raise StorageUnfit(server.place, told) from None
    engine.url = url
    engine.update_execution_options(**{_SETTINGS: set_local(server, seconds)})
    event.listen(engine, "connect", lambda made, _: check_session(made, server))
    event.listen(engine, "handle_error", _leave_standby)
    if not reading:
        find_primary(engine, server)
    elif len(server.hosts) > 1:
        accept_standby(engine)
    return engine


def look_at_hosts(url: str) -> list[HostState]:
    """Return what each host of a url is: a primary, a standby, or why it cannot be reached."""
    server = parse_server(url)
    return [_look_at(host, _url_of(replace(server, hosts=(host,)))) for host in server.hosts]


def _look_at(host: Host, url: URL) -> HostState:
    engine = postgres_engine(url, reading=True)
    try:
        with engine.connect() as connection:
            return state_of(host, connection.connection.driver_connection)
    except DBAPIError as error:
        return HostState(host=host, problem=reason_of(error, url))
    except StorageUnfit as error:
        return HostState(host=host, problem=str(error))
    finally:
        engine.dispose()


def _hosts(server: ServerUrl, *, reading: bool) -> dict[str, str]:
    """Return the options that name hosts: of several, and to write, one that takes writes."""
    if not server.hosts:
        return {}
    found = {
        "host": ",".join(host.name for host in server.hosts),
        "port": ",".join(str(host.port or "") for host in server.hosts),
    }
    if not reading or len(server.hosts) > 1:
        found["target_session_attrs"] = "read-write"
    return found


def _leave_standby(context: ExceptionContext) -> None:
    """Close the connections to a server that takes no writes any more."""
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True


def begin(connection: Connection, reading: bool, queued: bool = True) -> None:
    """Begin a transaction: readers see one instant, writers that are `queued` come one by one.

    Every write folds into what others wrote (the audit chain, the ledger of coverage, groups
    and buckets), and all of them end in the same chain: so writers wait for each other at the
    start, as SQLite's BEGIN IMMEDIATE makes them, and no order of locks can tie them in a knot.
    Under READ COMMITTED each statement after the lock sees all that was committed before it.
    """
    level = "REPEATABLE READ READ ONLY" if reading else "READ COMMITTED"
    settings = connection.get_execution_options()[_SETTINGS]
    lock = f"; SELECT pg_advisory_xact_lock({WRITERS})" if queued and not reading else ""
    connection.exec_driver_sql(f"SET TRANSACTION ISOLATION LEVEL {level}; {settings}{lock}")


def _server(url: URL) -> ServerUrl:
    return read_server(url.render_as_string(hide_password=False))
