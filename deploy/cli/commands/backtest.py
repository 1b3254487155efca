"""`longwatch backtest`: run a recorded video through the settings."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.common import ConfigOption, JsonOption, parse_instant, show, stderr_console
from deploy.errors import BadSettings, CommandFailed

if TYPE_CHECKING:
    from deploy.backtest.video import BacktestResult


def backtest(
    config: ConfigOption,
    video: Annotated[Path, typer.Argument(help="A recorded video.")],
    camera: Annotated[
        str | None,
        typer.Option(help="The camera whose questions are asked. Default: the only one."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="When the video began (ISO 8601). Default: by its file's time."),
    ] = None,
    framerate: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=240,
            help="Frames a second of a raw stream (.h264, .h265, .mjpeg), which has no timestamps.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a recorded video through the settings and list the incidents that would open.

    Also show which seconds were watched, and why others were not; exit 1 if none were.
    """
    from deploy.checks.model import model_problems
    from deploy.config.assemble import choose_camera
    from deploy.config.settings_file import read_settings
    from deploy.logs.setup import LoggingConfig, configure_logging
    from deploy.runtime.process import limit_threads

    settings = read_settings(config, model_problems)
    name = choose_camera(settings, camera)
    start_option = None if start is None else parse_instant("--start", start)
    configure_logging(LoggingConfig(level=logging.WARNING))
    limit_threads(os.cpu_count() or 1)
    with _progress(video.name) as report_progress:
        start_at = start_option or _recording_start(video, framerate)
        from deploy.backtest.video import run_backtest  # loads torch

        result = run_backtest(settings, name, video, start_at, report_progress, framerate=framerate)
    _show(result, video, as_json=as_json)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[float], None]]:
    """Yield a callback for progress from 0 to 1, which a terminal shows as a bar."""
    from rich.markup import escape
    from rich.progress import Progress, TaskProgressColumn, TimeElapsedColumn

    columns = (*Progress.get_default_columns()[:2], TaskProgressColumn(), TimeElapsedColumn())
    console = stderr_console()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(escape(name), total=None)
        yield lambda done: bar.update(task, total=1.0, completed=done)


def _show(result: "BacktestResult", video: Path, *, as_json: bool) -> None:
    """Show the result; raise CommandFailed if nothing was watched."""
    from deploy.cli.render import backtest as report

    if as_json:
        show(report.backtest_fields(result))
    else:
        if result.windows:
            fired = report.backtest_table(result) if result.fired_incidents else None
            show(fired or "nothing would have fired")
        if result.coverage.skipped or result.coverage.joins:
            show(report.coverage_table(result.coverage))
        show("\n".join(report.backtest_notes(result)))
    if not result.windows:
        raise CommandFailed(report.no_coverage_message(str(video), result.coverage))


def _recording_start(video: Path, framerate: float | None) -> datetime:
    """Return when a recording began: its file was last written at its end."""
    from ingest.files.video_file import duration_of

    seconds = duration_of(video, framerate)
    try:
        return datetime.fromtimestamp(video.stat().st_mtime - seconds, UTC)
    except (OverflowError, ValueError):
        message = "the time of the file is beyond the calendar: set when the video began"
        raise BadSettings(f"--start: {message}") from None
