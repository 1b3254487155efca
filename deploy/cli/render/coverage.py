"""Coverage as JSON, as tables, and as a bar for each day."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from deploy.cli.common import format_instant
from deploy.cli.coverage_summary import CoverageSummary
from storage.duration import format_duration
from storage.records.records import CoverageInterval, CoverageState, TimeSpan

CELLS_PER_DAY = 96
"""The cells of a day's bar."""
_CELL = timedelta(days=1) / CELLS_PER_DAY
MAX_DAYS = 31

COLOURS = {
    CoverageState.ANALYSED: "green",
    CoverageState.WAITING: "cyan",
    CoverageState.SHED: "yellow",
    CoverageState.CORRUPT: "bright_yellow",
    CoverageState.ANALYZER_DOWN: "magenta",
    CoverageState.CAMERA_DOWN: "red",
    CoverageState.INGEST_DOWN: "bright_red",
    CoverageState.STREAM_BROKEN: "dark_orange",
    CoverageState.OVERLOADED: "violet",
    CoverageState.MOVED: "turquoise2",
    CoverageState.FROZEN: "blue",
    CoverageState.COVERED: "bright_blue",
}
JSON_VERSION = 2
"""The version of what `--json` prints: 2 has the states stream_broken, overloaded and moved."""
_SECOND = timedelta(seconds=1)


def coverage_fields(summary: CoverageSummary) -> dict[str, Any]:
    """Return coverage as JSON; times in seconds."""
    whole = (summary.span.end - summary.span.start) / _SECOND
    seconds = {str(state): total / _SECOND for state, total in summary.totals.items()}
    waiting = seconds.pop(CoverageState.WAITING)
    return {
        "version": JSON_VERSION,
        "camera": summary.camera,
        "from": summary.span.start.isoformat(),
        "to": summary.span.end.isoformat(),
        "seconds": seconds,
        "shares": {state: part / whole if whole else 0.0 for state, part in seconds.items()},
        "waiting": waiting,
        "untold": summary.unclaimed / _SECOND,
        "unexplained": summary.unexplained_duration / _SECOND,
        "intervals": [_interval_fields(each) for each in summary.intervals],
        "holes": [_span_fields(hole) for hole in summary.unexplained],
    }


def coverage_parts(summary: CoverageSummary) -> Iterator[RenderableType]:
    """Yield a table of intervals, a bar for each day, and the totals."""
    table = Table("from", "to", "for", "state", "why")
    for each in summary.intervals:
        lasted = _format_seconds(each.end - each.start)
        times = map(Text, (format_instant(each.start), format_instant(each.end), lasted))
        table.add_row(*times, _coloured(each.state), Text(each.reason))
    yield table
    yield from _day_bars(summary)
    whole = summary.span.end - summary.span.start
    totals = Table("state", "for", "share")
    for state, total in summary.totals.items():
        if total:
            totals.add_row(_coloured(state), _format_seconds(total), f"{total / whole:.2%}")
    yield totals
    if summary.unclaimed:
        yield f"not reported yet: {_format_seconds(summary.unclaimed)}"
    yield f"unexplained: {summary.unexplained_duration / _SECOND:g} s"


def _day_bars(summary: CoverageSummary) -> Iterator[RenderableType]:
    """Draw each day as a bar: a cell shows the longest state but `analysed`, low if it was short.

    A `!` shows a hole that no claim explains.
    """
    day = summary.span.start.replace(hour=0, minute=0, second=0, microsecond=0)
    day = max(day, summary.span.end - timedelta(days=MAX_DAYS))
    cells = _day_cells(summary, TimeSpan(start=day, end=summary.span.end))
    while day < summary.span.end:
        bar = Text(f"{day:%Y-%m-%d} ")
        for cell in islice(cells, CELLS_PER_DAY):
            bar.append(*_draw_cell(cell))
        yield bar
        day += timedelta(days=1)
    yield Text.from_markup(" ".join(["█", *(f"[{c}]{s}[/]" for s, c in COLOURS.items())]))


@dataclass(slots=True)
class _Cell:
    """How long each state lasted within a cell, and whether it has a hole."""

    durations: dict[CoverageState, timedelta] = field(default_factory=dict)
    has_hole: bool = False


def _day_cells(summary: CoverageSummary, span: TimeSpan) -> Iterator[_Cell]:
    """Return the cells of the days in a span; visit each interval and hole once."""
    days = -((span.start - span.end) // timedelta(days=1))
    cells = [_Cell() for _ in range(days * CELLS_PER_DAY)]
    for each in summary.intervals:
        for nth, time in _cell_overlaps(span.start, each.start, each.end, len(cells)):
            lasted = cells[nth].durations
            lasted[each.state] = lasted.get(each.state, timedelta()) + time
    for hole in summary.unexplained:
        for nth, _ in _cell_overlaps(span.start, hole.start, hole.end, len(cells)):
            cells[nth].has_hole = True
    return iter(cells)


def _cell_overlaps(
    origin: datetime, start: datetime, end: datetime, cell_count: int
) -> Iterator[tuple[int, timedelta]]:
    """Yield each cell after `origin` that a span overlaps, and for how long."""
    first, last = (start - origin) // _CELL, -((origin - end) // _CELL)
    for nth in range(max(0, first), min(cell_count, last)):
        begin = origin + nth * _CELL
        yield nth, min(end, begin + _CELL) - max(start, begin)


def _draw_cell(cell: _Cell) -> tuple[str, str]:
    """Return the character of a cell and its style."""
    lasted = cell.durations
    if cell.has_hole:
        return "!", "bold red"
    if not lasted:
        return " ", ""
    others = {state: time for state, time in lasted.items() if state != CoverageState.ANALYSED}
    shown_state = max(others or lasted, key=lambda state: lasted[state])
    is_most = lasted[shown_state] >= sum(lasted.values(), timedelta()) / 2
    return ("█" if is_most else "▄"), COLOURS[shown_state]


def _interval_fields(each: CoverageInterval) -> dict[str, Any]:
    seconds = (each.end - each.start) / _SECOND
    fields = _span_fields(TimeSpan(start=each.start, end=each.end))
    fields |= {"state": each.state, "seconds": seconds}
    return fields | {"reason": each.reason} if each.reason else fields


def _span_fields(span: TimeSpan) -> dict[str, Any]:
    return {"start": span.start.isoformat(), "end": span.end.isoformat()}


def _coloured(state: CoverageState) -> Text:
    return Text(state, COLOURS[state])


def _format_seconds(time: timedelta) -> str:
    return format_duration(timedelta(seconds=round(time / _SECOND)))
