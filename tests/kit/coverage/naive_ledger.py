"""The ledger of coverage as it is defined: each claim is folded by statements of its own."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from storage.clock import CurrentTime
from storage.db import tables
from storage.records.claims import Claim, merge_intervals, resolve_claim
from storage.records.records import CoverageInterval, CoverageState

TABLE = tables.coverage


class NaiveCoverageLedger:
    """What `CoverageRows` has to equal."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def fold(
        self, claims: Iterable[Claim], present: CurrentTime | None = None
    ) -> list[CoverageInterval]:
        found = [self._apply(claim, present) for claim in claims]
        return [latest for latest in found if latest is not None]

    def _apply(self, claim: Claim, present: CurrentTime | None) -> CoverageInterval | None:
        before = self.latest(claim.camera, present)
        for row in resolve_claim(claim, self._affected_rows(claim, before)):
            self._merge(row)
        after = self.latest(claim.camera, present)
        return None if after == before else after

    def latest(self, camera: str, present: CurrentTime | None = None) -> CoverageInterval | None:
        query = _of(camera).order_by(TABLE.c.end.desc()).limit(1)
        row = self._connection.execute(query).one_or_none()
        if row is None:
            return None
        if present is not None and not present.is_plausible(row.end):
            self._truncate_future(camera, present)
            return self.latest(camera)
        return _coverage(row)

    def _truncate_future(self, camera: str, present: CurrentTime) -> None:
        ahead = (TABLE.c.camera == camera) & (TABLE.c.end > present.now + present.tolerance)
        began = ahead & (TABLE.c.start < present.now)
        self._connection.execute(update(TABLE).where(began).values(end=present.now))
        self._connection.execute(delete(TABLE).where(ahead))

    def _affected_rows(
        self, claim: Claim, latest: CoverageInterval | None
    ) -> list[CoverageInterval]:
        if claim.start is not None or latest is None:
            return []
        if claim.state is CoverageState.INGEST_DOWN:
            return [latest]
        waits = _of(claim.camera).where(
            TABLE.c.state == CoverageState.WAITING, TABLE.c.start < claim.end
        )
        return [_coverage(row) for row in self._connection.execute(waits)]

    def _merge(self, new: CoverageInterval) -> None:
        touching = _of(new.camera).where(TABLE.c.end >= new.start, TABLE.c.start <= new.end)
        rows = [_coverage(row) for row in self._connection.execute(touching)]
        now = merge_intervals([*rows, new])
        for row in set(rows) - set(now):
            here = (TABLE.c.camera == row.camera) & (TABLE.c.start == row.start)
            self._connection.execute(delete(TABLE).where(here))
        added = set(now) - set(rows)
        if added:
            self._connection.execute(insert(TABLE), [asdict(row) for row in added])


def _of(camera: str) -> Select[Any]:
    return select(TABLE).where(TABLE.c.camera == camera)


def _coverage(row: Row[Any]) -> CoverageInterval:
    return CoverageInterval(**row._asdict() | {"state": CoverageState(row.state)})
