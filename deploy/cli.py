"""The `longwatch` command.

Each spawned process reads this module again, so that all else is imported by the commands.
"""

import json
import logging
import os
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyzer.errors import ModelError
from deploy.errors import BadSettings, DeployError, Failed
from ingest.errors import IngestError
from storage.errors import StorageError

if TYPE_CHECKING:
    from rich.console import Console

    from storage.incidents import IncidentStore

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Watch cameras with a long-video model that remembers.",
)
incidents = typer.Typer(no_args_is_help=True, help="Look at incidents.")
app.add_typer(incidents, name="incidents")
model = typer.Typer(no_args_is_help=True, help="Bring models here.")
app.add_typer(model, name="model")

Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file (YAML).")]
MaybeConfig = Annotated[
    Path | None, typer.Option("--config", "-c", help="A settings file that names the data.")
]
MaybeData = Annotated[Path | None, typer.Option("--data", help="A data directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, nothing else.")]


def main() -> None:
    """Run the command line; an error is one line on stderr, and exit 2 where settings are bad."""
    try:
        app()
    except DeployError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
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
    from deploy.config_file import read_settings
    from deploy.daemon import stop_on_signals
    from deploy.data import data_directory
    from deploy.logs import Logging, configure
    from deploy.supervisor import Supervisor

    settings = read_settings(config, model_problems)
    configure(Logging())
    with data_directory(settings.data):
        read_settings(config, memory_problems)
        Supervisor(roles_of(settings)).run(stop_on_signals())


@app.command()
def validate(config: Config, as_json: AsJson = False) -> None:
    """Say whether a settings file can be used; if not, each error with its line, and exit 2."""
    from deploy.admission import limit_problems
    from deploy.assemble import model_problems
    from deploy.config_file import read_settings

    settings = read_settings(config, model_problems)
    read_settings(config, limit_problems)
    parts = ("cameras", "questions", "rules", "receivers")
    counts = {part: len(getattr(settings, part)) for part in parts}
    told = ", ".join(f"{count} {part}" for part, count in counts.items())
    typer.echo(json.dumps({"valid": True, **counts}) if as_json else f"{config}: good: {told}")


@app.command()
def doctor(config: MaybeConfig = None, as_json: AsJson = False) -> None:
    """Say how many cameras fit this machine, how far back; exit 1 where yours do not."""
    from deploy import report
    from deploy.admission import Site, site_of
    from deploy.assemble import shape_problems
    from deploy.config_file import read_settings

    site = site_of(read_settings(config, shape_problems)) if config else Site()
    from deploy.doctor import examine  # loads torch

    found = examine(site)
    for part in [report.doctor_fields(found)] if as_json else report.doctor_parts(found):
        _print(part)
    if not found.fits:
        raise typer.Exit(1)


@app.command()
def probe(
    url: Annotated[str, typer.Argument(help="rtsp://user:password@host/path, or a video file.")],
    transport: Annotated[str, typer.Option(help="How RTSP comes: tcp or udp.")] = "tcp",
    seconds: Annotated[float, typer.Option(min=1, max=60, help="How long to look.")] = 8.0,
    as_json: AsJson = False,
) -> None:
    """Look at a camera: codec, size, rate, keyframe interval, and whether it gives its clock."""
    from deploy import report
    from ingest.probe import probe as look

    if transport not in ("tcp", "udp"):
        raise BadSettings("--transport: choose tcp or udp")
    found = look(url, transport, seconds)
    _print(report.probe_fields(found) if as_json else report.probe_table(found))


@app.command()
def backtest(
    config: Config,
    video: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A recorded video.")],
    camera: Annotated[
        str | None, typer.Option(help="Whose questions are asked; not needed for one camera.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="When the video began (ISO 8601); else its file tells.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a recorded video through the settings and say what would have fired."""
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from deploy import report
    from deploy.assemble import chosen_camera, model_problems
    from deploy.config_file import read_settings
    from deploy.daemon import limit_threads
    from deploy.logs import Logging, configure
    from ingest.worker import duration_of

    settings = read_settings(config, model_problems)
    name = chosen_camera(settings, camera)
    given = _instant(start) if start else None
    seconds = duration_of(video)
    began = given or _written(video) - timedelta(seconds=seconds)
    configure(Logging(level=logging.WARNING))
    limit_threads(os.cpu_count() or 1)
    from deploy.backtest import backtest as run_video  # loads torch

    seen = TextColumn("{task.completed:.0f} of {task.total:.0f} s of video")
    columns = (*Progress.get_default_columns()[:2], seen, TimeElapsedColumn())
    with Progress(*columns, console=_stderr()) as bar:
        task = bar.add_task(video.name, total=seconds)
        test = run_video(
            settings, name, video, began, lambda done: bar.update(task, completed=done)
        )
    if as_json:
        _print(report.backtest_fields(test))
        return
    _print(report.backtest_table(test) if test.fired else "nothing would have fired")
    _print(
        f"{test.windows} windows, {test.findings} findings;"
        f" {test.seconds:.0f} s of video in {test.elapsed:.1f} s, {test.speed:.1f} x real time"
    )


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
    from deploy.demo import demo as show
    from deploy.logs import Logging, configure

    configure(Logging(level=logging.WARNING))
    seen = show(data, seconds, not quiet_scene, _stderr(), stop_on_signals())
    _print(report.demo_fields(seen))


@model.command("fetch")
def fetch_model(
    repository: Annotated[str, typer.Argument(help="A model on the hub: OWNER/NAME.")],
    revision: Annotated[str, typer.Option(help="A branch, a tag or a commit.")] = "main",
    as_json: AsJson = False,
) -> None:
    """Download a model once and check every byte; at run time nothing is fetched."""
    from analyzer.videoxl2.hub import fetch
    from analyzer.videoxl2.snapshot import Snapshot
    from deploy import report

    folder, manifest = fetch(repository, revision)
    Snapshot.open(folder)
    _print((report.fetch_fields if as_json else report.fetch_line)(folder, manifest, revision))


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
    from deploy.config_file import read_settings
    from deploy.data import LOG_FILE
    from storage.asks import reply_fields
    from storage.log import SqliteLog

    if config is not None:
        asking.check_camera(camera, read_settings(config).cameras)
    wait = asking.duration("--timeout", timeout, asking.LONGEST_WAIT)
    reach = None
    if look_back is not None:
        reach = asking.duration("--look-back", look_back, asking.LONGEST_LOOK)
    with closing(SqliteLog(_data(config, data, LOG_FILE) / LOG_FILE)) as log:
        reply = asking.ask(log, camera, question, look_back=reach, in_words=text, wait=wait)
    if reply.refused is not None and not as_json:
        raise Failed(reply.refused)
    _print(reply_fields(reply) if as_json else "\n".join(report.reply_lines(reply)))
    if reply.refused is not None:
        raise typer.Exit(1)


@incidents.command("list")
def list_incidents(
    config: MaybeConfig = None,
    data: MaybeData = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, from the newest on.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List incidents, newest first."""
    from deploy import report
    from storage.wire import incident_fields

    found = _store(config, data).incidents(limit=limit)
    _print([incident_fields(each) for each in found] if as_json else report.incidents_table(found))


@incidents.command("show")
def show_incident(
    id: Annotated[str, typer.Argument(help="The id of an incident, or how it begins.")],
    config: MaybeConfig = None,
    data: MaybeData = None,
    as_json: AsJson = False,
) -> None:
    """Show an incident, the findings behind it and what became of its deliveries."""
    from deploy import report

    store = _store(config, data)
    try:
        incident = store.incident(id)
    except ValueError as error:
        raise BadSettings(f"{error}: write more of the id") from None
    if incident is None:
        raise Failed(f"no incident begins with {id}: see `longwatch incidents list`")
    parts = (incident, store.findings(incident.evidence), store.deliveries(incident.id))
    if as_json:
        _print(report.incident_detail(*parts))
        return
    for table in report.incident_tables(*parts):
        _print(table)


def _store(config: Path | None, data: Path | None) -> "IncidentStore":
    from deploy.data import DATABASE_FILE, database_url
    from storage.database import open_database
    from storage.incidents import IncidentStore

    return IncidentStore(open_database(database_url(_data(config, data, DATABASE_FILE))))


def _data(config: Path | None, data: Path | None, file: str) -> Path:
    """Return the data directory that is meant; raise Failed where this file is not in it."""
    from deploy.config_file import read_settings

    if config is not None and data is None:
        data = read_settings(config).data
    elif config is not None or data is None:
        raise BadSettings("say where to look: either --config FILE or --data DIR")
    if not (data / file).is_file():
        raise Failed(f"{data} holds no {file}: name the data of a longwatch that ran")
    return data


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadSettings("--start: write it as 2026-11-22T18:00:00+01:00") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _written(video: Path) -> datetime:
    """Return when a file was last written, which is when its recording ended."""
    return datetime.fromtimestamp(video.stat().st_mtime, UTC)


def _stderr() -> "Console":
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def _print(what: Any) -> None:
    """Print tables and text for a person, anything else as one line of JSON."""
    from rich.console import Console
    from rich.table import Table

    if isinstance(what, Table):
        Console(width=None if sys.stdout.isatty() else 160).print(what)
    else:
        typer.echo(what if isinstance(what, str) else json.dumps(what))


if __name__ == "__main__":
    main()
