"""What the database asks of PostgreSQL, and what its errors mean."""

from sqlalchemy import URL, Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, OperationalError

from storage.errors import StorageDown, StorageError, StorageFull, StorageUnfit

WRITERS = 0x6C6F6E67
"""The advisory lock that whoever writes holds until the end of the transaction."""
_SECONDS = 10
_OPTIONS = (
    f"-c lock_timeout={_SECONDS}s -c idle_in_transaction_session_timeout=60s"
    # A recursive step is taken for a long one, and compiled for longer than it runs.
    " -c synchronous_commit=on -c timezone=UTC -c jit=off"
)
_CONNECTING = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "longwatch",
}
_DISK_FULL, _NO_RIGHTS = "53100", "42501"
_REFUSED = (
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "no password supplied",
    "permission denied",
    "certificate",
    "does not support SSL",
)


def postgres_engine(url: URL) -> Engine:
    """Return an engine whose connections are looked at before they are used again."""
    given = url.query.get("options", "")
    options = " ".join([_OPTIONS, given if isinstance(given, str) else " ".join(given)]).strip()
    plain = url.set(drivername="postgresql+psycopg").difference_update_query(["options"])
    try:
        return create_engine(
            plain,
            pool_pre_ping=True,
            pool_recycle=1800,
            connect_args=_CONNECTING | dict(plain.query) | {"options": options},
        )
    except ModuleNotFoundError as error:
        told = f"no {error.name} is installed: pip install 'psycopg[binary]'"
        raise StorageUnfit(place_of(url), told) from None


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


def place_of(url: URL) -> str:
    """Return a url as it may be shown: without user, password and options."""
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{url.host or ''}{port}/{url.database or ''}"


def meaning(error: DBAPIError, url: URL) -> StorageError | None:
    """Return what an error of the driver says of the server; None where it is a bug of ours."""
    place, state, reason = place_of(url), getattr(error.orig, "sqlstate", None), _reason(error, url)
    lost = error.connection_invalidated or isinstance(error, OperationalError)
    if state == _DISK_FULL:
        return StorageFull(place)
    if state == _NO_RIGHTS or (lost and any(word in reason for word in _REFUSED)):
        return StorageUnfit(place, f"{reason}: check the url, the role and its rights")
    return StorageDown(place, reason) if lost else None


def _reason(error: DBAPIError, url: URL) -> str:
    lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    return lines[0] if not url.password else lines[0].replace(str(url.password), "***")
