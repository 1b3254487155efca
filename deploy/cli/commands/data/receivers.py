"""`longwatch receivers`: list receivers, enable them, and send test messages."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.common import (
    ByOption,
    ConfigOption,
    DataOption,
    JsonOption,
    Listing,
    NoteOption,
    OptionalConfigOption,
    show,
)
from deploy.cli.store import DataOptions, open_store
from deploy.errors import BadSettings, CommandFailed

if TYPE_CHECKING:
    from storage.records.deliveries import ReceiverStatus

receivers = typer.Typer(no_args_is_help=True, help="List, enable and test receivers.")


@receivers.command("list")
def list_receivers(
    config: ConfigOption, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List the receivers of a settings file and their state."""
    from deploy.config.partial_settings import NamesSubset
    from deploy.config.settings_file import read_subset

    names = read_subset(config, NamesSubset)
    with open_store(DataOptions(None if data else config, data)) as store:
        statuses = store.outbox.receiver_statuses() if store.has_database else {}
    found = [(name, each.kind, statuses.get(name)) for name, each in names.receivers.items()]
    _RECEIVERS.show(found, as_json=as_json)


@receivers.command("enable")
def enable_receiver(
    name: Annotated[str, typer.Argument(help="The name of a receiver.")],
    *,
    by: ByOption = None,
    note: NoteOption = "",
    config: OptionalConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enable a receiver that disabled itself by answering 410."""
    from deploy.cli.incident_actions import check_note, get_actor

    actor, note_text = get_actor(by), check_note(note)
    with open_store(DataOptions(config, data), is_writing=True) as store:
        if not store.outbox.enable_receiver(name, datetime.now(UTC), actor, note_text):
            raise CommandFailed(f"{name} is not disabled: see `longwatch receivers list`")
    line = f"{name} is enabled; see `longwatch deliveries replay --receiver {name}`"
    show({"enabled": name} if as_json else line)


@receivers.command("test")
def send_test_message(
    name: Annotated[str, typer.Argument(help="The name of a receiver.")],
    config: ConfigOption,
    as_json: JsonOption = False,
) -> None:
    """Send a test message now; print the outcome, and exit 1 if it failed."""
    from uuid import uuid4

    from alerts.dispatch.messages import build_test_body
    from alerts.notify.outcomes import Delivered
    from deploy.config.assemble import build_origin
    from deploy.config.settings import unknown_name
    from deploy.config.settings_file import read_settings

    settings, now = read_settings(config), datetime.now(UTC)
    if name not in settings.receivers:
        raise BadSettings(unknown_name("receiver", name, settings.receivers))
    receiver = settings.receivers[name].endpoint.build(name)
    body = build_test_body(name, now, build_origin(settings))
    outcome = receiver.send(uuid4(), body, now)
    if isinstance(outcome, Delivered):
        status = f" (status {outcome.status})" if outcome.status else ""
        line = f"{name} accepted it{status}"
        show({"delivered": True, "status": outcome.status} if as_json else line)
        return
    if not as_json:
        hint = f": {outcome.hint}" if outcome.hint else ""
        raise CommandFailed(f"{name}: {outcome.reason}{hint}")
    show({"delivered": False, "reason": outcome.reason, "hint": outcome.hint})
    raise typer.Exit(1)


def _receiver_fields(item: "tuple[str, str, ReceiverStatus | None]") -> dict[str, Any]:
    name, kind, status = item
    return {
        "name": name,
        "kind": kind,
        "state": status.state if status else "active",
        "since": status.since.isoformat() if status else None,
        "reason": status.reason if status else None,
    }


_RECEIVERS = Listing(columns=("name", "kind", "state", "since", "reason"), fields=_receiver_fields)
