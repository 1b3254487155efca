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

from deploy.console import AsJson, MaybeConfig, MaybeData, instant, time_text
from deploy.errors import BadSettings, Failed
from deploy.store import open_store
from storage.duration import format_duration
from storage.records import Coverage, CoverageState, Span

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

CELLS = 96
"""A day in the picture is this many cells."""
_CELL = timedelta(days=1) / CELLS
MOST_DAYS = 31
LATELY = timedelta(days=1)

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
FORMAT = 2
"""The version of what `--json` prints: 2 has the states stream_broken, overloaded and moved."""
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reckoning:
    """A camera in a span, which begins no earlier than its ledger does.

    `untold` is what lies after the last claim: it has not been told yet.
    """

    camera: str
    span: Span
    intervals: tuple[Coverage, ...]
    untold: timedelta
    unexplained: tuple[Span, ...]

    @property
    def totals(self) -> dict[CoverageState, timedelta]:
        """Return how long each state lasted, 0 for those that never were."""
        totals = dict.fromkeys(CoverageState, timedelta())
        for each in self.intervals:
            totals[each.state] += each.end - each.start
        return totals

    @property
    def unexplained_for(self) -> timedelta:
        """Return how long nobody accounts for."""
        return sum((hole.end - hole.start for hole in self.unexplained), timedelta())


def reckon(camera: str, rows: Sequence[Coverage], span: Span, extent: Span) -> Reckoning:
    """Reckon what became of a span, of which the ledger tells as far as its extent."""
    from storage.claims import clipped, unexplained

    span = Span(start=max(span.start, extent.start), end=max(span.end, extent.start))
    told = Span(start=span.start, end=max(span.start, min(span.end, extent.end)))
    return Reckoning(
        camera=camera,
        span=span,
        intervals=tuple(clipped(rows, span)),
        untold=span.end - told.end,
        unexplained=tuple(unexplained(rows, told)),
    )


def coverage(
    camera: Annotated[str, typer.Argument(help="The name of a camera.")],
    *,
    config: MaybeConfig = None,
    data: MaybeData = None,
    start: Annotated[
        str | None, typer.Option("--from", help="From when (ISO 8601, UTC); else a day ago.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Until when; else until now.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what became of every second of a camera: analysed, or why not."""
    import json

    found = _found(camera, config, data, _span(start, end))
    if as_json:
        typer.echo(json.dumps(fields(found)))
        return
    from rich.console import Console

    console = Console()
    for part in parts(found):
        console.print(part)


def fields(found: Reckoning) -> dict[str, Any]:
    """Return a reckoning as JSON shows it; times in seconds."""
    whole = (found.span.end - found.span.start) / _SECOND
    seconds = {str(state): total / _SECOND for state, total in found.totals.items()}
    waiting = seconds.pop(CoverageState.WAITING)
    return {
        "version": FORMAT,
        "camera": found.camera,
        "from": found.span.start.isoformat(),
        "to": found.span.end.isoformat(),
        "seconds": seconds,
        "shares": {state: part / whole if whole else 0.0 for state, part in seconds.items()},
        "waiting": waiting,
        "untold": found.untold / _SECOND,
        "unexplained": found.unexplained_for / _SECOND,
        "intervals": [_interval_fields(each) for each in found.intervals],
        "holes": [_times(hole) for hole in found.unexplained],
    }


def parts(found: Reckoning) -> Iterator["RenderableType"]:
    """Yield the intervals, a picture of the days and the totals, for a person."""
    from rich.table import Table
    from rich.text import Text

    table = Table("from", "to", "for", "state", "why")
    for each in found.intervals:
        lasted = _duration(each.end - each.start)
        times = map(Text, (time_text(each.start), time_text(each.end), lasted))
        table.add_row(*times, _coloured(each.state), Text(each.reason))
    yield table
    yield from _days(found)
    whole = found.span.end - found.span.start
    totals = Table("state", "for", "share")
    for state, total in found.totals.items():
        if total:
            totals.add_row(_coloured(state), _duration(total), f"{total / whole:.2%}")
    yield totals
    if found.untold:
        yield f"not told yet: {_duration(found.untold)}"
    yield f"unexplained: {found.unexplained_for / _SECOND:g} s"


def _days(found: Reckoning) -> Iterator["RenderableType"]:
    """Draw each day as a bar; a cell shows what was not analysed, low where that was short.

    What nobody accounts for is a `!`.
    """
    from rich.text import Text

    day = found.span.start.replace(hour=0, minute=0, second=0, microsecond=0)
    day = max(day, found.span.end - timedelta(days=MOST_DAYS))
    cells = _cells(found, Span(start=day, end=found.span.end))
    while day < found.span.end:
        bar = Text(f"{day:%Y-%m-%d} ")
        for cell in islice(cells, CELLS):
            bar.append(*_drawn(cell))
        yield bar
        day += timedelta(days=1)
    yield Text.from_markup(" ".join(["█", *(f"[{c}]{s}[/]" for s, c in COLOURS.items())]))


@dataclass(slots=True)
class _Cell:
    """How long each state lasted within a cell, and whether a part of it is unexplained."""

    lasted: dict[CoverageState, timedelta] = field(default_factory=dict)
    has_hole: bool = False


def _cells(found: Reckoning, span: Span) -> Iterator[_Cell]:
    """Return the cells of the days in a span, in order; takes each interval and hole once."""
    days = -((span.start - span.end) // timedelta(days=1))
    cells = [_Cell() for _ in range(days * CELLS)]
    for each in found.intervals:
        for nth, time in _shares(span.start, each.start, each.end, len(cells)):
            lasted = cells[nth].lasted
            lasted[each.state] = lasted.get(each.state, timedelta()) + time
    for hole in found.unexplained:
        for nth, _ in _shares(span.start, hole.start, hole.end, len(cells)):
            cells[nth].has_hole = True
    return iter(cells)


def _shares(
    origin: datetime, start: datetime, end: datetime, cells: int
) -> Iterator[tuple[int, timedelta]]:
    """Yield each cell after `origin` that a time reaches into, and how long it is in there."""
    for nth in range(max(0, (start - origin) // _CELL), min(cells, -((origin - end) // _CELL))):
        begin = origin + nth * _CELL
        yield nth, min(end, begin + _CELL) - max(start, begin)


def _drawn(cell: _Cell) -> tuple[str, str]:
    """Return the character of a cell and its style."""
    lasted = cell.lasted
    if cell.has_hole:
        return "!", "bold red"
    if not lasted:
        return " ", ""
    others = {state: time for state, time in lasted.items() if state != CoverageState.ANALYSED}
    shown = max(others or lasted, key=lambda state: lasted[state])
    is_most = lasted[shown] >= sum(lasted.values(), timedelta()) / 2
    return ("█" if is_most else "▄"), COLOURS[shown]


def _found(camera: str, config: Path | None, data: Path | None, span: Span) -> Reckoning:
    with open_store(config, data) as store:
        extent = store.coverage.extent(camera)
        if extent is None:
            known = ", ".join(store.coverage.cameras()) or "none yet"
            raise Failed(f"nothing is known of camera {camera!r}: known are {known}")
        return reckon(camera, store.coverage.between(camera, span), span, extent)


def _span(start: str | None, end: str | None) -> Span:
    now = datetime.now(UTC)
    until = min(now, instant("--to", end)) if end else now
    since = instant("--from", start) if start else until - LATELY
    if since >= until:
        raise BadSettings("--from: it must lie before --to, and before now")
    return Span(start=since, end=until)


def _interval_fields(each: Coverage) -> dict[str, Any]:
    seconds = (each.end - each.start) / _SECOND
    fields = _times(Span(start=each.start, end=each.end))
    fields |= {"state": each.state, "seconds": seconds}
    return fields | {"reason": each.reason} if each.reason else fields


def _times(span: Span) -> dict[str, Any]:
    return {"start": span.start.isoformat(), "end": span.end.isoformat()}


def _coloured(state: CoverageState) -> "Text":
    from rich.text import Text

    return Text(state, COLOURS[state])


def _duration(time: timedelta) -> str:
    return format_duration(timedelta(seconds=round(time / _SECOND)))
