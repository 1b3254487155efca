"""A whole database, copied into another that is empty."""

from collections.abc import Callable

from sqlalchemy import Connection, Table, func, insert, select

from storage.db.audit.verification import verify_audit
from storage.db.database import database_location, open_database, translate_errors
from storage.db.tables import metadata
from storage.errors import StorageUnfit

BATCH = 1000
_TABLES = metadata.sorted_tables

Progress = Callable[[int, int], None]
"""`progress(done, total)` counts rows."""


def copy_database(source: str, target: str, progress: Progress) -> int:
    """Copy every row in one transaction of the target; return how many. The source stays as is.

    Raises StorageUnfit where the target is not empty, the source has another schema, or what
    arrived is not what was sent: the target is then left as it was, but for its empty tables.
    """
    source_engine, target_engine = open_database(source, read_only=True), open_database(target)
    try:
        with (
            translate_errors(source_engine),
            source_engine.begin() as source_connection,
            translate_errors(target_engine),
            target_engine.begin() as target_connection,
        ):
            for each in (source_connection, target_connection):
                _allow_idle(each)
            _check_empty(target_connection, database_location(target_engine.url))
            count = _copy(source_connection, target_connection, progress)
            _check_same(source_connection, target_connection, database_location(target_engine.url))
        return count
    finally:
        source_engine.dispose()
        target_engine.dispose()


def _allow_idle(connection: Connection) -> None:
    """Let a transaction wait for the other side, however long that counts or verifies."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")


def _check_empty(target: Connection, location: str) -> None:
    for table in _TABLES:
        if _count(target, table):
            raise StorageUnfit(location, f"it holds {table.name} already: name an empty database")


def _copy(source: Connection, target: Connection, progress: Progress) -> int:
    done, total = 0, sum(_count(source, table) for table in _TABLES)
    for table in _TABLES:
        query = select(table).execution_options(yield_per=BATCH)
        with source.execute(query) as rows:
            for batch in rows.partitions():
                target.execute(insert(table), [row._asdict() for row in batch])
                done += len(batch)
                progress(done, total)
    return done


def _check_same(source: Connection, target: Connection, location: str) -> None:
    for table in _TABLES:
        sent, received = _count(source, table), _count(target, table)
        if sent != received:
            raise StorageUnfit(
                location, f"{received} of {sent} rows of {table.name} came: copy again"
            )
    before, after = verify_audit(source), verify_audit(target)
    if before != after or after.problem is not None:
        problem = after.problem or "it is not the one of the source"
        raise StorageUnfit(location, f"the audit trail does not hold: {problem}")


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()
