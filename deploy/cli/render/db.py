"""The status of a database, as JSON and as text."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from rich.table import Table
from rich.text import Text

from deploy.cli.common import format_instant
from deploy.format_bytes import format_bytes
from storage.db.lease_rows import Lease, LeaseState
from storage.db.sql.table_sizes import TableSize
from storage.db.status import DatabaseStatus, Replication
from storage.db.upgrades import SchemaMigration
from storage.duration import format_duration

_SECOND = timedelta(seconds=1)
_SAFE = "safe while an older longwatch writes"


def status_fields(status: DatabaseStatus, version: str) -> dict[str, Any]:
    """Return a status as JSON; `version` is that of this longwatch."""
    return {
        "database": status.location,
        "server": status.server,
        "schema": status.revision,
        "known": status.newest_revision,
        "up_to_date": status.revision == status.newest_revision,
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
    """Yield a status as lines and tables."""
    for name, message in _status_lines(status, version):
        yield f"{name:<12} {message}"
    if status.leases:
        yield _lease_table(status.leases, status.at)
    if status.tables:
        yield _size_table(status.tables)


def pending_text(schema: str, pending: Sequence[SchemaMigration], first_lease: str) -> str:
    """Return which migrations are pending, and whether an older release may write meanwhile."""
    count = "1 migration" if len(pending) == 1 else f"{len(pending)} migrations"
    message = f"{count} from schema {schema} to {pending[-1].revision}"
    unsafe = [each.revision for each in pending if not each.is_safe]
    if not unsafe:
        return f"{message}, {_SAFE}"
    message = f"{message}, of which {', '.join(unsafe)} not {_SAFE}"
    if first_lease in {each.revision for each in pending}:
        message += f"; before {first_lease} a longwatch holds no lease: check that none runs"
    return message


def _status_lines(status: DatabaseStatus, version: str) -> Iterator[tuple[str, str]]:
    yield "database", status.location
    yield "server", status.server
    yield "schema", _schema_text(status)
    yield "longwatch", version
    yield "size", _size_text(status)
    if status.replication:
        yield "replication", _replication_text(status.replication)
    incident = format_instant(status.oldest_incident)
    yield "oldest", f"finding {format_instant(status.oldest_finding)}, incident {incident}"
    if status.leases is None:
        yield "leases", "none in this schema: writers are unknown"
    elif not status.leases:
        yield "leases", "none was ever taken"


def _schema_text(status: DatabaseStatus) -> str:
    if status.revision is None and status.tables:
        return "none: it contains tables of another application"
    if status.revision is None:
        return f"none: `longwatch db upgrade` makes {status.newest_revision} of an empty database"
    if status.revision == status.newest_revision:
        return f"{status.revision}: up to date"
    if status.is_newer:
        known = status.newest_revision
        return f"{status.revision}: newer than {known}, the newest known here: upgrade longwatch"
    return f"{status.revision}: older than {status.newest_revision}: run `longwatch db upgrade`"


def _size_text(status: DatabaseStatus) -> str:
    size = format_bytes(status.size)
    if status.file is None:
        return size
    free, wal = format_bytes(status.file.free), format_bytes(status.file.wal)
    return f"{size}, of it {free} free; WAL {wal}"


def _replication_text(replication: Replication) -> str:
    if replication.is_standby:
        delay = replication.behind
        behind = f", {_format_rounded_up(delay)} behind" if delay is not None else ""
        return f"standby, which accepts no writes{behind}"
    names = replication.synchronous and f"synchronous_standby_names = '{replication.synchronous}'"
    standbys = [
        f"{standby.name} ({standby.state or 'not shown to this role'}"
        + (f", {standby.sync})" if standby.sync else ")")
        for standby in replication.standbys
    ]
    message = [names, f"followed by {', '.join(standbys)}" if standbys else "without standbys"]
    return "; ".join(["primary", *filter(None, message)])


def _replication_fields(replication: Replication) -> dict[str, Any]:
    behind = None if replication.behind is None else replication.behind.total_seconds()
    return asdict(replication) | {"behind": behind}


def _lease_table(leases: Sequence[Lease], at: datetime) -> Table:
    table = Table("lease", "holder", "version", "since", "state")
    for each in leases:
        since, state = format_instant(each.since), _state_text(each, at)
        table.add_row(*map(Text, (each.name, each.holder, each.version, since, state)))
    return table


def _state_text(lease: Lease, at: datetime) -> str:
    match lease.state(at):
        case LeaseState.HELD:
            return f"expires in {_format_rounded_up(lease.until - at)}"
        case LeaseState.DEAD:
            return "its process has ended"
        case LeaseState.EXPIRED if lease.until > at:
            return "expired: the clock was set back"
        case state:
            return f"{state} {_format_rounded_up(at - lease.until)} ago"


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
        size = "-" if each.size is None else f"{'~' * each.size_estimated}{format_bytes(each.size)}"
        table.add_row(Text(each.name), rows, size)
    return table


def _format_rounded_up(time: timedelta) -> str:
    """Write a duration to the second, rounded up."""
    return format_duration(-(-time // _SECOND) * _SECOND)


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
