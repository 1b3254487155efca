"""Migrations, and releases before them that still write: who may go on, and who is in the way.

A revision says `safe_while_older_writes = True` where a release that does not know it may write
on meanwhile and afterwards. One that says nothing is not safe.
"""

from dataclasses import dataclass

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, update

from storage import tables
from storage.errors import StorageUnfit
from storage.lease_rows import LeaseState, clock_of, has_leases, leases

FIRST_LEASE = "0016"
"""The schema from which on who writes holds a lease."""
_LEASES = tables.leases


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of the schema, and whether an older release may write beside it."""

    revision: str
    is_safe: bool


def pending(steps: ScriptDirectory, found: str | None) -> tuple[Migration, ...]:
    """Return the migrations that a database of this revision lacks, in their order."""
    lacking = list(steps.iterate_revisions("head", found or "base"))
    return tuple(
        Migration(
            revision=step.revision,
            is_safe=getattr(step.module, "safe_while_older_writes", False),
        )
        for step in reversed(lacking)
    )


def make_way(connection: Connection, place: str, migrations: tuple[Migration, ...]) -> None:
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
    _check_leases(connection, place, unsafe)
    ended = {
        "holder": f"the upgrade to schema {migrations[-1].revision}",
        "process": "",
        "version": "",
        "term": _LEASES.c.term + 1,
        "until": clock_of(connection),
    }
    connection.execute(update(_LEASES).where(_LEASES.c.term > 0).values(ended))


def _check_leases(connection: Connection, place: str, unsafe: list[str]) -> None:
    now = clock_of(connection)
    for lease in leases(connection):
        if lease.state(now) is LeaseState.HELD:
            writing = f"{lease.holder} holds the lease {lease.name!r} with longwatch"
            told = f"migration {', '.join(unsafe)} is not safe while an older longwatch writes"
            way = "stop that process first, or stop all and run `longwatch db upgrade`"
            raise StorageUnfit(
                place, f"{writing} {lease.version}, and {told}: {way}; nothing was changed"
            )
