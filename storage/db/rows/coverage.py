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

from storage.clock import CurrentTime
from storage.db import tables
from storage.db.database import READ_ONLY_OPTION, translate_errors
from storage.db.sql.distinct import distinct_values_query
from storage.db.sql.upsert import dialect_insert
from storage.records.claims import Claim, merge_intervals, resolve_claim
from storage.records.records import CoverageInterval, CoverageState, TimeSpan

_TABLE = tables.coverage
_PREFETCH = timedelta(hours=1)
"""How far before the end of a batch its intervals are read together; earlier ones when needed."""
_BEGINNING = datetime.min.replace(tzinfo=UTC)


class CoverageRows:
    """The ledger within one open transaction: all of it is kept, or nothing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def fold(
        self, claims: Sequence[Claim], current_time: CurrentTime | None = None
    ) -> list[CoverageInterval]:
        """Fold claims into the ledger, in order.

        Return, for each claim that changed it, the latest interval of its camera as it was then:
        begun, made longer or in another state. With `present`, what is ahead of it is taken back.
        """
        timelines = self._read(claims)
        changed = [timelines[claim.camera].fold(claim, current_time) for claim in claims]
        self._write(timelines.values())
        return [latest for latest in changed if latest is not None]

    def latest(
        self, camera: str, current_time: CurrentTime | None = None
    ) -> CoverageInterval | None:
        """Return the last interval of a camera.

        With `present`, what is ahead of it is deleted first: a clock that was ahead wrote it, and
        it would hide all that comes.
        """
        timeline = _CameraTimeline(self._connection, camera)
        found = timeline.latest(current_time)
        self._write([timeline])
        return found

    def waiting_spans(self) -> dict[str, TimeSpan]:
        """Return from when to when something waits, by camera."""
        ends = func.min(_TABLE.c.start).label("start"), func.max(_TABLE.c.end).label("end")
        query = (
            select(_TABLE.c.camera, *ends)
            .where(_TABLE.c.state == CoverageState.WAITING)
            .group_by(_TABLE.c.camera)
        )
        rows = self._connection.execute(query)
        return {row.camera: TimeSpan(start=row.start, end=row.end) for row in rows}

    def cameras(self) -> list[str]:
        """Return the cameras that have a ledger."""
        query = select(_TABLE.c.camera).group_by(_TABLE.c.camera)
        return [row.camera for row in self._connection.execute(query)]

    def _read(self, claims: Sequence[Claim]) -> "dict[str, _CameraTimeline]":
        """Return the ledgers that claims are about, their last intervals read in one statement."""
        if not claims:
            return {}
        first = min(claim.end if claim.start is None else claim.start for claim in claims)
        since = max(first, max(claim.end for claim in claims) - _PREFETCH)
        found: dict[str, list[CoverageInterval]] = {claim.camera: [] for claim in claims}
        query = select(_TABLE).where(_TABLE.c.camera.in_(sorted(found)), _TABLE.c.end >= since)
        for row in self._connection.execute(query):
            found[row.camera].append(_interval_from_row(row))
        return {
            camera: _CameraTimeline(self._connection, camera, rows, since)
            for camera, rows in found.items()
        }

    def _write(self, timelines: "Collection[_CameraTimeline]") -> None:
        deleted = [
            {"of_camera": timeline.camera, "of_start": start}
            for timeline in timelines
            for start in timeline.deleted_starts
        ]
        if deleted:
            condition = and_(
                _TABLE.c.camera == bindparam("of_camera"), _TABLE.c.start == bindparam("of_start")
            )
            self._connection.execute(delete(_TABLE).where(condition), deleted)
        rows = [_coverage_row(row) for timeline in timelines for row in timeline.changed_intervals]
        if rows:
            statement = dialect_insert(self._connection, _TABLE)
            values = {name: statement.excluded[name] for name in ("end", "state", "reason")}
            statement = statement.on_conflict_do_update(
                index_elements=["camera", "start"], set_=values
            )
            self._connection.execute(statement, rows)


class _CameraTimeline:
    """The ledger of one camera, changed in memory.

    `rows` are all its intervals that end at or after `since`, in order; earlier ones are read
    when they are needed.
    """

    def __init__(
        self,
        connection: Connection,
        camera: str,
        rows: Iterable[CoverageInterval] = (),
        since: datetime | None = None,
    ) -> None:
        self.camera = camera
        self._connection = connection
        self._rows = sorted(rows, key=_start)
        self._stored = {row.start: row for row in self._rows}
        self._since = since
        self._has_loaded_waiting = False

    @property
    def deleted_starts(self) -> set[datetime]:
        """Return where the stored intervals begin that are to be deleted."""
        return self._stored.keys() - {row.start for row in self._rows}

    @property
    def changed_intervals(self) -> list[CoverageInterval]:
        """Return the intervals that are not stored so."""
        return [row for row in self._rows if self._stored.get(row.start) != row]

    def fold(self, claim: Claim, current_time: CurrentTime | None) -> CoverageInterval | None:
        """Fold a claim; return the latest interval if that is not as it was."""
        before = self.latest(current_time)
        for interval in resolve_claim(claim, self._base_intervals(claim, before)):
            self._insert(interval)
        after = self.latest(current_time)
        return None if after == before else after

    def latest(self, current_time: CurrentTime | None = None) -> CoverageInterval | None:
        """Return the last interval; what is ahead of `present` is taken back first."""
        if not self._rows:
            self._load_last()
        if (
            self._rows
            and current_time is not None
            and not current_time.is_plausible(self._rows[-1].end)
        ):
            self._drop_future(current_time)
            return self.latest()
        return self._rows[-1] if self._rows else None

    def _base_intervals(
        self, claim: Claim, latest: CoverageInterval | None
    ) -> list[CoverageInterval]:
        if claim.start is not None or latest is None:
            return []
        if claim.state is CoverageState.INGEST_DOWN:
            return [latest]
        self._load_waiting()
        waiting = CoverageState.WAITING
        return [row for row in self._rows if row.state is waiting and row.start < claim.end]

    def _insert(self, interval: CoverageInterval) -> None:
        self._load_since(interval.start)
        first = bisect_left(self._rows, interval.start, key=_end)
        last = bisect_right(self._rows, interval.end, key=_start)
        self._rows[first:last] = merge_intervals([*self._rows[first:last], interval])

    def _drop_future(self, current_time: CurrentTime) -> None:
        """Drop what is ahead of our clock; an interval that begins earlier ends now."""
        limit = current_time.now + current_time.tolerance
        self._load_since(limit)
        self._rows = [
            row if row.end <= limit else replace(row, end=current_time.now)
            for row in self._rows
            if row.end <= limit or row.start < current_time.now
        ]

    def _load_since(self, since: datetime) -> None:
        """Read the intervals that end at or after an instant."""
        if self._since is not None and self._since <= since:
            return
        query = _camera_query(self.camera).where(_TABLE.c.end >= since)
        self._load(query if self._since is None else query.where(_TABLE.c.end < self._since))
        self._since = since

    def _load_last(self) -> None:
        """Read the last interval that was not read yet."""
        query = _camera_query(self.camera).order_by(_TABLE.c.end.desc()).limit(1)
        self._load(query if self._since is None else query.where(_TABLE.c.end < self._since))
        self._since = self._rows[0].end if self._rows else _BEGINNING

    def _load_waiting(self) -> None:
        """Read from the oldest interval that waits."""
        if self._has_loaded_waiting:
            return
        self._has_loaded_waiting = True
        oldest = select(func.min(_TABLE.c.start)).where(
            _TABLE.c.state == CoverageState.WAITING, _TABLE.c.camera == self.camera
        )
        start = self._connection.execute(oldest).scalar()
        if start is not None:
            self._load_since(start)

    def _load(self, query: Select[Any]) -> None:
        rows = sorted(map(_interval_from_row, self._connection.execute(query)), key=_start)
        self._stored |= {row.start: row for row in rows}
        self._rows = rows + self._rows


class CoverageStore:
    """The ledger for whoever reads it; safe to use from any thread and process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(**{READ_ONLY_OPTION: True})

    def between(self, camera: str, span: TimeSpan) -> list[CoverageInterval]:
        """Return the intervals of a camera that reach into a span, in order."""
        other = _TABLE.alias()
        latest_start = select(func.max(other.c.start)).where(
            other.c.camera == camera, other.c.start <= span.start
        )
        # None overlaps another, so that only the last that has begun may reach into the span.
        first = func.coalesce(
            latest_start.scalar_subquery(), literal(span.start, _TABLE.c.start.type)
        )
        overlapping = _camera_query(camera).where(
            _TABLE.c.start >= first, _TABLE.c.start < span.end, _TABLE.c.end > span.start
        )
        return [_interval_from_row(row) for row in self._rows(overlapping.order_by(_TABLE.c.start))]

    def extent(self, camera: str) -> TimeSpan | None:
        """Return from when to when a camera is accounted for; None where it has no ledger."""
        condition = _TABLE.c.camera == camera
        ends = (func.min(_TABLE.c.start), "start"), (func.max(_TABLE.c.end), "end")
        found = (select(end).where(condition).scalar_subquery().label(name) for end, name in ends)
        (row,) = self._rows(select(*found))
        return None if row.start is None else TimeSpan(start=row.start, end=row.end)

    def latest(self) -> list[CoverageInterval]:
        """Return the last interval of every camera."""
        camera = distinct_values_query(_TABLE.c.camera).subquery().c.value
        other = _TABLE.alias()
        end = select(func.max(other.c.end)).where(other.c.camera == camera).correlate(camera.table)
        condition = (_TABLE.c.camera == camera) & (_TABLE.c.end == end.scalar_subquery())
        return [
            _interval_from_row(row)
            for row in self._rows(select(_TABLE).join(camera.table, condition))
        ]

    def cameras(self) -> list[str]:
        """Return the cameras that have a ledger."""
        return sorted(row.camera for row in self.latest())

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with translate_errors(self._engine), self._engine.begin() as connection:
            return connection.execute(query).all()


def _camera_query(camera: str) -> Select[Any]:
    return select(_TABLE).where(_TABLE.c.camera == camera)


def _start(row: CoverageInterval) -> datetime:
    return row.start


def _end(row: CoverageInterval) -> datetime:
    return row.end


def _coverage_row(row: CoverageInterval) -> dict[str, Any]:
    return {
        "camera": row.camera,
        "start": row.start,
        "end": row.end,
        "state": row.state,
        "reason": row.reason,
    }


def _interval_from_row(row: Row[Any]) -> CoverageInterval:
    return CoverageInterval(**row._asdict() | {"state": CoverageState(row.state)})
