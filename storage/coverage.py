"""The ledger of coverage in the database."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    func,
    literal,
    select,
)

from storage import tables
from storage.claims import Claim, merged, settle
from storage.database import READING, trouble_named
from storage.distinct import distinct_values
from storage.insert import insert
from storage.instants import Present
from storage.records import Coverage, CoverageState, Span

_TABLE = tables.coverage
_RECENT = timedelta(hours=1)
"""How far before the end of a batch its intervals are read together; earlier ones when needed."""
_BEGINNING = datetime.min.replace(tzinfo=UTC)


class CoverageRows:
    """The ledger within one open transaction: all of it is kept, or nothing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def fold(self, claims: Sequence[Claim], present: Present | None = None) -> list[Coverage]:
        """Fold claims into the ledger, in order.

        Return, for each claim that changed it, the latest interval of its camera as it was then:
        begun, made longer or in another state. With `present`, what is ahead of it is taken back.
        """
        ledgers = self._read(claims)
        changed = [ledgers[claim.camera].fold(claim, present) for claim in claims]
        self._write(ledgers.values())
        return [latest for latest in changed if latest is not None]

    def latest(self, camera: str, present: Present | None = None) -> Coverage | None:
        """Return the last interval of a camera.

        With `present`, what is ahead of it is deleted first: a clock that was ahead wrote it, and
        it would hide all that comes.
        """
        ledger = _CameraLedger(self._connection, camera)
        found = ledger.latest(present)
        self._write([ledger])
        return found

    def waiting(self) -> dict[str, Span]:
        """Return from when to when something waits, by camera."""
        ends = func.min(_TABLE.c.start).label("start"), func.max(_TABLE.c.end).label("end")
        query = (
            select(_TABLE.c.camera, *ends)
            .where(_TABLE.c.state == CoverageState.WAITING)
            .group_by(_TABLE.c.camera)
        )
        rows = self._connection.execute(query)
        return {row.camera: Span(start=row.start, end=row.end) for row in rows}

    def cameras(self) -> list[str]:
        """Return the cameras that have a ledger."""
        query = select(_TABLE.c.camera).group_by(_TABLE.c.camera)
        return [row.camera for row in self._connection.execute(query)]

    def _read(self, claims: Sequence[Claim]) -> "dict[str, _CameraLedger]":
        """Return the ledgers that claims are about, their last intervals read in one statement."""
        if not claims:
            return {}
        first = min(claim.end if claim.start is None else claim.start for claim in claims)
        since = max(first, max(claim.end for claim in claims) - _RECENT)
        found: dict[str, list[Coverage]] = {claim.camera: [] for claim in claims}
        query = select(_TABLE).where(_TABLE.c.camera.in_(sorted(found)), _TABLE.c.end >= since)
        for row in self._connection.execute(query):
            found[row.camera].append(_coverage(row))
        return {
            camera: _CameraLedger(self._connection, camera, rows, since)
            for camera, rows in found.items()
        }

    def _write(self, ledgers: "Collection[_CameraLedger]") -> None:
        gone = [
            {"of_camera": ledger.camera, "of_start": start}
            for ledger in ledgers
            for start in ledger.gone
        ]
        if gone:
            here = and_(
                _TABLE.c.camera == bindparam("of_camera"), _TABLE.c.start == bindparam("of_start")
            )
            self._connection.execute(delete(_TABLE).where(here), gone)
        rows = [_fields(row) for ledger in ledgers for row in ledger.changed]
        if rows:
            writing = insert(self._connection, _TABLE)
            values = {name: writing.excluded[name] for name in ("end", "state", "reason")}
            writing = writing.on_conflict_do_update(index_elements=["camera", "start"], set_=values)
            self._connection.execute(writing, rows)


class _CameraLedger:
    """The ledger of one camera, changed in memory.

    `rows` are all its intervals that end at or after `since`, in order; earlier ones are read
    when they are needed.
    """

    def __init__(
        self,
        connection: Connection,
        camera: str,
        rows: Iterable[Coverage] = (),
        since: datetime | None = None,
    ) -> None:
        self.camera = camera
        self._connection = connection
        self._rows = sorted(rows, key=_start)
        self._stored = {row.start: row for row in self._rows}
        self._since = since
        self._knows_waiting = False

    @property
    def gone(self) -> set[datetime]:
        """Return where the stored intervals begin that are to be deleted."""
        return self._stored.keys() - {row.start for row in self._rows}

    @property
    def changed(self) -> list[Coverage]:
        """Return the intervals that are not stored so."""
        return [row for row in self._rows if self._stored.get(row.start) != row]

    def fold(self, claim: Claim, present: Present | None) -> Coverage | None:
        """Fold a claim; return the latest interval if that is not as it was."""
        before = self.latest(present)
        for interval in settle(claim, self._ground(claim, before)):
            self._put(interval)
        after = self.latest(present)
        return None if after == before else after

    def latest(self, present: Present | None = None) -> Coverage | None:
        """Return the last interval; what is ahead of `present` is taken back first."""
        if not self._rows:
            self._read_last()
        if self._rows and present is not None and not present.believes(self._rows[-1].end):
            self._take_back(present)
            return self.latest()
        return self._rows[-1] if self._rows else None

    def _ground(self, claim: Claim, latest: Coverage | None) -> list[Coverage]:
        if claim.start is not None or latest is None:
            return []
        if claim.state is CoverageState.INGEST_DOWN:
            return [latest]
        self._read_waiting()
        waiting = CoverageState.WAITING
        return [row for row in self._rows if row.state is waiting and row.start < claim.end]

    def _put(self, interval: Coverage) -> None:
        self._reach(interval.start)
        first = bisect_left(self._rows, interval.start, key=_end)
        last = bisect_right(self._rows, interval.end, key=_start)
        self._rows[first:last] = merged([*self._rows[first:last], interval])

    def _take_back(self, present: Present) -> None:
        """Drop what is ahead of our clock; an interval that begins earlier ends now."""
        limit = present.now + present.tolerance
        self._reach(limit)
        self._rows = [
            row if row.end <= limit else replace(row, end=present.now)
            for row in self._rows
            if row.end <= limit or row.start < present.now
        ]

    def _reach(self, since: datetime) -> None:
        """Read the intervals that end at or after an instant."""
        if self._since is not None and self._since <= since:
            return
        query = _of(self.camera).where(_TABLE.c.end >= since)
        self._load(query if self._since is None else query.where(_TABLE.c.end < self._since))
        self._since = since

    def _read_last(self) -> None:
        """Read the last interval that was not read yet."""
        query = _of(self.camera).order_by(_TABLE.c.end.desc()).limit(1)
        self._load(query if self._since is None else query.where(_TABLE.c.end < self._since))
        self._since = self._rows[0].end if self._rows else _BEGINNING

    def _read_waiting(self) -> None:
        """Read from the oldest interval that waits."""
        if self._knows_waiting:
            return
        self._knows_waiting = True
        oldest = select(func.min(_TABLE.c.start)).where(
            _TABLE.c.state == CoverageState.WAITING, _TABLE.c.camera == self.camera
        )
        start = self._connection.execute(oldest).scalar()
        if start is not None:
            self._reach(start)

    def _load(self, query: Select[Any]) -> None:
        rows = sorted(map(_coverage, self._connection.execute(query)), key=_start)
        self._stored |= {row.start: row for row in rows}
        self._rows = rows + self._rows


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


def _start(row: Coverage) -> datetime:
    return row.start


def _end(row: Coverage) -> datetime:
    return row.end


def _fields(row: Coverage) -> dict[str, Any]:
    return {
        "camera": row.camera,
        "start": row.start,
        "end": row.end,
        "state": row.state,
        "reason": row.reason,
    }


def _coverage(row: Row[Any]) -> Coverage:
    return Coverage(**row._asdict() | {"state": CoverageState(row.state)})
