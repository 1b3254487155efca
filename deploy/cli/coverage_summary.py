"""The coverage of a camera in a span: states, unclaimed time and unexplained holes.

Each is computed apart from the others, and together they make up the span.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from storage.records.claims import clip_intervals, uncovered_spans
from storage.records.records import CoverageInterval, CoverageState, TimeSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageSummary:
    """The coverage of a camera in a span, which starts no earlier than its first claim.

    `unclaimed` is the time after the last claim, which no process has reported yet.
    """

    camera: str
    span: TimeSpan
    intervals: tuple[CoverageInterval, ...]
    unclaimed: timedelta
    unexplained: tuple[TimeSpan, ...]

    @property
    def totals(self) -> dict[CoverageState, timedelta]:
        """Return how long each state lasted; 0 for a state that never occurred."""
        totals = dict.fromkeys(CoverageState, timedelta())
        for each in self.intervals:
            totals[each.state] += each.end - each.start
        return totals

    @property
    def unexplained_duration(self) -> timedelta:
        """Return how long no claim explains."""
        return sum((hole.end - hole.start for hole in self.unexplained), timedelta())


def summarize_coverage(
    camera: str, rows: Sequence[CoverageInterval], span: TimeSpan, extent: TimeSpan
) -> CoverageSummary:
    """Return the coverage in a span; claims reach to the end of `extent`."""
    span = TimeSpan(start=max(span.start, extent.start), end=max(span.end, extent.start))
    claimed = TimeSpan(start=span.start, end=max(span.start, min(span.end, extent.end)))
    return CoverageSummary(
        camera=camera,
        span=span,
        intervals=tuple(clip_intervals(rows, span)),
        unclaimed=span.end - claimed.end,
        unexplained=tuple(uncovered_spans(rows, claimed)),
    )
