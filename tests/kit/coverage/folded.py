"""The ledger of one camera, folded from the claims of a log, and questions about it."""

from collections.abc import Iterable
from datetime import UTC, datetime

from storage.log.log import Log
from storage.records.claims import (
    clip_intervals,
    decode_claim,
    merge_intervals,
    resolve_claim,
    uncovered_spans,
)
from storage.records.records import CoverageInterval, CoverageState, TimeSpan
from storage.records.topics import COVERAGE

_PAGE_ENTRIES = 50


def fold_coverage(log: Log, camera: str) -> list[CoverageInterval]:
    """Return the intervals of a camera, each instant once, in order."""
    rows: list[CoverageInterval] = []
    for partition in log.partitions(COVERAGE):
        for value in _values(log, partition, camera):
            claim = decode_claim(value)
            if claim.camera == camera:
                rows = merge_intervals([*rows, *resolve_claim(claim, rows)])
    return rows


def _values(log: Log, partition: str, camera: str) -> Iterable[bytes]:
    offset = log.start_offset(partition)
    while page := list(log.read(partition, offset, _PAGE_ENTRIES, camera)):
        yield from (entry.value for entry in page)
        offset = page[-1].offset + 1


def span(start: float, end: float) -> TimeSpan:
    """Return a span of time between two instants in seconds since the epoch."""
    return TimeSpan(start=datetime.fromtimestamp(start, UTC), end=datetime.fromtimestamp(end, UTC))


def seconds_in(rows: Iterable[CoverageInterval], within: TimeSpan) -> dict[CoverageState, float]:
    """Return for how long within a span each state lasted."""
    found: dict[CoverageState, float] = {}
    for row in clip_intervals(rows, within):
        length = (row.end - row.start).total_seconds()
        found[row.state] = found.get(row.state, 0.0) + length
    return found


def seconds_unexplained(rows: Iterable[CoverageInterval], within: TimeSpan) -> float:
    """Return for how many seconds of a span there is no state."""
    holes = uncovered_spans(rows, within)
    return sum((hole.end - hole.start).total_seconds() for hole in holes)
