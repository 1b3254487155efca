"""`longwatch validate` and `longwatch doctor`: settings, machine and servers go together."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.console import AsJson, Config, MaybeConfig, show

if TYPE_CHECKING:
    from deploy.settings import Settings
    from storage.checkup import Check


def validate(
    config: Config,
    as_json: AsJson = False,
    connect: Annotated[
        bool, typer.Option("--connect", help="Try the broker and the database, too.")
    ] = False,
) -> None:
    """Say whether a settings file can be used; if not, each error with its line, and exit 2.

    With --connect a server that cannot be used is exit 1. Nothing is written.
    """
    from deploy.admission import start_problems
    from deploy.assemble import model_problems
    from deploy.checks import data_problems, weak_secrets
    from deploy.config_file import SettingsFile
    from deploy.log_checks import log_problems, log_warnings
    from deploy.log_space import log_fields, log_space, log_text

    file = SettingsFile.read(config, model_problems, data_problems)
    file.check(log_problems, start_problems)
    settings, warnings = file.settings, file.warnings(weak_secrets, log_warnings)
    parts = ("cameras", "questions", "rules", "receivers")
    counts = {part: len(getattr(settings, part)) for part in parts}
    space = log_space(settings)
    checks = _checks(settings) if connect else []
    if as_json:
        fields = {"valid": True, **counts, "log": log_fields(space), "warnings": warnings}
        show(fields | ({"connections": list(map(asdict, checks))} if connect else {}))
    else:
        for warning in warnings:
            typer.echo(f"warning: {warning}", err=True)
        told = ", ".join(f"{count} {part}" for part, count in counts.items())
        show(f"{config}: good: {told}")
        show(log_text(space))
        for each in checks:
            show(_line(each))
    if not all(each.is_good for each in checks):
        raise typer.Exit(1)


def doctor(config: MaybeConfig = None, as_json: AsJson = False) -> None:
    """Say how many cameras fit this machine, how far back, and whether its servers can be used.

    Exit 1 where yours do not fit, or a server cannot be used.
    """
    from analyzer.site import Site
    from deploy.admission import site_of
    from deploy.assemble import shape_problems
    from deploy.config_file import SettingsFile
    from deploy.data import found_config
    from deploy.log_checks import log_problems, log_warnings
    from deploy.log_space import log_space

    named = config or found_config()
    file = SettingsFile.read(named, shape_problems, log_problems) if named else None
    site = site_of(file.settings) if file else Site()
    space = log_space(file.settings) if file else None
    warnings = file.warnings(log_warnings) if file else []
    from deploy.doctor import examine  # loads torch
    from deploy.doctor_report import doctor_fields, doctor_parts

    found = examine(site)
    checks = _checks(file.settings) if file else []
    if as_json:
        fields = doctor_fields(found, space) | {"warnings": warnings}
        show(fields | {"connections": list(map(asdict, checks))})
    else:
        for part in (*doctor_parts(found, space), *map(_line, checks)):
            show(part)
        for each in warnings:
            typer.echo(f"warning: {each}", err=True)
    if not (found.fits and all(each.is_good for each in checks)):
        raise typer.Exit(1)


def _checks(settings: "Settings") -> "list[Check]":
    from deploy.connections import check_connections

    return list(check_connections(settings))


def _line(check: "Check") -> str:
    return f"{'ok' if check.is_good else 'problem':8} {check.name}: {check.found}"
