"""`longwatch validate`: check a settings file, this machine, and the servers."""

from dataclasses import asdict
from typing import Annotated

import typer

from deploy.cli.common import ConfigOption, JsonOption, show
from deploy.cli.render.checks import format_check


def validate(
    config: ConfigOption,
    as_json: JsonOption = False,
    connect: Annotated[
        bool, typer.Option("--connect", help="Try the brokers and the database, too.")
    ] = False,
) -> None:
    """Check a settings file; print each error with its line, and exit 2.

    Exit 1 if --connect finds a server that cannot be used. Nothing is written.
    """
    from deploy.checks.connections import check_connections
    from deploy.checks.log_retention import log_retention_problems, log_retention_warnings
    from deploy.checks.memory import device_memory_problems
    from deploy.checks.model import model_problems
    from deploy.checks.preflight import data_problems, weak_secrets
    from deploy.config.log_space import format_log_space, log_space_fields, measure_log_space
    from deploy.config.settings_file import SettingsFile

    file = SettingsFile.read(config, model_problems, data_problems)
    file.check(log_retention_problems, device_memory_problems)
    settings, warnings = file.settings, file.warnings(weak_secrets, log_retention_warnings)
    sections = ("cameras", "questions", "rules", "receivers")
    counts = {section: len(getattr(settings, section)) for section in sections}
    space = measure_log_space(settings)
    checks = list(check_connections(settings)) if connect else []
    if as_json:
        fields = {"valid": True, **counts, "log": log_space_fields(space), "warnings": warnings}
        show(fields | ({"connections": list(map(asdict, checks))} if connect else {}))
    else:
        for warning in warnings:
            typer.echo(f"warning: {warning}", err=True)
        message = ", ".join(f"{count} {section}" for section, count in counts.items())
        show(f"{config}: good: {message}")
        show(format_log_space(space))
        for check in checks:
            show(format_check(check))
    if not all(check.is_good for check in checks):
        raise typer.Exit(1)
