"""Migrations, and releases before them that still write: who may go on, and who is in the way.

A revision says `safe_while_older_writes = True` where a release that does not know it may write
on meanwhile and afterwards. One that says nothing is not safe.
"""

from dataclasses import dataclass

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, update

from storage.db import tables
from storage.db.lease_rows import LeaseState, database_time, has_leases, read_leases
from storage.errors import StorageUnfit

FIRST_SCHEMA_WITH_LEASES = "0016"
"""The schema from which on who writes holds a lease."""
_LEASES = tables.leases


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaMigration:
    """One step of the schema, and whether an older release may write beside it."""

    revision: str
    is_safe: bool


def pending_migrations(steps: ScriptDirectory, found: str | None) -> tuple[SchemaMigration, ...]:
    """Return the migrations that a database of this revision lacks, in their order."""
    missing = list(steps.iterate_revisions("head", found or "base"))
    return tuple(
        SchemaMigration(
            revision=step.revision,
            is_safe=getattr(step.module, "safe_while_older_writes", False),
        )
        for step in reversed(missing)
    )


def fence_older_writers(
    connection: Connection, location: str, migrations: tuple[SchemaMigration, ...]
) -> None:
    """Keep older releases from writing, until the end and after it, where that is not safe.

    Raises StorageUnfit where one of them holds a lease. The term of the others ends: a holder
    that slept until after the upgrade keeps nothing of what it writes then.
    """
    is_server = connection.dialect.name == "postgresql"
    if is_server:
        connection.exec_driver_sql("SET LOCAL application_name = 'longwatch upgrade'")
    unsafe = [each.revision for each in migrations if not each.is_safe]
    if not unsafe or not has_leases(connection):
        return
    if is_server:
        # Whoever takes or renews a lease does not queue for the lock of writers.
        connection.exec_driver_sql("LOCK TABLE leases IN SHARE ROW EXCLUSIVE MODE")
    _check_leases(connection, location, unsafe)
    expired = {
        "holder": f"the upgrade to schema {migrations[-1].revision}",
        "process": "",
        "version": "",
        "term": _LEASES.c.term + 1,
        "until": database_time(connection),
    }
    connection.execute(update(_LEASES).where(_LEASES.c.term > 0).values(expired))


def _check_leases(connection: Connection, location: str, unsafe: list[str]) -> None:
    now = database_time(connection)
    for lease in read_leases(connection):
        if lease.state(now) is LeaseState.HELD:
            holder = f"{lease.holder} holds the lease {lease.name!r} with longwatch"
            problem = f"migration {', '.join(unsafe)} is not safe while an older longwatch writes"
            advice = "stop that process first, or stop all and run `longwatch db upgrade`"
            raise StorageUnfit(
                location, f"{holder} {lease.version}, and {problem}: {advice}; nothing was changed"
            )
