"""`longwatch coverage`: show which seconds of a camera were analysed."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.common import (
    DataOption,
    JsonOption,
    OptionalConfigOption,
    parse_instant,
    show,
)
from deploy.cli.store import DataOptions, open_store
from deploy.errors import BadSettings, CommandFailed
from storage.records.records import TimeSpan

if TYPE_CHECKING:
    from deploy.cli.coverage_summary import CoverageSummary

DEFAULT_SPAN = timedelta(days=1)


def coverage(
    camera: Annotated[str, typer.Argument(help="The name of a camera.")],
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    start: Annotated[
        str | None, typer.Option("--from", help="The start (ISO 8601, UTC). Default: a day ago.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="The end. Default: now.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show which seconds of a camera were analysed, and why others were not."""
    from rich.console import Console

    from deploy.cli.render.coverage import coverage_fields, coverage_parts

    summary = _read_summary(DataOptions(config, data), camera, _parse_span(start, end))
    if as_json:
        show(coverage_fields(summary))
        return

    console = Console()
    for part in coverage_parts(summary):
        console.print(part)


def _read_summary(options: DataOptions, camera: str, span: TimeSpan) -> "CoverageSummary":
    from deploy.cli.coverage_summary import summarize_coverage

    with open_store(options) as store:
        extent = store.coverage.extent(camera)
        if extent is None:
            known = ", ".join(store.coverage.cameras()) or "none yet"
            raise CommandFailed(f"camera {camera!r} has no coverage (known: {known})")
        return summarize_coverage(camera, store.coverage.between(camera, span), span, extent)


def _parse_span(start: str | None, end: str | None) -> TimeSpan:
    now = datetime.now(UTC)
    until = min(now, parse_instant("--to", end)) if end else now
    since = parse_instant("--from", start) if start else until - DEFAULT_SPAN
    if since >= until:
        raise BadSettings("--from: it must be before --to, and before now")
    return TimeSpan(start=since, end=until)
