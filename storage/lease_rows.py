"""Leases as rows of the database, which older and newer releases read as well.

No column is read here that came later than the table: an upgrade looks at the leases of the
schema before.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Row, func, inspect, select

from storage import tables
from storage.processes import has_ended

SECONDS = 10.0
"""How long a lease is valid unless it is renewed."""

_LEASES = tables.leases


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who holds a lease, by which longwatch, in which term, since and until when."""

    name: str
    holder: str
    process: str
    version: str
    term: int
    since: datetime
    until: datetime

    def is_free(self, now: datetime, seconds: float = SECONDS) -> bool:
        """Return whether anybody may take it: it ran out, or its holder gave it back or is dead."""
        # A clock that was set back would have it last for as long.
        is_over = not now < self.until <= now + timedelta(seconds=seconds)
        return is_over or has_ended(self.process)

    @property
    def is_released(self) -> bool:
        """Return whether the last holder gave it back."""
        return not self.process


COLUMNS = [_LEASES.c[name] for name in Lease.__slots__]


def has_leases(connection: Connection) -> bool:
    """Return whether the schema has leases; those of releases before it are not seen."""
    return inspect(connection).has_table(_LEASES.name)


def leases(connection: Connection) -> list[Lease]:
    """Return all leases that were ever taken."""
    query = select(*COLUMNS).where(_LEASES.c.term > 0).order_by(_LEASES.c.name)
    return [lease_of(row) for row in connection.execute(query)]


def lease_of(row: Row[tuple[object, ...]]) -> Lease:
    """Return a lease from its row."""
    return Lease(**row._asdict())


def clock_of(connection: Connection) -> datetime:
    """Return the time by the database's clock, which all its processes share."""
    if connection.dialect.name == "postgresql":
        now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return now.astimezone(UTC)
    return datetime.now(UTC)
