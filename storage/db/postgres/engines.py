"""What the database asks of PostgreSQL."""

from dataclasses import replace

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

from storage.db.postgres.errors import READ_ONLY_TRANSACTION, error_reason
from storage.db.postgres.hosts import (
    PostgresHostState,
    allow_standby,
    read_host_state,
    require_primary,
)
from storage.db.postgres.locks import WRITER_LOCK_ID
from storage.db.postgres.server_url import (
    PostgresHost,
    ServerUrl,
    parse_server_url,
    split_server_url,
)
from storage.db.postgres.session import check_session, set_local_statements
from storage.errors import StorageUnfit

_WRITER_LOCK_SECONDS, _READER_LOCK_SECONDS = 10, 3
"""How long a statement waits for a lock."""
_SETTINGS_OPTION = "longwatch_settings"
"""The execution option of an engine that holds the statements which set a transaction."""
_CONNECT_OPTIONS = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "longwatch",
    "client_encoding": "UTF8",
}


def parse_postgres_url(url: str) -> URL:
    """Take a url apart; raises ValueError, which repeats no secret, where it cannot work."""
    return _build_url(parse_server_url(url))


def _build_url(server: ServerUrl) -> URL:
    query: dict[str, str | list[str]] = dict(server.options)
    name = port = None
    if len(server.hosts) == 1:
        name, port = server.hosts[0].name, server.hosts[0].port
    else:
        query["host"] = [host.netloc for host in server.hosts]
    user, password = server.user or None, server.password or None
    return URL.create("postgresql", user, password, name, port, server.database, query)


def postgres_engine(url: URL, *, read_only: bool = False) -> Engine:
    """Return an engine whose connections are looked at before they are used again."""
    server = _server_url(url)
    seconds = _READER_LOCK_SECONDS if read_only else _WRITER_LOCK_SECONDS
    arguments = _CONNECT_OPTIONS | _host_options(server, read_only=read_only) | dict(server.options)
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg", query={}),
            pool_pre_ping=True,
            pool_recycle=1800,
            connect_args=arguments,
        )
    except ModuleNotFoundError as error:
        message = f"no {error.name} is installed: pip install 'psycopg[binary]'"
        raise StorageUnfit(server.location, message) from None
    engine.url = url
    engine.update_execution_options(**{_SETTINGS_OPTION: set_local_statements(server, seconds)})
    event.listen(engine, "connect", lambda made, _: check_session(made, server))
    event.listen(engine, "handle_error", _disconnect_from_standby)
    if not read_only:
        require_primary(engine, server)
    elif len(server.hosts) > 1:
        allow_standby(engine)
    return engine


def inspect_hosts(url: str) -> list[PostgresHostState]:
    """Return what each host of a url is: a primary, a standby, or why it cannot be reached."""
    server = parse_server_url(url)
    return [
        _inspect_host(host, _build_url(replace(server, hosts=(host,)))) for host in server.hosts
    ]


def _inspect_host(host: PostgresHost, url: URL) -> PostgresHostState:
    engine = postgres_engine(url, read_only=True)
    try:
        with engine.connect() as connection:
            return read_host_state(host, connection.connection.driver_connection)
    except DBAPIError as error:
        return PostgresHostState(host=host, problem=error_reason(error, url))
    except StorageUnfit as error:
        return PostgresHostState(host=host, problem=str(error))
    finally:
        engine.dispose()


def _host_options(server: ServerUrl, *, read_only: bool) -> dict[str, str]:
    """Return the options that name hosts: of several, and to write, one that takes writes."""
    if not server.hosts:
        return {}
    found = {
        "host": ",".join(host.name for host in server.hosts),
        "port": ",".join(str(host.port or "") for host in server.hosts),
    }
    if not read_only or len(server.hosts) > 1:
        found["target_session_attrs"] = "read-write"
    return found


def _disconnect_from_standby(context: ExceptionContext) -> None:
    """Close the connections to a server that takes no writes any more."""
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY_TRANSACTION:
        context.is_disconnect = True


def begin_transaction(connection: Connection, read_only: bool, is_queued: bool = True) -> None:
    """Begin a transaction: readers see one instant, writers that are `queued` come one by one.

    Every write folds into what others wrote (the audit chain, the ledger of coverage, groups
    and buckets), and all of them end in the same chain: so writers wait for each other at the
    start, as SQLite's BEGIN IMMEDIATE makes them, and no order of locks can tie them in a knot.
    Under READ COMMITTED each statement after the lock sees all that was committed before it.
    """
    level = "REPEATABLE READ READ ONLY" if read_only else "READ COMMITTED"
    settings = connection.get_execution_options()[_SETTINGS_OPTION]
    lock = (
        f"; SELECT pg_advisory_xact_lock({WRITER_LOCK_ID})" if is_queued and not read_only else ""
    )
    connection.exec_driver_sql(f"SET TRANSACTION ISOLATION LEVEL {level}; {settings}{lock}")


def _server_url(url: URL) -> ServerUrl:
    return split_server_url(url.render_as_string(hide_password=False))
