"""`longwatch backtest`: run a recorded video through the settings."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.console import AsJson, Config, instant, show, stderr
from deploy.errors import BadSettings, Failed

if TYPE_CHECKING:
    from deploy.backtest import Backtest


def backtest(
    config: Config,
    video: Annotated[Path, typer.Argument(help="A recorded video.")],
    camera: Annotated[
        str | None, typer.Option(help="Whose questions are asked; not needed for one camera.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="When the video began (ISO 8601); else its file tells.")
    ] = None,
    framerate: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=240,
            help="Frames a second of a raw stream (.h264, .h265, .mjpeg), which has no timestamps.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a recorded video through the settings and say what would have fired.

    It also says what was looked at, and what was not and why; exit 1 where nothing was.
    """
    from deploy.assemble import chosen_camera, model_problems
    from deploy.config_file import read_settings
    from deploy.daemon import limit_threads
    from deploy.logs import Logging, configure

    settings = read_settings(config, model_problems)
    name = chosen_camera(settings, camera)
    given = None if start is None else instant("--start", start)
    configure(Logging(level=logging.WARNING))
    limit_threads(os.cpu_count() or 1)
    with _progress(video.name) as tell:
        began = given or _began(video, framerate)
        from deploy.backtest import backtest as run_video  # loads torch

        test = run_video(settings, name, video, began, tell, framerate=framerate)
    _show(test, video, as_json=as_json)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[float], None]]:
    """Give what is told how much is done, from 0 to 1; on a terminal it shows as a bar."""
    from rich.markup import escape
    from rich.progress import Progress, TaskProgressColumn, TimeElapsedColumn

    columns = (*Progress.get_default_columns()[:2], TaskProgressColumn(), TimeElapsedColumn())
    person = stderr()
    with Progress(*columns, console=person, transient=True, disable=not person.is_terminal) as bar:
        task = bar.add_task(escape(name), total=None)
        yield lambda done: bar.update(task, total=1.0, completed=done)


def _show(test: "Backtest", video: Path, *, as_json: bool) -> None:
    """Show what fired and what was looked at; raise Failed where nothing was."""
    from deploy import backtest_report as report

    if as_json:
        show(report.backtest_fields(test))
    else:
        if test.windows:
            show(report.backtest_table(test) if test.fired else "nothing would have fired")
        if test.coverage.skipped or test.coverage.joins:
            show(report.looked_at_table(test.coverage))
        show("\n".join(report.backtest_notes(test)))
    if not test.windows:
        raise Failed(report.nothing_looked_at(str(video), test.coverage))


def _began(video: Path, framerate: float | None) -> datetime:
    """Return when a recording began: a file is last written when it ends."""
    from ingest.video_file import duration_of

    seconds = duration_of(video, framerate)
    try:
        return datetime.fromtimestamp(video.stat().st_mtime - seconds, UTC)
    except (OverflowError, ValueError):
        told = "the file's own time is beyond the calendar: name when the video began"
        raise BadSettings(f"--start: {told}") from None
