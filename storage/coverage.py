"""The ledger of coverage in the database."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)

from storage import tables
from storage.claims import Claim, merged, settle
from storage.database import READING, trouble_named
from storage.distinct import distinct_values
from storage.instants import Present
from storage.records import Coverage, CoverageState, Span

_TABLE = tables.coverage


class CoverageRows:
    """The ledger within one open transaction: all of it is kept, or nothing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, claim: Claim, present: Present | None = None) -> Coverage | None:
        """Fold a claim into the ledger.

        Return the latest interval of its camera where this claim began it, made it longer or
        changed its state. With `present`, what is ahead of it is taken back first.
        """
        before = self.latest(claim.camera, present)
        for told in settle(claim, self._ground(claim, before)):
            self._keep(told)
        after = self.latest(claim.camera, present)
        return None if after == before else after

    def _take_back(self, camera: str, present: Present) -> None:
        """Delete what is ahead of our clock; an interval that begins earlier ends now."""
        ahead = (_TABLE.c.camera == camera) & (_TABLE.c.end > present.now + present.tolerance)
        began = ahead & (_TABLE.c.start < present.now)
        self._connection.execute(update(_TABLE).where(began).values(end=present.now))
        self._connection.execute(delete(_TABLE).where(ahead))

    def latest(self, camera: str, present: Present | None = None) -> Coverage | None:
        """Return the last interval of a camera.

        With `present`, what is ahead of it is deleted first: a clock that was ahead wrote it, and
        it would hide all that comes.
        """
        query = _of(camera).order_by(_TABLE.c.end.desc()).limit(1)
        row = self._connection.execute(query).one_or_none()
        if row is None:
            return None
        if present is not None and not present.believes(row.end):
            self._take_back(camera, present)
            return self.latest(camera)
        return _coverage(row)

    def waiting(self, before: datetime) -> list[str]:
        """Return the cameras of which something from before an instant waits."""
        query = (
            select(_TABLE.c.camera)
            .where(_TABLE.c.state == CoverageState.WAITING, _TABLE.c.start < before)
            .group_by(_TABLE.c.camera)
        )
        return [row.camera for row in self._connection.execute(query)]

    def cameras(self) -> list[str]:
        """Return the cameras that have a ledger."""
        query = select(_TABLE.c.camera).group_by(_TABLE.c.camera)
        return [row.camera for row in self._connection.execute(query)]

    def _ground(self, claim: Claim, latest: Coverage | None) -> list[Coverage]:
        if claim.start is not None or latest is None:
            return []
        if claim.state is CoverageState.INGEST_DOWN:
            return [latest]
        waits = _of(claim.camera).where(
            _TABLE.c.state == CoverageState.WAITING, _TABLE.c.start < claim.end
        )
        return [_coverage(row) for row in self._connection.execute(waits)]

    def _keep(self, told: Coverage) -> None:
        touching = _of(told.camera).where(_TABLE.c.end >= told.start, _TABLE.c.start <= told.end)
        rows = [_coverage(row) for row in self._connection.execute(touching)]
        now = merged([*rows, told])
        gone, new = set(rows) - set(now), set(now) - set(rows)
        for row in gone:
            here = (_TABLE.c.camera == row.camera) & (_TABLE.c.start == row.start)
            self._connection.execute(delete(_TABLE).where(here))
        if new:
            self._connection.execute(insert(_TABLE), [asdict(row) for row in new])


class CoverageStore:
    """The ledger for whoever reads it; safe to use from any thread and process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(**{READING: True})

    def between(self, camera: str, span: Span) -> list[Coverage]:
        """Return the intervals of a camera that reach into a span, in order."""
        other = _TABLE.alias()
        begun = select(func.max(other.c.start)).where(
            other.c.camera == camera, other.c.start <= span.start
        )
        # None overlaps another, so that only the last that has begun may reach into the span.
        first = func.coalesce(begun.scalar_subquery(), literal(span.start, _TABLE.c.start.type))
        reach = _of(camera).where(
            _TABLE.c.start >= first, _TABLE.c.start < span.end, _TABLE.c.end > span.start
        )
        return [_coverage(row) for row in self._rows(reach.order_by(_TABLE.c.start))]

    def extent(self, camera: str) -> Span | None:
        """Return from when to when a camera is accounted for; None where it has no ledger."""
        here = _TABLE.c.camera == camera
        ends = (func.min(_TABLE.c.start), "start"), (func.max(_TABLE.c.end), "end")
        found = (select(end).where(here).scalar_subquery().label(name) for end, name in ends)
        (row,) = self._rows(select(*found))
        return None if row.start is None else Span(start=row.start, end=row.end)

    def latest(self) -> list[Coverage]:
        """Return the last interval of every camera."""
        camera = distinct_values(_TABLE.c.camera).subquery().c.value
        other = _TABLE.alias()
        end = select(func.max(other.c.end)).where(other.c.camera == camera).correlate(camera.table)
        here = (_TABLE.c.camera == camera) & (_TABLE.c.end == end.scalar_subquery())
        return [_coverage(row) for row in self._rows(select(_TABLE).join(camera.table, here))]

    def cameras(self) -> list[str]:
        """Return the cameras that have a ledger."""
        return sorted(row.camera for row in self.latest())

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with trouble_named(self._engine), self._engine.begin() as connection:
            return connection.execute(query).all()


def _of(camera: str) -> Select[Any]:
    return select(_TABLE).where(_TABLE.c.camera == camera)


def _coverage(row: Row[Any]) -> Coverage:
    return Coverage(**row._asdict() | {"state": CoverageState(row.state)})
