"""The ledger of coverage as it is defined: each claim is folded by statements of its own."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from storage import tables
from storage.claims import Claim, merged, settle
from storage.instants import Present
from storage.records import Coverage, CoverageState

TABLE = tables.coverage


class OneByOne:
    """What `CoverageRows` has to equal."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def fold(self, claims: Iterable[Claim], present: Present | None = None) -> list[Coverage]:
        found = [self._add(claim, present) for claim in claims]
        return [latest for latest in found if latest is not None]

    def _add(self, claim: Claim, present: Present | None) -> Coverage | None:
        before = self.latest(claim.camera, present)
        for row in settle(claim, self._ground(claim, before)):
            self._keep(row)
        after = self.latest(claim.camera, present)
        return None if after == before else after

    def latest(self, camera: str, present: Present | None = None) -> Coverage | None:
        query = _of(camera).order_by(TABLE.c.end.desc()).limit(1)
        row = self._connection.execute(query).one_or_none()
        if row is None:
            return None
        if present is not None and not present.believes(row.end):
            self._take_back(camera, present)
            return self.latest(camera)
        return _coverage(row)

    def _take_back(self, camera: str, present: Present) -> None:
        ahead = (TABLE.c.camera == camera) & (TABLE.c.end > present.now + present.tolerance)
        began = ahead & (TABLE.c.start < present.now)
        self._connection.execute(update(TABLE).where(began).values(end=present.now))
        self._connection.execute(delete(TABLE).where(ahead))

    def _ground(self, claim: Claim, latest: Coverage | None) -> list[Coverage]:
        if claim.start is not None or latest is None:
            return []
        if claim.state is CoverageState.INGEST_DOWN:
            return [latest]
        waits = _of(claim.camera).where(
            TABLE.c.state == CoverageState.WAITING, TABLE.c.start < claim.end
        )
        return [_coverage(row) for row in self._connection.execute(waits)]

    def _keep(self, new: Coverage) -> None:
        touching = _of(new.camera).where(TABLE.c.end >= new.start, TABLE.c.start <= new.end)
        rows = [_coverage(row) for row in self._connection.execute(touching)]
        now = merged([*rows, new])
        for row in set(rows) - set(now):
            here = (TABLE.c.camera == row.camera) & (TABLE.c.start == row.start)
            self._connection.execute(delete(TABLE).where(here))
        added = set(now) - set(rows)
        if added:
            self._connection.execute(insert(TABLE), [asdict(row) for row in added])


def _of(camera: str) -> Select[Any]:
    return select(TABLE).where(TABLE.c.camera == camera)


def _coverage(row: Row[Any]) -> Coverage:
    return Coverage(**row._asdict() | {"state": CoverageState(row.state)})
