"""What the database asks of PostgreSQL, and what its errors mean."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from storage.errors import (
    StorageBusy,
    StorageDown,
    StorageError,
    StorageFailing,
    StorageFull,
    StorageRefused,
    StorageUnfit,
)
from storage.postgres_hosts import (
    OLD_PRIMARY,
    READ_ONLY,
    HostState,
    accept_standby,
    find_primary,
    state_of,
)
from storage.postgres_rights import grant_for
from storage.postgres_session import check_session, set_local
from storage.server_url import Host, ServerUrl, parse_server, read_server

WRITERS = 0x6C6F6E67
"""The advisory lock that whoever writes holds until the end of the transaction."""
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
_READ_ONLY = "25006"
_DISK_FULL = "53100"
_NO_RIGHTS = "42501"
_WAITED_FOR_A_LOCK = "55P03"
_BY_STATE = {
    "42P01": "its tables are not those of its schema",
    "42703": "its tables are not those of its schema",
    "XX001": "see the log of the server, or restore a backup",
    "XX002": "see the log of the server, or restore a backup",
    "22023": "check the options of the url",
    "42704": "check the options of the url",
}
"""What to do about an error by its state, where nothing heals by itself."""
_TRIED_AGAIN = {
    "40001": "it was changed at the same time: try again",
    "40P01": "the server ended a deadlock: try again",
    "57014": "the server ended the statement (statement_timeout): raise that, or try again",
    "53200": "the server is out of memory: try again",
    "58030": "the server's disk fails: see the log of the server",
}
_NO_CONNECTION = {
    "no more connections allowed": "raise max_client_conn of the pooler",
    "too many clients": "raise max_connections of the server, or put a pooler before it",
    "too many connections for": "raise the CONNECTION LIMIT of the role or the database",
    "remaining connection slots": "raise max_connections of the server, or put a pooler before it",
    "query_wait_timeout": "raise default_pool_size of the pooler, or see whether its server is up",
}
"""What a server or a pooler says that has no connection left for us, and what to do."""
_POOLER = {
    "unsupported startup parameter": "leave it out of the url, and set it by ALTER ROLE ... SET",
    "statement pooling mode": "name a pool with pool_mode = transaction, or session",
    "login rejected": "let the role in by the pooler's auth_hba_file",
    "no such user": "name the role in the pooler's auth_file",
}
"""What a pooler refuses, and what to do."""
_REFUSED = (
    "unrecognized configuration parameter",
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "no password supplied",
    "permission denied",
    "not permitted to log in",
    "certificate",
    "does not support SSL",
    "invalid ",
)
_LOCKS = """
SELECT l.locktype, c.relname, a.pid, a.application_name FROM pg_locks l
JOIN pg_stat_activity a USING (pid) LEFT JOIN pg_class c ON c.oid = l.relation
WHERE l.granted AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND ((l.locktype, l.objid) = ('advisory', %(writers)s)
    OR l.mode IN ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock')
      AND c.relkind = 'r' AND pg_table_is_visible(c.oid))
ORDER BY (l.locktype = 'advisory') <> %(writing)s, a.query_start LIMIT 1
"""


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
        return HostState(host=host, problem=_reason(error, url))
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
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
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


def place_of(url: URL) -> str:
    """Return a url as it may be shown: without user, password and options."""
    return _server(url).place


def _server(url: URL) -> ServerUrl:
    return read_server(url.render_as_string(hide_password=False))


def meaning(error: DBAPIError, engine: Engine) -> StorageError | None:
    """Return what an error of the driver says of the server; None where it is a bug of ours."""
    url = engine.url
    place, state, reason = place_of(url), getattr(error.orig, "sqlstate", None), _reason(error, url)
    if state == _WAITED_FOR_A_LOCK:
        return _lock_holder(error, engine, place)
    if state == _DISK_FULL:
        return StorageFull(place)
    if advice := _said(_NO_CONNECTION, reason):
        return StorageFailing(place, f"it has no connection for us ({reason}): {advice}")
    if state in _TRIED_AGAIN:
        return StorageFailing(place, _TRIED_AGAIN[state])
    if OLD_PRIMARY in reason:
        return StorageFailing(place, reason)
    if state == _READ_ONLY or any(words in reason for words in READ_ONLY):
        told = "it takes no writes, as a standby does: promote it, or name the primary or all hosts"
        return StorageFailing(place, f"{reason}: {told}")
    return _unfit(error, url, reason)


def _unfit(error: DBAPIError, url: URL, reason: str) -> StorageError | None:
    place = place_of(url)
    state = getattr(error.orig, "sqlstate", None)
    lost = error.connection_invalidated or isinstance(error, OperationalError)
    if state == _NO_RIGHTS:
        told = grant_for(reason, str(error.statement), url.username or "its role")
        return StorageRefused(place, f"{reason}: {told}")
    advice = _BY_STATE.get(state or "") or _said(_POOLER, reason)
    if advice is None and lost and any(word in reason for word in _REFUSED):
        advice = "check the url, the role and its rights"
    if advice:
        return StorageUnfit(place, f"{reason}: {advice}")
    return StorageDown(place, reason) if lost else None


def _said(known: Mapping[str, str], reason: str) -> str | None:
    """Return what to do about the first of the known words that a reason has."""
    return next((told for words, told in known.items() if words in reason), None)


def _lock_holder(error: DBAPIError, engine: Engine, place: str) -> StorageBusy:
    """Look who holds the lock that a statement waited for in vain."""
    writing = "pg_advisory_xact_lock" in str(error.statement)
    names = {"writers": WRITERS, "writing": writing}
    try:
        row = _first_row(engine, names)
    except SQLAlchemyError:
        row = None
    if row is None:
        return StorageBusy(place, "the write lock" if writing else "a lock on a table")
    kind, table, pid, name = row
    lock = "the write lock" if kind == "advisory" else f"a lock on table {table}"
    return StorageBusy(place, lock, f"process {pid} of the server ({name or 'no name'})")


def _first_row(engine: Engine, names: dict[str, Any]) -> Any:
    with closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute(_LOCKS, names)
        return cursor.fetchone()


def _reason(error: DBAPIError, url: URL) -> str:
    """Return the first line of an error, or why each of several hosts failed, without secrets."""
    lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    each = [_of_host(line) for line in lines if line.startswith("- host: ")]
    text = "; ".join(dict.fromkeys(each)) or _of_host(lines[0])
    return text if not url.password else text.replace(str(url.password), "***")


def _of_host(line: str) -> str:
    """Return why one host failed: libpq names it, psycopg does so before where that did not."""
    rest = line.partition("connection failed: ")[2]
    return rest or line.removeprefix("- host: ")
