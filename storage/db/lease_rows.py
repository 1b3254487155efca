"""Leases as rows of the database, which older and newer releases read as well.

No column is read here that came later than the table: an upgrade looks at the leases of the
schema before.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, Row, func, inspect, select

from storage.db import tables
from storage.processes import has_ended

LEASE_SECONDS = 10.0
"""How long a lease is valid unless it is renewed."""

_LEASES = tables.leases


class LeaseState(StrEnum):
    """How a lease is: held, given back, run out, or of a process of this machine that ended."""

    HELD = "held"
    RELEASED = "released"
    EXPIRED = "expired"
    DEAD = "dead"


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

    def state(self, now: datetime, seconds: float = LEASE_SECONDS) -> LeaseState:
        """Return how it is at an instant of the database's clock; only a held one is not free."""
        if self.until <= now:
            return LeaseState.EXPIRED if self.process else LeaseState.RELEASED
        # A clock that was set back would have it last for as long.
        if self.until > now + timedelta(seconds=seconds):
            return LeaseState.EXPIRED
        return LeaseState.DEAD if has_ended(self.process) else LeaseState.HELD


LEASE_COLUMNS = [_LEASES.c[name] for name in Lease.__slots__]


def has_leases(connection: Connection) -> bool:
    """Return whether the schema has leases; those of releases before it are not seen."""
    return inspect(connection).has_table(_LEASES.name)


def read_leases(connection: Connection) -> list[Lease]:
    """Return all leases that were ever taken."""
    query = select(*LEASE_COLUMNS).where(_LEASES.c.term > 0).order_by(_LEASES.c.name)
    return [lease_from_row(row) for row in connection.execute(query)]


def lease_from_row(row: Row[tuple[object, ...]]) -> Lease:
    """Return a lease from its row."""
    return Lease(**row._asdict())


def database_time(connection: Connection) -> datetime:
    """Return the time by the database's clock, which all its processes share."""
    if connection.dialect.name == "postgresql":
        now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return now.astimezone(UTC)
    return datetime.now(UTC)
