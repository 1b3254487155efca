"""The database file: how it is opened, and brought up to the schema of this longwatch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection as SqliteConnection

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from storage.errors import SchemaTooNew, StorageFull
from storage.sqlite import BUSY_SECONDS, PRAGMAS, is_full, opening

READING = "longwatch_reading"


def open_database(url: str) -> Engine:
    """Open `sqlite:///PATH`, create it when it is not there, and migrate it up.

    Raises SchemaTooNew for a file of a newer longwatch, StorageFull when the disk is full.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise ValueError("a database is written as sqlite:///PATH")
    engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    try:
        with opening(Path(parsed.database)), full_disk_named(engine), engine.begin() as connection:
            _migrate(connection, parsed.database)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def full_disk_named(engine: Engine) -> Iterator[None]:
    """Turn SQLite's error for a full disk into StorageFull."""
    try:
        yield
    except OperationalError as error:
        if is_full(error.orig):
            raise StorageFull(str(engine.url.database)) from error
        raise


def _prepare(connection: SqliteConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    for pragma in PRAGMAS:
        connection.execute(pragma)


def _begin(connection: Connection) -> None:
    # A transaction that reads before it writes fails under plain BEGIN, busy timeout or not.
    reading = connection.get_execution_options().get(READING, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _migrate(connection: Connection, place: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    steps = ScriptDirectory.from_config(config)
    known = {step.revision for step in steps.walk_revisions()}
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in known:
        raise SchemaTooNew(place, found, str(steps.get_current_head()))
    command.upgrade(config, "head")
