"""What `longwatch db` prints of a database: JSON for machines, lines and tables for people."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from rich.table import Table
from rich.text import Text

from deploy.console import time_text
from deploy.units import size_text
from storage.database_status import DatabaseStatus, Replication
from storage.duration import format_duration
from storage.lease_rows import Lease, LeaseState
from storage.sizes import TableSize
from storage.upgrades import Migration

_SECOND = timedelta(seconds=1)
_SAFE = "safe while an older longwatch writes"


def status_fields(status: DatabaseStatus, version: str) -> dict[str, Any]:
    """Return a status as JSON has it; `version` is the longwatch that asks."""
    return {
        "database": status.place,
        "server": status.server,
        "schema": status.found,
        "known": status.known,
        "up_to_date": status.found == status.known,
        "longwatch": version,
        "size": status.size,
        "file": asdict(status.file) if status.file else None,
        "replication": _replication_fields(status.replication) if status.replication else None,
        "oldest_finding": _iso(status.oldest_finding),
        "oldest_incident": _iso(status.oldest_incident),
        "leases": None
        if status.leases is None
        else [_lease_fields(lease, status.at) for lease in status.leases],
        "tables": [asdict(each) for each in status.tables],
    }


def status_parts(status: DatabaseStatus, version: str) -> Iterator[str | Table]:
    """Yield a status for a person."""
    for name, told in _lines(status, version):
        yield f"{name:<12} {told}"
    if status.leases:
        yield _lease_table(status.leases, status.at)
    if status.tables:
        yield _size_table(status.tables)


def pending_text(schema: str, pending: Sequence[Migration], first_lease: str) -> str:
    """Say which migrations are to come, and whether an older release may write beside them."""
    count = "1 migration" if len(pending) == 1 else f"{len(pending)} migrations"
    told = f"{count} from schema {schema} to {pending[-1].revision}"
    unsafe = [each.revision for each in pending if not each.is_safe]
    if not unsafe:
        return f"{told}, {_SAFE}"
    told = f"{told}, of which {', '.join(unsafe)} not {_SAFE}"
    if first_lease in {each.revision for each in pending}:
        told += f"; a longwatch of a schema before {first_lease} is not seen: see that none runs"
    return told


def _lines(status: DatabaseStatus, version: str) -> Iterator[tuple[str, str]]:
    yield "database", status.place
    yield "server", status.server
    yield "schema", _schema_text(status)
    yield "longwatch", version
    yield "size", _size_text(status)
    if status.replication:
        yield "replication", _replication_text(status.replication)
    finding, incident = time_text(status.oldest_finding), time_text(status.oldest_incident)
    yield "oldest", f"finding {finding}, incident {incident}"
    if status.leases is None:
        yield "leases", "none in this schema: who writes is not seen"
    elif not status.leases:
        yield "leases", "none was ever taken"


def _schema_text(status: DatabaseStatus) -> str:
    if status.found is None and status.tables:
        return "none: it holds tables of something else"
    if status.found is None:
        return f"none: `longwatch db upgrade` makes {status.known} of an empty database"
    if status.found == status.known:
        return f"{status.found}: up to date"
    if status.is_newer:
        return f"{status.found}: newer than {status.known}, which is known here: upgrade longwatch"
    return f"{status.found}: older than {status.known}: run `longwatch db upgrade`"


def _size_text(status: DatabaseStatus) -> str:
    told = size_text(status.size)
    if status.file is None:
        return told
    return f"{told}, of it {size_text(status.file.free)} free; WAL {size_text(status.file.wal)}"


def _replication_text(found: Replication) -> str:
    if found.is_standby:
        behind = "" if found.behind is None else f", {_about(found.behind)} behind"
        return f"standby, which takes no writes{behind}"
    names = f"synchronous_standby_names = '{found.synchronous}'" if found.synchronous else ""
    each = [
        f"{standby.name} ({standby.state or 'not shown to this role'}"
        + (f", {standby.sync})" if standby.sync else ")")
        for standby in found.standbys
    ]
    told = [names, f"followed by {', '.join(each)}" if each else "nobody follows it"]
    return "; ".join(["primary", *filter(None, told)])


def _replication_fields(found: Replication) -> dict[str, Any]:
    behind = None if found.behind is None else found.behind.total_seconds()
    return asdict(found) | {"behind": behind}


def _lease_table(leases: Sequence[Lease], at: datetime) -> Table:
    table = Table("lease", "holder", "version", "since", "state")
    for each in leases:
        state = _state_text(each, at)
        table.add_row(
            *map(Text, (each.name, each.holder, each.version, time_text(each.since), state))
        )
    return table


def _state_text(lease: Lease, at: datetime) -> str:
    match lease.state(at):
        case LeaseState.HELD:
            return f"expires in {_about(lease.until - at)}"
        case LeaseState.DEAD:
            return "its process has ended"
        case LeaseState.EXPIRED if lease.until > at:
            return "expired: the clock was set back"
        case state:
            return f"{state} {_about(at - lease.until)} ago"


def _lease_fields(lease: Lease, at: datetime) -> dict[str, Any]:
    return {
        "name": lease.name,
        "holder": lease.holder,
        "version": lease.version,
        "term": lease.term,
        "since": _iso(lease.since),
        "until": _iso(lease.until),
        "state": lease.state(at),
    }


def _size_table(tables: Sequence[TableSize]) -> Table:
    table = Table("table", "rows", "size")
    for column in table.columns[1:]:
        column.justify = "right"
    for each in tables:
        rows = f"{'~' * each.rows_estimated}{each.rows}"
        size = "-" if each.size is None else f"{'~' * each.size_estimated}{size_text(each.size)}"
        table.add_row(Text(each.name), rows, size)
    return table


def _about(time: timedelta) -> str:
    """Write a duration to the second, rounded up."""
    return format_duration(-(-time // _SECOND) * _SECOND)


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
