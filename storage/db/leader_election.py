"""Leases: of all processes on one database, which one does what only one may do at a time.

A lease is a row that is valid until an instant of the database's clock. Whoever holds it renews
it; who wants it takes it once it was given back, ran out, or its holder is a process of this
machine that has ended. Each taking is a new term. A transaction of a holder checks its term, so
that one that slept through the end of its lease keeps nothing (fencing, as Kubernetes' leader
election leaves it to do).
"""

import os
import socket
import time
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Engine, select, update

from storage.db import tables
from storage.db.database import (
    UNQUEUED_OPTION,
    current_revision,
    database_location,
    translate_errors,
)
from storage.db.lease_rows import (
    LEASE_COLUMNS,
    LEASE_SECONDS,
    Lease,
    LeaseState,
    database_time,
    lease_from_row,
)
from storage.db.sql.upsert import dialect_insert
from storage.errors import LeaseLost
from storage.processes import process_identity

RENEWALS_PER_LEASE = 4
"""How often it is renewed in that time."""
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that goes on while the machine sleeps."""

_LEASES = tables.leases


class LeaderElector:
    """Who holds a lease, or wants to; safe to use from any thread.

    Methods raise what `storage.errors` says of the database, and LeaseLost once another process
    has taken the lease since.
    """

    def __init__(
        self, engine: Engine, name: str, *, version: str = "", seconds: float = LEASE_SECONDS
    ) -> None:
        self.name = name
        self.seconds = seconds
        self._engine = engine.execution_options(**{UNQUEUED_OPTION: True})
        self._version = version
        self._process = process_identity() or str(uuid4())
        self._term = 0
        self._valid_until = float("-inf")

    @property
    def is_held(self) -> bool:
        """Return whether this process has taken the lease, and not given it back."""
        return self._term > 0

    def acquire(self) -> Lease:
        """Take the lease if nobody else holds it; return the lease as it is then."""
        began = _now()
        with translate_errors(self._engine), self._engine.begin() as connection:
            lease, now = self._lock_row(connection)
            if lease.state(now, self.seconds) is LeaseState.HELD:
                return lease
            current_revision(
                connection, database_location(self._engine.url)
            )  # a newer release came meanwhile
            acquired = Lease(
                name=self.name,
                holder=f"{socket.gethostname()} (process {os.getpid()})",
                process=self._process,
                version=self._version,
                term=lease.term + 1,
                since=now,
                until=now + timedelta(seconds=self.seconds),
            )
            _write(connection, acquired)
        self._term, self._valid_until = acquired.term, began + self.seconds
        return acquired

    def renew(self) -> None:
        """Make the lease valid for its whole time again."""
        began = _now()
        with translate_errors(self._engine), self._engine.begin() as connection:
            until = database_time(connection) + timedelta(seconds=self.seconds)
            statement = update(_LEASES).where(*self._own_lease()).values(until=until)
            if connection.execute(statement).rowcount != 1:
                raise self._lease_lost(connection)
        self._valid_until = began + self.seconds

    def confirm(self) -> None:
        """Return where nobody else can hold the lease; asks where that is not sure by itself."""
        if _now() >= self._valid_until:
            self.renew()

    def check_term(self, connection: Connection) -> None:
        """Return where the lease is of this term still, as the writer that `connection` is."""
        if connection.execute(select(_LEASES.c.term).where(*self._own_lease())).scalar() is None:
            raise self._lease_lost(connection)

    def release(self) -> None:
        """Give the lease back: whoever waits for it need not wait until it runs out."""
        with translate_errors(self._engine), self._engine.begin() as connection:
            released = {"until": database_time(connection), "process": ""}
            connection.execute(update(_LEASES).where(*self._own_lease()).values(released))
        self._term, self._valid_until = 0, float("-inf")

    def _own_lease(self) -> tuple[ColumnElement[bool], ...]:
        # A failover may lose the row of a term, which is then given a second time.
        term, process = _LEASES.c.term == self._term, _LEASES.c.process == self._process
        return _LEASES.c.name == self.name, term, process

    def _lock_row(self, connection: Connection) -> tuple[Lease, datetime]:
        """Return the lease, which nobody else changes until the end, and the database's time."""
        now = database_time(connection)
        unheld = Lease(
            name=self.name, holder="", process="", version="", term=0, since=now, until=now
        )
        statement = (
            dialect_insert(connection, _LEASES).values(_row(unheld)).on_conflict_do_nothing()
        )
        connection.execute(statement)
        query = select(*LEASE_COLUMNS).where(_LEASES.c.name == self.name).with_for_update()
        return lease_from_row(connection.execute(query).one()), database_time(connection)

    def _lease_lost(self, connection: Connection) -> LeaseLost:
        query = select(*LEASE_COLUMNS).where(_LEASES.c.name == self.name)
        row = connection.execute(query).one_or_none()
        holder = lease_from_row(row).holder if row else "nobody"
        return LeaseLost(database_location(self._engine.url), self.name, holder)


def _write(connection: Connection, lease: Lease) -> None:
    connection.execute(update(_LEASES).where(_LEASES.c.name == lease.name).values(_row(lease)))


def _row(lease: Lease) -> dict[str, object]:
    return {name: getattr(lease, name) for name in Lease.__slots__}


def _now() -> float:
    return time.clock_gettime(_CLOCK)
