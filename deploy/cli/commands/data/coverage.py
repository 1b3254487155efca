"""`longwatch coverage`: what became of every second of a camera, as a table and as a picture.

States, what waits, what nobody has told yet and what is unexplained are reckoned apart from
each other, and make up the whole span.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.common import (
    DataOption,
    JsonOption,
    OptionalConfigOption,
    format_instant,
    parse_instant,
)
from deploy.cli.store import DataOptions, open_store
from deploy.errors import BadSettings, CommandFailed
from storage.duration import format_duration
from storage.records.records import CoverageInterval, CoverageState, TimeSpan

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

CELLS_PER_DAY = 96
"""A day in the picture is this many cells."""
_CELL = timedelta(days=1) / CELLS_PER_DAY
MAX_DAYS = 31
DEFAULT_SPAN = timedelta(days=1)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageSummary:
    """A camera in a span, which begins no earlier than its ledger does.

    `untold` is what lies after the last claim: it has not been told yet.
    """

    camera: str
    span: TimeSpan
    intervals: tuple[CoverageInterval, ...]
    unclaimed: timedelta
    unexplained: tuple[TimeSpan, ...]

    @property
    def totals(self) -> dict[CoverageState, timedelta]:
        """Return how long each state lasted, 0 for those that never were."""
        totals = dict.fromkeys(CoverageState, timedelta())
        for each in self.intervals:
            totals[each.state] += each.end - each.start
        return totals

    @property
    def unexplained_duration(self) -> timedelta:
        """Return how long nobody accounts for."""
        return sum((hole.end - hole.start for hole in self.unexplained), timedelta())


def summarize_coverage(
    camera: str, rows: Sequence[CoverageInterval], span: TimeSpan, extent: TimeSpan
) -> CoverageSummary:
    """Reckon what became of a span, of which the ledger tells as far as its extent."""
    from storage.records.claims import clip_intervals, uncovered_spans

    span = TimeSpan(start=max(span.start, extent.start), end=max(span.end, extent.start))
    claimed = TimeSpan(start=span.start, end=max(span.start, min(span.end, extent.end)))
    return CoverageSummary(
        camera=camera,
        span=span,
        intervals=tuple(clip_intervals(rows, span)),
        unclaimed=span.end - claimed.end,
        unexplained=tuple(uncovered_spans(rows, claimed)),
    )


def coverage(
    camera: Annotated[str, typer.Argument(help="The name of a camera.")],
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    start: Annotated[
        str | None, typer.Option("--from", help="From when (ISO 8601, UTC); else a day ago.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Until when; else until now.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what became of every second of a camera: analysed, or why not."""
    import json

    summary = _read_summary(camera, config, data, _parse_span(start, end))
    if as_json:
        typer.echo(json.dumps(coverage_fields(summary)))
        return
    from rich.console import Console

    console = Console()
    for part in coverage_parts(summary):
        console.print(part)


def coverage_fields(summary: CoverageSummary) -> dict[str, Any]:
    """Return a reckoning as JSON shows it; times in seconds."""
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


def coverage_parts(summary: CoverageSummary) -> Iterator["RenderableType"]:
    """Yield the intervals, a picture of the days and the totals, for a person."""
    from rich.table import Table
    from rich.text import Text

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
        yield f"not told yet: {_format_seconds(summary.unclaimed)}"
    yield f"unexplained: {summary.unexplained_duration / _SECOND:g} s"


def _day_bars(summary: CoverageSummary) -> Iterator["RenderableType"]:
    """Draw each day as a bar; a cell shows what was not analysed, low where that was short.

    What nobody accounts for is a `!`.
    """
    from rich.text import Text

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
    """How long each state lasted within a cell, and whether a part of it is unexplained."""

    durations: dict[CoverageState, timedelta] = field(default_factory=dict)
    has_hole: bool = False


def _day_cells(summary: CoverageSummary, span: TimeSpan) -> Iterator[_Cell]:
    """Return the cells of the days in a span, in order; takes each interval and hole once."""
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
    """Yield each cell after `origin` that a time reaches into, and how long it is in there."""
    for nth in range(
        max(0, (start - origin) // _CELL), min(cell_count, -((origin - end) // _CELL))
    ):
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


def _read_summary(
    camera: str, config: Path | None, data: Path | None, span: TimeSpan
) -> CoverageSummary:
    with open_store(DataOptions(config, data)) as store:
        extent = store.coverage.extent(camera)
        if extent is None:
            known = ", ".join(store.coverage.cameras()) or "none yet"
            raise CommandFailed(f"nothing is known of camera {camera!r}: known are {known}")
        return summarize_coverage(camera, store.coverage.between(camera, span), span, extent)


def _parse_span(start: str | None, end: str | None) -> TimeSpan:
    now = datetime.now(UTC)
    until = min(now, parse_instant("--to", end)) if end else now
    since = parse_instant("--from", start) if start else until - DEFAULT_SPAN
    if since >= until:
        raise BadSettings("--from: it must lie before --to, and before now")
    return TimeSpan(start=since, end=until)


def _interval_fields(each: CoverageInterval) -> dict[str, Any]:
    seconds = (each.end - each.start) / _SECOND
    coverage_fields = _span_fields(TimeSpan(start=each.start, end=each.end))
    coverage_fields |= {"state": each.state, "seconds": seconds}
    return coverage_fields | {"reason": each.reason} if each.reason else coverage_fields


def _span_fields(span: TimeSpan) -> dict[str, Any]:
    return {"start": span.start.isoformat(), "end": span.end.isoformat()}


def _coloured(state: CoverageState) -> "Text":
    from rich.text import Text

    return Text(state, COLOURS[state])


def _format_seconds(time: timedelta) -> str:
    return format_duration(timedelta(seconds=round(time / _SECOND)))
