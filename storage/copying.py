"""A whole database, copied into another that is empty."""

from collections.abc import Callable

from sqlalchemy import Connection, Table, func, insert, select

from storage.database import open_database, place_of, trouble_named
from storage.errors import StorageUnfit
from storage.tables import metadata
from storage.verdict import verify

BATCH = 1000
_TABLES = metadata.sorted_tables

Progress = Callable[[int, int], None]
"""`progress(done, total)` counts rows."""


def copy_database(source: str, target: str, progress: Progress) -> int:
    """Copy every row in one transaction of the target; return how many. The source stays as is.

    Raises StorageUnfit where the target is not empty, the source has another schema, or what
    arrived is not what was sent: the target is then left as it was, but for its empty tables.
    """
    giving, taking = open_database(source, reading=True), open_database(target)
    try:
        with (
            trouble_named(giving),
            giving.begin() as given,
            trouble_named(taking),
            taking.begin() as taken,
        ):
            for each in (given, taken):
                _allow_idle(each)
            _check_empty(taken, place_of(taking.url))
            count = _copy(given, taken, progress)
            _check_same(given, taken, place_of(taking.url))
        return count
    finally:
        giving.dispose()
        taking.dispose()


def _allow_idle(connection: Connection) -> None:
    """Let a transaction wait for the other side, however long that counts or verifies."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")


def _check_empty(taken: Connection, place: str) -> None:
    for table in _TABLES:
        if _count(taken, table):
            raise StorageUnfit(place, f"it holds {table.name} already: name an empty database")


def _copy(given: Connection, taken: Connection, progress: Progress) -> int:
    done, total = 0, sum(_count(given, table) for table in _TABLES)
    for table in _TABLES:
        query = select(table).execution_options(yield_per=BATCH)
        with given.execute(query) as rows:
            for some in rows.partitions():
                taken.execute(insert(table), [row._asdict() for row in some])
                done += len(some)
                progress(done, total)
    return done


def _check_same(given: Connection, taken: Connection, place: str) -> None:
    for table in _TABLES:
        sent, came = _count(given, table), _count(taken, table)
        if sent != came:
            raise StorageUnfit(place, f"{came} of {sent} rows of {table.name} came: copy again")
    before, after = verify(given), verify(taken)
    if before != after or after.problem is not None:
        told = after.problem or "it is not the one of the source"
        raise StorageUnfit(place, f"the audit trail does not hold: {told}")


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()
