"""The ledger of one camera, folded from the claims of a log, and questions about it."""

from collections.abc import Iterable
from datetime import UTC, datetime

from storage.claims import clipped, decode_claim, merged, settle, unexplained
from storage.log import COVERAGE, Log
from storage.records import Coverage, CoverageState, Span

_AT_ONCE = 50


def folded(log: Log, camera: str) -> list[Coverage]:
    """Return the intervals of a camera, each instant once, in order."""
    rows: list[Coverage] = []
    for part in log.parts(COVERAGE):
        for value in _values(log, part, camera):
            claim = decode_claim(value)
            if claim.camera == camera:
                rows = merged([*rows, *settle(claim, rows)])
    return rows


def _values(log: Log, part: str, camera: str) -> Iterable[bytes]:
    position = log.oldest(part)
    while page := list(log.read(part, position, _AT_ONCE, camera)):
        yield from (entry.value for entry in page)
        position = page[-1].position + 1


def span(start: float, end: float) -> Span:
    """Return a span of time between two instants in seconds since the epoch."""
    return Span(start=datetime.fromtimestamp(start, UTC), end=datetime.fromtimestamp(end, UTC))


def seconds_in(rows: Iterable[Coverage], within: Span) -> dict[CoverageState, float]:
    """Return for how long within a span each state lasted."""
    found: dict[CoverageState, float] = {}
    for row in clipped(rows, within):
        length = (row.end - row.start).total_seconds()
        found[row.state] = found.get(row.state, 0.0) + length
    return found


def seconds_unexplained(rows: Iterable[Coverage], within: Span) -> float:
    """Return for how many seconds of a span there is no state."""
    holes = unexplained(rows, within)
    return sum((hole.end - hole.start).total_seconds() for hole in holes)
