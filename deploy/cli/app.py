"""The `longwatch` command; each command imports what it alone needs."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyzer.errors import ModelError
from deploy.cli.commands.backtest import backtest
from deploy.cli.commands.data.ask import ask
from deploy.cli.commands.data.audit import audit
from deploy.cli.commands.data.coverage import coverage
from deploy.cli.commands.data.db import db
from deploy.cli.commands.data.dead_letters import dead_letters
from deploy.cli.commands.data.deliveries import deliveries
from deploy.cli.commands.data.incidents import incidents
from deploy.cli.commands.data.receivers import receivers
from deploy.cli.commands.data.silences import silence
from deploy.cli.commands.data.tail import tail
from deploy.cli.commands.doctor import doctor
from deploy.cli.commands.leave import leave
from deploy.cli.commands.model import model
from deploy.cli.commands.probe import probe
from deploy.cli.commands.rules import rules
from deploy.cli.commands.validate import validate
from deploy.cli.common import ConfigOption, show, stderr_console
from deploy.errors import DeployError
from ingest.errors import IngestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deploy.config.settings import LongwatchSettings
    from deploy.config.settings_file import SettingsCheck, SettingsFile
    from deploy.runtime.process import ProcessRole
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
app.add_typer(dead_letters, name="dead")
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
app.command()(backtest)
app.command()(ask)


def main() -> None:
    """Run the command line; print an error as one line on stderr, exit 2 if something is unfit."""
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
def run(config: ConfigOption) -> None:
    """Run all roles on this machine until SIGTERM or Ctrl-C."""
    from deploy.checks.log_retention import log_retention_problems
    from deploy.checks.memory import memory_problems
    from deploy.checks.model import model_problems
    from deploy.config.settings_file import SettingsFile
    from deploy.runtime.role_builder import build_roles

    file = SettingsFile.read(config, model_problems)
    _supervise(file, build_roles, None, log_retention_problems, memory_problems)


@app.command()
def ingest(
    config: ConfigOption,
    camera: Annotated[
        list[str] | None, typer.Option(help="A camera to watch; repeatable. Default: all.")
    ] = None,
) -> None:
    """Run the ingest role as a service: one process for each camera."""
    from deploy.config.assemble import choose_camera
    from deploy.config.settings_file import SettingsFile
    from deploy.runtime.role_builder import build_ingest_role

    file = SettingsFile.read(config)
    names = [choose_camera(file.settings, name) for name in camera or file.settings.cameras]

    def roles(settings: "LongwatchSettings") -> "list[ProcessRole]":
        return [build_ingest_role(settings, name) for name in names]

    _supervise(file, roles, [f"ingest-{name}" for name in names])


@app.command()
def analyze(config: ConfigOption) -> None:
    """Run the analyzer role as a service; several on one log share the cameras."""
    from deploy.checks.log_retention import log_retention_problems
    from deploy.checks.memory import memory_problems
    from deploy.checks.model import model_problems
    from deploy.config.settings_file import SettingsFile
    from deploy.runtime.role_builder import build_analyze_roles

    file = SettingsFile.read(config, model_problems)
    _supervise(file, build_analyze_roles, [], log_retention_problems, memory_problems)


@app.command()
def alert(config: ConfigOption) -> None:
    """Run the alerts role as a service; one leads on a database, others stand by."""
    from deploy.checks.log_retention import log_retention_problems
    from deploy.config.settings_file import SettingsFile
    from deploy.runtime.role_builder import build_alert_role

    file = SettingsFile.read(config)
    _supervise(file, lambda each: [build_alert_role(each)], ["alert"], log_retention_problems)


def _supervise(
    file: "SettingsFile",
    build_roles: "Callable[[LongwatchSettings], Sequence[ProcessRole]]",
    services: list[str] | None,
    *checks: "SettingsCheck",
) -> None:
    """Run roles until SIGTERM; lock the data directory for the services, or all of it."""
    from deploy.config.data_dir import PRIVATE_UMASK, lock_data_dir
    from deploy.config.environment import drop_secrets
    from deploy.logs.setup import LoggingConfig, configure_logging
    from deploy.runtime.process import stop_on_signals
    from deploy.runtime.supervisor import Supervisor

    os.umask(PRIVATE_UMASK)
    configure_logging(LoggingConfig())
    drop_secrets(file)  # before a check starts the first process
    data = file.settings.data
    with lock_data_dir(data, services):
        file.check(*checks)
        Supervisor(build_roles(file.settings), data=data).run(stop_on_signals())


@app.command()
def demo(
    data: Annotated[Path, typer.Option(help="The data directory to make.")] = Path(
        "longwatch-demo"
    ),
    seconds: Annotated[
        float | None, typer.Option(min=20, help="How long to watch. Default: until Ctrl-C.")
    ] = None,
    quiet_scene: Annotated[
        bool, typer.Option("--quiet-scene", help="Show a scene without an anomaly.")
    ] = False,
) -> None:
    """Watch a clip of a street as a real RTSP stream, from the camera to a verified webhook.

    The only line on stdout, at the end, is JSON.
    """
    from deploy.demo.demo import run_demo
    from deploy.demo.monitor import demo_fields
    from deploy.logs.setup import LoggingConfig, configure_logging
    from deploy.runtime.process import stop_on_signals

    configure_logging(LoggingConfig(level=logging.WARNING))
    summary = run_demo(data, seconds, not quiet_scene, stderr_console(), stop_on_signals())
    show(demo_fields(summary))
