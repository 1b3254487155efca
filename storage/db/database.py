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

from storage import sqlite_connection
from storage.db.postgres import engines, errors, session
from storage.db.postgres.privileges import missing_privileges
from storage.db.postgres.server_url import URL_FORMAT
from storage.db.upgrades import SchemaMigration, fence_older_writers, pending_migrations
from storage.errors import (
    SchemaTooNew,
    SchemaTooOld,
    StorageError,
    StorageFailing,
    StorageRefused,
    StorageUnfit,
)

MIGRATIONS = Path(__file__).parent / "migrations"
READ_ONLY_OPTION = "longwatch_reading"
UNQUEUED_OPTION = "longwatch_unqueued"
"""The execution options of a transaction that reads, and of one that writes a row of its own and
waits for no other writer, as far as the database can do without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStatus:
    """The revision that a database has, none where it is empty, the newest one known, and the way.

    `pending` are the migrations from the one to the other, in their order.
    """

    revision: str | None
    newest_revision: str
    pending: tuple[SchemaMigration, ...] = ()


def open_database(url: str, *, read_only: bool = False) -> Engine:
    """Open `sqlite:///PATH` or `postgresql://...`, and migrate it up; a file is created.

    For reading alone nothing is created, migrated, locked or written, and what is not there or
    has an older schema is refused. Raises SchemaTooNew, SchemaTooOld, StorageUnfit where it
    cannot be used, and StorageBlocked where it cannot for now.
    """
    parsed = parse_database_url(url)
    engine = _build_engine(parsed, read_only=read_only)
    try:
        with translate_errors(engine):
            schema = _inspect(engine)
            if schema.revision != schema.newest_revision:
                _migrate(engine, schema)
            if not read_only:
                _check_privileges(engine)
    except StorageRefused as error:
        engine.dispose()
        raise StorageUnfit(error.location, error.reason) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def inspect_schema(url: str) -> SchemaStatus:
    """Look at a database and change nothing in it; raises what `open_database` raises."""
    engine = _build_engine(parse_database_url(url), read_only=True)
    try:
        with translate_errors(engine):
            return _inspect(engine)
    except StorageRefused as error:
        raise StorageUnfit(error.location, error.reason) from error
    finally:
        engine.dispose()


def engine_for(url: str, *, read_only: bool = False) -> Engine:
    """Return an engine for a database as it is, whatever its schema."""
    return _build_engine(parse_database_url(url), read_only=read_only)


def parse_database_url(url: str) -> URL:
    """Take a url apart; raises ValueError, which repeats no secret, where it cannot work."""
    if url.startswith(("postgresql://", "postgresql+psycopg://")):
        return engines.parse_postgres_url(url)
    message = f"a database is written as sqlite:///PATH or {URL_FORMAT}"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(message) from None
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise ValueError(message)


def database_location(url: URL) -> str:
    """Return where a database is, without a secret."""
    return str(url.database) if _is_file(url) else errors.server_location(url)


def database_file(url: str) -> Path | None:
    """Return the file of a database; None where it is on a server."""
    parsed = parse_database_url(url)
    return Path(str(parsed.database)) if _is_file(parsed) else None


@contextmanager
def translate_errors(engine: Engine) -> Iterator[None]:
    """Turn the driver's errors into errors of storage, as far as they are no bugs of ours."""
    try:
        yield
    except DBAPIError as error:
        named = _translate_error(error, engine)
        if named is None:
            raise
        raise named from error
    except NoneFree as error:
        message = "all connections of this process to it are in use: see who holds it up"
        raise StorageFailing(database_location(engine.url), message) from error


def _translate_error(error: DBAPIError, engine: Engine) -> StorageError | None:
    if _is_file(engine.url):
        return sqlite_connection.to_storage_error(error.orig, str(engine.url.database))
    return errors.translate_error(error, engine)


def _is_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _build_engine(url: URL, *, read_only: bool = False) -> Engine:
    if not _is_file(url):
        engine = engines.postgres_engine(url, read_only=read_only)
        event.listen(engine, "begin", _begin_on_postgres)
    else:
        engine = _read_only_file_engine(url) if read_only else _file_engine(url)
        event.listen(engine, "begin", _begin_on_sqlite)
    return engine.execution_options(**{READ_ONLY_OPTION: True}) if read_only else engine


def _file_engine(url: URL) -> Engine:
    path = Path(str(url.database))
    connect = partial(sqlite_connection.connect, path, check_same_thread=False)
    return create_engine(url, creator=connect, poolclass=QueuePool)


def _read_only_file_engine(url: URL) -> Engine:
    """Return an engine that opens the file anew for each transaction: see `connect_read_only`."""
    path = Path(str(url.database))
    connect = partial(sqlite_connection.connect_read_only, path, check_same_thread=False)
    engine = create_engine(url, creator=connect, poolclass=NullPool)
    event.listen(engine, "commit", _check_snapshot)
    event.listen(engine, "handle_error", _check_snapshot_on_error)
    return engine


def _check_snapshot(connection: Connection) -> None:
    dbapi_connection = connection.connection.dbapi_connection
    if isinstance(dbapi_connection, sqlite_connection.ReadOnlyConnection):
        dbapi_connection.check_unchanged()


def _check_snapshot_on_error(context: ExceptionContext) -> None:
    if context.connection is not None:
        _check_snapshot(context.connection)


def _is_read_only(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(READ_ONLY_OPTION, False))


def _begin_on_postgres(connection: Connection) -> None:
    is_queued = not connection.get_execution_options().get(UNQUEUED_OPTION, False)
    engines.begin_transaction(connection, _is_read_only(connection), is_queued)


def _begin_on_sqlite(connection: Connection) -> None:
    # A transaction that reads before it writes fails under plain BEGIN, busy timeout or not.
    connection.exec_driver_sql("BEGIN" if _is_read_only(connection) else "BEGIN IMMEDIATE")


def _alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _inspect(engine: Engine) -> SchemaStatus:
    """Return which schema a database has, in a transaction that reads."""
    location = database_location(engine.url)
    with engine.execution_options(**{READ_ONLY_OPTION: True}).begin() as connection:
        problem = None if _is_file(engine.url) else session.misplaced_tables_problem(connection)
        if problem:
            raise StorageUnfit(location, problem)
        return _schema_status(connection, location)


def _check_privileges(engine: Engine) -> None:
    """Raise StorageUnfit where our role on a server may not write all that is written."""
    if _is_file(engine.url):
        return
    with engine.execution_options(**{READ_ONLY_OPTION: True}).begin() as connection:
        problem = missing_privileges(connection)
    if problem:
        raise StorageUnfit(database_location(engine.url), problem)


def _migrate(engine: Engine, schema: SchemaStatus) -> None:
    """Migrate a database under the lock of writers; refuse one that is only read."""
    location = database_location(engine.url)
    if engine.get_execution_options().get(READ_ONLY_OPTION, False):
        raise SchemaTooOld(
            location, schema.revision, schema.newest_revision, "run `longwatch db upgrade`"
        )
    with engine.begin() as connection:
        schema = _schema_status(connection, location)
        if schema.revision is None and inspect(connection).get_table_names():
            raise StorageUnfit(
                location, "it holds tables of something else: name an empty database"
            )
        fence_older_writers(connection, location, schema.pending)
        command.upgrade(_alembic_config(connection), "head")


def _schema_status(connection: Connection, location: str) -> SchemaStatus:
    found = current_revision(connection, location)
    return SchemaStatus(
        revision=found,
        newest_revision=known_revisions()[0],
        pending=pending_migrations(_script_directory(), found),
    )


def current_revision(connection: Connection, location: str) -> str | None:
    """Return the revision of a database; raise SchemaTooNew for one that is not known."""
    known, heads = known_revisions(), current_heads(connection)
    if not set(known).issuperset(heads):
        raise SchemaTooNew(location, ", ".join(heads), known[0])
    if len(heads) > 1:
        raise StorageUnfit(location, f"it has several schemas at once ({', '.join(heads)})")
    return heads[0] if heads else None


def current_heads(connection: Connection) -> tuple[str, ...]:
    """Return the revisions that a database says it has, known here or not."""
    return MigrationContext.configure(connection).get_current_heads()


def known_revisions() -> list[str]:
    """Return all revisions that this longwatch knows, newest first."""
    return [step.revision for step in _script_directory().walk_revisions()]


def _script_directory() -> ScriptDirectory:
    return _load_script_directory(MIGRATIONS)


@cache
def _load_script_directory(folder: Path) -> ScriptDirectory:
    return ScriptDirectory(str(folder))
