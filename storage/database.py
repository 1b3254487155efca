"""The database: how it is opened, and brought up to the schema of this longwatch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoneFree
from sqlalchemy.pool import NullPool, QueuePool

from storage import postgres, postgres_errors, postgres_session, sqlite
from storage.errors import (
    SchemaTooNew,
    SchemaTooOld,
    StorageError,
    StorageFailing,
    StorageRefused,
    StorageUnfit,
)
from storage.postgres_rights import missing_rights
from storage.server_url import FORM
from storage.upgrades import Migration, make_way, pending

MIGRATIONS = Path(__file__).parent / "migrations"
READING = "longwatch_reading"
UNQUEUED = "longwatch_unqueued"
"""The execution options of a transaction that reads, and of one that writes a row of its own and
waits for no other writer, as far as the database can do without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The revision that a database has, none where it is empty, the newest one known, and the way.

    `pending` are the migrations from the one to the other, in their order.
    """

    found: str | None
    known: str
    pending: tuple[Migration, ...] = ()


def open_database(url: str, *, reading: bool = False) -> Engine:
    """Open `sqlite:///PATH` or `postgresql://...`, and migrate it up; a file is created.

    For reading alone nothing is created, migrated, locked or written, and what is not there or
    has an older schema is refused. Raises SchemaTooNew, SchemaTooOld, StorageUnfit where it
    cannot be used, and StorageBlocked where it cannot for now.
    """
    parsed = parse(url)
    engine = _engine(parsed, reading=reading)
    try:
        with trouble_named(engine):
            schema = _look(engine)
            if schema.found != schema.known:
                _bring_up(engine, schema)
            if not reading:
                _check_rights(engine)
    except StorageRefused as error:
        engine.dispose()
        raise StorageUnfit(error.place, error.reason) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def schema_of(url: str) -> Schema:
    """Look at a database and change nothing in it; raises what `open_database` raises."""
    engine = _engine(parse(url), reading=True)
    try:
        with trouble_named(engine):
            return _look(engine)
    except StorageRefused as error:
        raise StorageUnfit(error.place, error.reason) from error
    finally:
        engine.dispose()


def engine_of(url: str, *, reading: bool = False) -> Engine:
    """Return an engine for a database as it is, whatever its schema."""
    return _engine(parse(url), reading=reading)


def parse(url: str) -> URL:
    """Take a url apart; raises ValueError, which repeats no secret, where it cannot work."""
    if url.startswith(("postgresql://", "postgresql+psycopg://")):
        return postgres.parse(url)
    told = f"a database is written as sqlite:///PATH or {FORM}"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(told) from None
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise ValueError(told)


def place_of(url: URL) -> str:
    """Return where a database is, without a secret."""
    return str(url.database) if _is_file(url) else postgres_errors.place_of(url)


def path_of(url: str) -> Path | None:
    """Return the file of a database; None where it is on a server."""
    parsed = parse(url)
    return Path(str(parsed.database)) if _is_file(parsed) else None


@contextmanager
def trouble_named(engine: Engine) -> Iterator[None]:
    """Turn the driver's errors into errors of storage, as far as they are no bugs of ours."""
    try:
        yield
    except DBAPIError as error:
        named = _named(error, engine)
        if named is None:
            raise
        raise named from error
    except NoneFree as error:
        told = "all connections of this process to it are in use: see who holds it up"
        raise StorageFailing(place_of(engine.url), told) from error


def _named(error: DBAPIError, engine: Engine) -> StorageError | None:
    if _is_file(engine.url):
        return sqlite.meaning(error.orig, str(engine.url.database))
    return postgres_errors.meaning(error, engine)


def _is_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _engine(url: URL, *, reading: bool = False) -> Engine:
    if not _is_file(url):
        engine = postgres.postgres_engine(url, reading=reading)
        event.listen(engine, "begin", _begin_on_server)
    else:
        engine = _reading_file(url) if reading else _file(url)
        event.listen(engine, "begin", _begin)
    return engine.execution_options(**{READING: True}) if reading else engine


def _file(url: URL) -> Engine:
    path = Path(str(url.database))
    made = partial(sqlite.connect, path, check_same_thread=False)
    return create_engine(url, creator=made, poolclass=QueuePool)


def _reading_file(url: URL) -> Engine:
    """Return an engine that opens the file anew for each transaction: see `connect_reading`."""
    path = Path(str(url.database))
    made = partial(sqlite.connect_reading, path, check_same_thread=False)
    engine = create_engine(url, creator=made, poolclass=NullPool)
    event.listen(engine, "commit", _check_read)
    event.listen(engine, "handle_error", _check_failed)
    return engine


def _check_read(connection: Connection) -> None:
    made = connection.connection.dbapi_connection
    if isinstance(made, sqlite.ReadConnection):
        made.check()


def _check_failed(context: ExceptionContext) -> None:
    if context.connection is not None:
        _check_read(context.connection)


def _reads(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(READING, False))


def _begin_on_server(connection: Connection) -> None:
    is_queued = not connection.get_execution_options().get(UNQUEUED, False)
    postgres.begin(connection, _reads(connection), is_queued)


def _begin(connection: Connection) -> None:
    # A transaction that reads before it writes fails under plain BEGIN, busy timeout or not.
    connection.exec_driver_sql("BEGIN" if _reads(connection) else "BEGIN IMMEDIATE")


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _look(engine: Engine) -> Schema:
    """Return which schema a database has, in a transaction that reads."""
    place = place_of(engine.url)
    with engine.execution_options(**{READING: True}).begin() as connection:
        problem = None if _is_file(engine.url) else postgres_session.tables_elsewhere(connection)
        if problem:
            raise StorageUnfit(place, problem)
        return _schema(connection, place)


def _check_rights(engine: Engine) -> None:
    """Raise StorageUnfit where our role on a server may not write all that is written."""
    if _is_file(engine.url):
        return
    with engine.execution_options(**{READING: True}).begin() as connection:
        problem = missing_rights(connection)
    if problem:
        raise StorageUnfit(place_of(engine.url), problem)


def _bring_up(engine: Engine, schema: Schema) -> None:
    """Migrate a database under the lock of writers; refuse one that is only read."""
    place = place_of(engine.url)
    if engine.get_execution_options().get(READING, False):
        raise SchemaTooOld(place, schema.found, schema.known, "run `longwatch db upgrade`")
    with engine.begin() as connection:
        schema = _schema(connection, place)
        if schema.found is None and inspect(connection).get_table_names():
            raise StorageUnfit(place, "it holds tables of something else: name an empty database")
        make_way(connection, place, schema.pending)
        command.upgrade(_config(connection), "head")


def _schema(connection: Connection, place: str) -> Schema:
    found = revision_of(connection, place)
    return Schema(found=found, known=known_schemas()[0], pending=pending(_steps(), found))


def revision_of(connection: Connection, place: str) -> str | None:
    """Return the revision of a database; raise SchemaTooNew for one that is not known."""
    known, heads = known_schemas(), heads_of(connection)
    if not set(known).issuperset(heads):
        raise SchemaTooNew(place, ", ".join(heads), known[0])
    if len(heads) > 1:
        raise StorageUnfit(place, f"it has several schemas at once ({', '.join(heads)})")
    return heads[0] if heads else None


def heads_of(connection: Connection) -> tuple[str, ...]:
    """Return the revisions that a database says it has, known here or not."""
    return MigrationContext.configure(connection).get_current_heads()


def known_schemas() -> list[str]:
    """Return all revisions that this longwatch knows, newest first."""
    return [step.revision for step in _steps().walk_revisions()]


def _steps() -> ScriptDirectory:
    return _steps_in(MIGRATIONS)


@cache
def _steps_in(folder: Path) -> ScriptDirectory:
    return ScriptDirectory(str(folder))
