"""`longwatch validate` and `longwatch doctor`: settings, machine and servers go together."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.common import ConfigOption, JsonOption, OptionalConfigOption, show

if TYPE_CHECKING:
    from deploy.config.settings import LongwatchSettings
    from storage.connection_check import ConnectionCheck


def validate(
    config: ConfigOption,
    as_json: JsonOption = False,
    connect: Annotated[
        bool, typer.Option("--connect", help="Try the broker and the database, too.")
    ] = False,
) -> None:
    """Say whether a settings file can be used; if not, each error with its line, and exit 2.

    With --connect a server that cannot be used is exit 1. Nothing is written.
    """
    from deploy.checks.log_retention import log_retention_problems, log_retention_warnings
    from deploy.checks.memory import device_memory_problems
    from deploy.checks.preflight import data_problems, weak_secrets
    from deploy.config.assemble import model_problems
    from deploy.config.log_space import format_log_space, log_space_fields, measure_log_space
    from deploy.config.settings_file import SettingsFile

    file = SettingsFile.read(config, model_problems, data_problems)
    file.check(log_retention_problems, device_memory_problems)
    settings, warnings = file.settings, file.warnings(weak_secrets, log_retention_warnings)
    sections = ("cameras", "questions", "rules", "receivers")
    counts = {part: len(getattr(settings, part)) for part in sections}
    space = measure_log_space(settings)
    checks = _connection_checks(settings) if connect else []
    if as_json:
        fields = {"valid": True, **counts, "log": log_space_fields(space), "warnings": warnings}
        show(fields | ({"connections": list(map(asdict, checks))} if connect else {}))
    else:
        for warning in warnings:
            typer.echo(f"warning: {warning}", err=True)
        message = ", ".join(f"{count} {part}" for part, count in counts.items())
        show(f"{config}: good: {message}")
        show(format_log_space(space))
        for each in checks:
            show(_format_check(each))
    if not all(each.is_good for each in checks):
        raise typer.Exit(1)


def doctor(config: OptionalConfigOption = None, as_json: JsonOption = False) -> None:
    """Say how many cameras fit this machine, how far back, and whether its servers can be used.

    Exit 1 where yours do not fit, or a server cannot be used.
    """
    from analyzer.capacity.demand import MemoryDemand
    from deploy.checks.log_retention import log_retention_problems, log_retention_warnings
    from deploy.checks.memory import build_site
    from deploy.config.assemble import shape_problems
    from deploy.config.data_dir import find_config
    from deploy.config.log_space import measure_log_space
    from deploy.config.settings_file import SettingsFile

    config_file = config or find_config()
    file = (
        SettingsFile.read(config_file, shape_problems, log_retention_problems)
        if config_file
        else None
    )
    site = build_site(file.settings) if file else MemoryDemand()
    space = measure_log_space(file.settings) if file else None
    warnings = file.warnings(log_retention_warnings) if file else []
    from deploy.checks.capacity import diagnose  # loads torch
    from deploy.cli.render.doctor import doctor_fields, doctor_parts

    diagnosis = diagnose(site)
    checks = _connection_checks(file.settings) if file else []
    if as_json:
        fields = doctor_fields(diagnosis, space) | {"warnings": warnings}
        show(fields | {"connections": list(map(asdict, checks))})
    else:
        for part in (*doctor_parts(diagnosis, space), *map(_format_check, checks)):
            show(part)
        for each in warnings:
            typer.echo(f"warning: {each}", err=True)
    if not (diagnosis.has_room and all(each.is_good for each in checks)):
        raise typer.Exit(1)


def _connection_checks(settings: "LongwatchSettings") -> "list[ConnectionCheck]":
    from deploy.checks.connections import check_connections

    return list(check_connections(settings))


def _format_check(check: "ConnectionCheck") -> str:
    return f"{'ok' if check.is_good else 'problem':8} {check.name}: {check.found}"
