"""The database: how it is opened, and brought up to the schema of this longwatch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection as SqliteConnection

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from storage import postgres
from storage.errors import SchemaTooNew, StorageError, StorageFull, StorageUnfit
from storage.sqlite import BUSY_SECONDS, PRAGMAS, is_full, opening

READING = "longwatch_reading"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The revision that a database has, none where it is empty, and the newest one known here."""

    found: str | None
    known: str


def open_database(url: str) -> Engine:
    """Open `sqlite:///PATH` or `postgresql://...`, and migrate it up; a file is created.

    Raises SchemaTooNew for one of a newer longwatch, StorageFull when the disk is full,
    StorageDown where the server does not answer, StorageUnfit where it lets nobody in.
    """
    parsed = parse(url)
    engine = _engine(parsed)
    try:
        with _alone(parsed), trouble_named(engine), engine.begin() as connection:
            _migrate(connection, place_of(parsed))
    except BaseException:
        engine.dispose()
        raise
    return engine


def schema_of(url: str) -> Schema:
    """Look at a database and change nothing in it; raises what `open_database` raises."""
    parsed = parse(url)
    if _is_file(parsed) and not Path(str(parsed.database)).is_file():
        raise StorageUnfit(place_of(parsed), "there is no such file")
    engine = _engine(parsed)
    try:
        reading = engine.execution_options(**{READING: True})
        with trouble_named(engine), reading.begin() as connection:
            known = str(ScriptDirectory.from_config(_config(connection)).get_current_head())
            return Schema(found=_revision(connection, place_of(parsed)), known=known)
    finally:
        engine.dispose()


def engine_of(url: str) -> Engine:
    """Return an engine for a database as it is, whatever its schema."""
    return _engine(parse(url))


def parse(url: str) -> URL:
    """Take a url apart; raises ValueError, which does not repeat it, where it is none of ours."""
    told = "a database is written as sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(told) from None
    if parsed.drivername in ("postgresql", "postgresql+psycopg") and parsed.database:
        return parsed
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise ValueError(told)


def place_of(url: URL) -> str:
    """Return where a database is, without a secret."""
    return str(url.database) if _is_file(url) else postgres.place_of(url)


@contextmanager
def trouble_named(engine: Engine) -> Iterator[None]:
    """Turn the driver's errors for a full disk and a lost server into errors of storage."""
    try:
        yield
    except DBAPIError as error:
        named = _named(error, engine.url)
        if named is None:
            raise
        raise named from error


def _named(error: DBAPIError, url: URL) -> StorageError | None:
    if _is_file(url):
        return StorageFull(str(url.database)) if is_full(error.orig) else None
    return postgres.meaning(error, url)


def _is_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _engine(url: URL) -> Engine:
    if not _is_file(url):
        engine = postgres.postgres_engine(url)
        event.listen(engine, "begin", lambda each: postgres.begin(each, _reads(each)))
        return engine
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


@contextmanager
def _alone(url: URL) -> Iterator[None]:
    """Keep other processes from making the same file; a server has its lock of writers."""
    if _is_file(url):
        with opening(Path(str(url.database))):
            yield
    else:
        yield


def _reads(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(READING, False))


def _prepare(connection: SqliteConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    for pragma in PRAGMAS:
        connection.execute(pragma)


def _begin(connection: Connection) -> None:
    # A transaction that reads before it writes fails under plain BEGIN, busy timeout or not.
    connection.exec_driver_sql("BEGIN" if _reads(connection) else "BEGIN IMMEDIATE")


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _migrate(connection: Connection, place: str) -> None:
    if _revision(connection, place) is None and (inspect(connection).get_table_names()):
        raise StorageUnfit(place, "it holds tables of something else: name an empty database")
    command.upgrade(_config(connection), "head")


def _revision(connection: Connection, place: str) -> str | None:
    """Return the revision of a database; raise SchemaTooNew for one that is not known."""
    steps = ScriptDirectory.from_config(_config(connection))
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in {step.revision for step in steps.walk_revisions()}:
        raise SchemaTooNew(place, found, str(steps.get_current_head()))
    return found
