"""The `longwatch` command; what a command alone needs, it imports."""

import logging
import os
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyzer.errors import ModelError
from deploy.cli_checks import doctor, validate
from deploy.cli_db import db
from deploy.cli_dead import dead
from deploy.cli_deliveries import deliveries, receivers
from deploy.cli_incidents import audit, incidents
from deploy.cli_leave import leave
from deploy.cli_model import model
from deploy.cli_probe import probe
from deploy.cli_rules import rules
from deploy.cli_silences import silence
from deploy.cli_tail import tail
from deploy.console import AsJson, Config, MaybeConfig, MaybeData, instant, show, stderr
from deploy.coverage import coverage
from deploy.errors import BadSettings, DeployError, Failed
from deploy.store import open_store
from ingest.errors import IngestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.config_file import Check, SettingsFile
    from deploy.daemon import Role
    from deploy.settings import Settings
from storage.errors import StorageError, StorageRefused, StorageUnfit

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Watch cameras with a long-video model that remembers.",
)
app.add_typer(incidents, name="incidents")
app.add_typer(audit, name="audit")
app.add_typer(model, name="model")
app.add_typer(db, name="db")
app.add_typer(dead, name="dead")
app.add_typer(deliveries, name="deliveries")
app.add_typer(receivers, name="receivers")
app.add_typer(rules, name="rules")
app.add_typer(silence, name="silence")
app.command()(validate)
app.command()(doctor)
app.command()(probe)
app.command()(coverage)
app.command()(tail)
app.command()(leave)


def main() -> None:
    """Run the command line; an error is one line on stderr, exit 2 where something is unfit."""
    try:
        app()
    except DeployError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except (StorageUnfit, StorageRefused) as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
    except (IngestError, ModelError, StorageError) as error:
        typer.echo(str(error), err=True)
        sys.exit(1)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"longwatch {version('longwatch')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(config: Config) -> None:
    """Watch the cameras of a settings file until SIGTERM or Ctrl-C."""
    from deploy.admission import memory_problems
    from deploy.assemble import model_problems, roles_of
    from deploy.config_file import SettingsFile
    from deploy.log_checks import log_problems

    file = SettingsFile.read(config, model_problems)
    _supervise(file, roles_of, None, log_problems, memory_problems)


@app.command()
def ingest(
    config: Config,
    camera: Annotated[
        list[str] | None, typer.Option(help="A camera to watch; may come again; else all.")
    ] = None,
) -> None:
    """Watch cameras alone, as a service: others analyze and alert."""
    from deploy.assemble import camera_role, chosen_camera
    from deploy.config_file import SettingsFile

    file = SettingsFile.read(config)
    names = [chosen_camera(file.settings, name) for name in camera or file.settings.cameras]

    def roles(settings: "Settings") -> "list[Role]":
        return [camera_role(settings, name, logging.INFO) for name in names]

    _supervise(file, roles, [f"ingest-{name}" for name in names])


@app.command()
def analyze(config: Config) -> None:
    """Answer questions alone, as a service; several on one log share the cameras."""
    from deploy.admission import memory_problems
    from deploy.assemble import analyzer_roles, model_problems
    from deploy.config_file import SettingsFile
    from deploy.log_checks import log_problems

    file = SettingsFile.read(config, model_problems)
    roles = partial(analyzer_roles, level=logging.INFO)
    _supervise(file, roles, [], log_problems, memory_problems)


@app.command()
def alert(config: Config) -> None:
    """Judge, route and deliver alone, as a service."""
    from deploy.assemble import alerts_role
    from deploy.config_file import SettingsFile
    from deploy.log_checks import log_problems

    file = SettingsFile.read(config)
    _supervise(file, lambda each: [alerts_role(each, logging.INFO)], ["alert"], log_problems)


def _supervise(
    file: "SettingsFile",
    roles: "Callable[[Settings], list[Role]]",
    locks: list[str] | None,
    *checks: "Check",
) -> None:
    """Run roles until SIGTERM, and hold the data for them: each lock, or without any all of it."""
    from deploy.daemon import stop_on_signals
    from deploy.data import PRIVATE, data_directory
    from deploy.environment import drop_secrets
    from deploy.logs import Logging, configure
    from deploy.supervisor import Supervisor

    os.umask(PRIVATE)
    configure(Logging())
    drop_secrets(file)  # before a check starts the first process
    data = file.settings.data
    with data_directory(data, locks):
        file.check(*checks)
        Supervisor(roles(file.settings), data=data).run(stop_on_signals())


@app.command()
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
    from rich.markup import escape
    from rich.progress import Progress, TaskProgressColumn, TimeElapsedColumn

    from deploy import backtest_report as report
    from deploy.assemble import chosen_camera, model_problems
    from deploy.config_file import read_settings
    from deploy.daemon import limit_threads
    from deploy.logs import Logging, configure

    settings = read_settings(config, model_problems)
    name = chosen_camera(settings, camera)
    given = None if start is None else instant("--start", start)
    configure(Logging(level=logging.WARNING))
    limit_threads(os.cpu_count() or 1)
    columns = (*Progress.get_default_columns()[:2], TaskProgressColumn(), TimeElapsedColumn())
    person = stderr()
    with Progress(*columns, console=person, transient=True, disable=not person.is_terminal) as bar:
        task = bar.add_task(escape(video.name), total=None)
        began = given or _began(video, framerate)
        from deploy.backtest import backtest as run_video  # loads torch

        def tell(done: float) -> None:
            bar.update(task, total=1.0, completed=done)

        test = run_video(settings, name, video, began, tell, framerate=framerate)
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


@app.command()
def demo(
    data: Annotated[Path, typer.Option(help="Where the data go.")] = Path("longwatch-demo"),
    seconds: Annotated[
        float | None, typer.Option(min=20, help="How long to watch; without it until Ctrl-C.")
    ] = None,
    quiet_scene: Annotated[
        bool, typer.Option("--quiet-scene", help="Show a scene in which nothing happens.")
    ] = False,
) -> None:
    """Watch a rendered scene as a real RTSP stream, from the camera to a verified webhook.

    The last line, and the only one on stdout, is JSON.
    """
    from deploy import report
    from deploy.daemon import stop_on_signals
    from deploy.demo import demo as run_demo
    from deploy.logs import Logging, configure

    configure(Logging(level=logging.WARNING))
    seen = run_demo(data, seconds, not quiet_scene, stderr(), stop_on_signals())
    show(report.demo_fields(seen))


@app.command()
def ask(
    camera: Annotated[str, typer.Argument(help="The name of a camera.")],
    question: Annotated[str, typer.Argument(help="A question that is answered by yes or no.")],
    *,
    config: MaybeConfig = None,
    data: MaybeData = None,
    look_back: Annotated[
        str | None, typer.Option(help="How far back to read, say 30m; else all it remembers.")
    ] = None,
    timeout: Annotated[str, typer.Option(help="How long to wait for the reply.")] = "30s",
    text: Annotated[bool, typer.Option("--text", help="Answer in words, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the running longwatch about what it remembers of a camera."""
    from deploy import asking, report
    from deploy.config_file import read_part
    from deploy.data import chosen_config
    from deploy.parts import NamesPart
    from storage.asks import reply_fields

    file = chosen_config(config, data)
    if file is not None:
        asking.check_camera(camera, read_part(file, NamesPart).cameras)
    wait = asking.duration("--timeout", timeout, asking.LONGEST_WAIT)
    reach = None
    if look_back is not None:
        reach = asking.duration("--look-back", look_back, asking.LONGEST_LOOK)
    with open_store(config, data, writing=True) as store:
        reply = asking.ask(store.log, camera, question, look_back=reach, in_words=text, wait=wait)
    if reply.refused is not None and not as_json:
        raise Failed(reply.refused)
    show(reply_fields(reply) if as_json else "\n".join(report.reply_lines(reply)))
    if reply.refused is not None:
        raise typer.Exit(1)


def _began(video: Path, framerate: float | None) -> datetime:
    """Return when a recording began: a file is last written when it ends."""
    from ingest.video_file import duration_of

    seconds = duration_of(video, framerate)
    try:
        return datetime.fromtimestamp(video.stat().st_mtime - seconds, UTC)
    except (OverflowError, ValueError):
        told = "the file's own time is beyond the calendar: name when the video began"
        raise BadSettings(f"--start: {told}") from None


if __name__ == "__main__":
    main()
