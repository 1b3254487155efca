"""`longwatch doctor`: compute how many cameras fit this machine, and try the servers."""

from dataclasses import asdict

import typer

from deploy.cli.common import JsonOption, OptionalConfigOption, show
from deploy.cli.render.checks import format_check


def doctor(config: OptionalConfigOption = None, as_json: JsonOption = False) -> None:
    """Compute how many cameras and how long a memory fit this machine, and try its servers.

    Exit 1 if your cameras do not fit, or a server cannot be used.
    """
    from analyzer.capacity.demand import MemoryDemand
    from deploy.checks.connections import check_connections
    from deploy.checks.log_retention import log_retention_problems, log_retention_warnings
    from deploy.checks.model import shape_problems
    from deploy.config.find import find_config
    from deploy.config.log_space import measure_log_space
    from deploy.config.memory_demand import build_memory_demand
    from deploy.config.settings_file import SettingsFile

    path = config or find_config()
    file = SettingsFile.read(path, shape_problems, log_retention_problems) if path else None
    demand = build_memory_demand(file.settings) if file else MemoryDemand()
    space = measure_log_space(file.settings) if file else None
    warnings = file.warnings(log_retention_warnings) if file else []
    from deploy.checks.capacity import diagnose  # loads torch
    from deploy.cli.render.doctor import doctor_fields, doctor_parts

    diagnosis = diagnose(demand)
    checks = list(check_connections(file.settings)) if file else []
    if as_json:
        fields = doctor_fields(diagnosis, space) | {"warnings": warnings}
        show(fields | {"connections": list(map(asdict, checks))})
    else:
        for part in (*doctor_parts(diagnosis, space), *map(format_check, checks)):
            show(part)
        for warning in warnings:
            typer.echo(f"warning: {warning}", err=True)
    if not (diagnosis.has_room and all(check.is_good for check in checks)):
        raise typer.Exit(1)
