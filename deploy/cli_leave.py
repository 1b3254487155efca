"""`longwatch leave`: a stop for good of an analyzer that is a static member of its group."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.console import AsJson, Config, show
from deploy.errors import BadSettings, Failed

if TYPE_CHECKING:
    from deploy.settings import Settings
    from storage.kafka_static import Removal


def leave(
    config: Config,
    member: Annotated[
        list[str] | None, typer.Argument(help="A member by its name; else those of this host.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove stopped analyzers from their group on Kafka: others take over at once.

    With log.kafka.static a stop is a restart, and partitions wait for log.kafka.static.session.
    """
    from deploy.config_file import read_settings
    from deploy.data import log_of
    from deploy.needs import ANALYZE
    from storage.kafka_place import KafkaPlace
    from storage.kafka_static import remove_stopped

    settings = read_settings(config)
    place = log_of(settings)
    if not isinstance(place, KafkaPlace) or place.static is None:
        told = "log.kafka.static is not set: an analyzer that stops has left its group"
        raise BadSettings(told)
    (reader,) = ANALYZE.groups
    removed = []
    for name in member or _members_here(settings):
        _check(remove_stopped(place, reader, name), name, place.prefix + reader)
        removed.append(name)
        if not as_json:
            show(f"{name}: removed from group {place.prefix + reader}")
    if as_json:
        show({"group": place.prefix + reader, "removed": removed})


def _check(removal: "Removal", name: str, group: str) -> None:
    if removal.running:
        told = f"process {removal.running} of this host is {name}: stop it first"
        raise Failed(f"{told}, it would join group {group} again")
    if not removal.was_there:
        others = ", ".join(removal.others) or "none"
        raise Failed(f"group {group} has no static member {name}; it has: {others}")


def _members_here(settings: "Settings") -> list[str]:
    """Return the names of the analyzers that these settings start on this host."""
    from deploy.assemble import analyzer_places
    from deploy.devices import devices_of
    from storage.kafka_place import KafkaPlace

    logs = [analyzer_places(settings, each).log for each in devices_of(settings.model.device)]
    return [log.static.name for log in logs if isinstance(log, KafkaPlace) and log.static]
