"""What the database asks of PostgreSQL."""

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext

from storage.errors import StorageUnfit
from storage.postgres_errors import READ_ONLY
from storage.postgres_locks import WRITERS
from storage.server_url import ServerUrl, parse_server, read_server

_WRITING_SECONDS, _READING_SECONDS = 10, 3
"""How long a statement waits for a lock."""
_OPTIONS = (
    "-c idle_in_transaction_session_timeout=60s -c synchronous_commit=on -c timezone=UTC"
    # A recursive step is taken for a long one, and compiled for longer than it runs.
    " -c jit=off -c lock_timeout="
)
_CONNECTING = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "longwatch",
}


def parse(url: str) -> URL:
    """Take a url apart; raises ValueError, which repeats no secret, where it cannot work."""
    server = parse_server(url)
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
    given = dict(server.options)
    options = f"{_OPTIONS}{seconds}s {given.pop('options', '')}".strip()
    arguments = _CONNECTING | _hosts(server, reading=reading) | given | {"options": options}
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
    event.listen(engine, "handle_error", _leave_standby)
    return engine


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


def begin(connection: Connection, reading: bool) -> None:
    """Begin a transaction: readers see one instant, writers come one after another.

    Every write folds into what others wrote (the audit chain, the ledger of coverage, groups
    and buckets), and all of them end in the same chain: so writers wait for each other at the
    start, as SQLite's BEGIN IMMEDIATE makes them, and no order of locks can tie them in a knot.
    Under READ COMMITTED each statement after the lock sees all that was committed before it.
    """
    if reading:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")


def _server(url: URL) -> ServerUrl:
    return read_server(url.render_as_string(hide_password=False))
