"""The database: how it is opened, and brought up to the schema of this longwatch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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

from storage import postgres, postgres_errors, sqlite
from storage.errors import (
    SchemaTooNew,
    SchemaTooOld,
    StorageError,
    StorageFailing,
    StorageRefused,
    StorageUnfit,
)
from storage.server_url import FORM

READING = "longwatch_reading"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The revision that a database has, none where it is empty, and the newest one known here."""

    found: str | None
    known: str


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


def engine_of(url: str) -> Engine:
    """Return an engine for a database as it is, whatever its schema."""
    return _engine(parse(url))


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
        event.listen(engine, "begin", lambda each: postgres.begin(each, _reads(each)))
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


def _begin(connection: Connection) -> None:
    # A transaction that reads before it writes fails under plain BEGIN, busy timeout or not.
    connection.exec_driver_sql("BEGIN" if _reads(connection) else "BEGIN IMMEDIATE")


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _look(engine: Engine) -> Schema:
    """Return which schema a database has, in a transaction that reads."""
    place = place_of(engine.url)
    with engine.execution_options(**{READING: True}).begin() as connection:
        known = str(ScriptDirectory.from_config(_config(connection)).get_current_head())
        return Schema(found=_revision(connection, place), known=known)


def _bring_up(engine: Engine, schema: Schema) -> None:
    """Migrate a database under the lock of writers; refuse one that is only read."""
    place = place_of(engine.url)
    if engine.get_execution_options().get(READING, False):
        raise SchemaTooOld(place, schema.found, schema.known, "run `longwatch db upgrade`")
    with engine.begin() as connection:
        if _revision(connection, place) is None and inspect(connection).get_table_names():
            raise StorageUnfit(place, "it holds tables of something else: name an empty database")
        command.upgrade(_config(connection), "head")


def _revision(connection: Connection, place: str) -> str | None:
    """Return the revision of a database; raise SchemaTooNew for one that is not known."""
    steps = ScriptDirectory.from_config(_config(connection))
    known = {step.revision for step in steps.walk_revisions()}
    heads = MigrationContext.configure(connection).get_current_heads()
    if not known.issuperset(heads):
        raise SchemaTooNew(place, ", ".join(heads), str(steps.get_current_head()))
    if len(heads) > 1:
        raise StorageUnfit(place, f"it has several schemas at once ({', '.join(heads)})")
    return heads[0] if heads else None
