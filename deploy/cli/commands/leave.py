"""`longwatch leave`: remove a stopped analyzer from its group, if it is a static member."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.common import ConfigOption, JsonOption, show
from deploy.errors import BadSettings, CommandFailed

if TYPE_CHECKING:
    from deploy.config.settings import LongwatchSettings
    from storage.log.kafka.groups.static_membership import MemberRemoval


def leave(
    config: ConfigOption,
    member: Annotated[
        list[str] | None, typer.Argument(help="The name of a member. Default: those of this host.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Remove stopped analyzers from their group on Kafka, so that others take over at once.

    With log.kafka.static, partitions otherwise wait log.kafka.static.session for a restart.
    """
    from deploy.config.log_access import ANALYZE
    from deploy.config.settings_file import read_settings
    from deploy.config.storage_locations import log_location
    from storage.log.kafka.client.config import KafkaConfig
    from storage.log.kafka.groups.static_membership import remove_stopped

    settings = read_settings(config)
    kafka = log_location(settings)
    if not isinstance(kafka, KafkaConfig) or kafka.static is None:
        message = "log.kafka.static is not set: an analyzer leaves its group as it stops"
        raise BadSettings(message)
    (group,) = ANALYZE.groups
    removed = []
    for name in member or _static_members(settings):
        _check_removal(remove_stopped(kafka, group, name), name, kafka.prefix + group)
        removed.append(name)
        if not as_json:
            show(f"{name}: removed from group {kafka.prefix + group}")
    if as_json:
        show({"group": kafka.prefix + group, "removed": removed})


def _check_removal(removal: "MemberRemoval", name: str, group: str) -> None:
    if removal.running_pid:
        message = f"process {removal.running_pid} of this host is {name}: stop it first"
        raise CommandFailed(f"{message}, it would join group {group} again")
    if not removal.was_there:
        others = ", ".join(removal.others) or "none"
        raise CommandFailed(f"group {group} has no static member {name}; it has: {others}")


def _static_members(settings: "LongwatchSettings") -> list[str]:
    """Return the names of the analyzers that these settings start on this host."""
    from deploy.config.storage_locations import analyzer_locations
    from deploy.runtime.devices import resolve_devices
    from storage.log.kafka.client.config import KafkaConfig

    logs = [
        analyzer_locations(settings, each).log for each in resolve_devices(settings.model.device)
    ]
    return [log.static.name for log in logs if isinstance(log, KafkaConfig) and log.static]
