"""The commands about deliveries and receivers: `longwatch deliveries`, `longwatch receivers`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.common import (
    ByOption,
    ConfigOption,
    DataOption,
    JsonOption,
    NoteOption,
    OptionalConfigOption,
    find_by_prefix,
    format_instant,
    parse_instant,
    show,
    show_rows,
)
from deploy.cli.store import open_store
from deploy.errors import BadSettings, CommandFailed

if TYPE_CHECKING:
    from alerts.notify.receivers import Receiver
    from storage.db.outbox import Outbox
    from storage.records.records import Delivery, ReceiverStatus

deliveries = typer.Typer(no_args_is_help=True, help="Look at what was sent, and send it again.")
receivers = typer.Typer(no_args_is_help=True, help="Look at receivers, and test them.")

MAX_INCIDENTS_SHOWN = 5
"""Incidents of a delivery that a table names; `--json` has them all."""

ReceiverOption = Annotated[str | None, typer.Option(help="Only those to this receiver.")]


@deliveries.command("list")
def list_deliveries(
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    state: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    receiver: ReceiverOption = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the last ones first.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List deliveries, the last ones first: waiting, delivered, or why not."""
    from deploy.cli.render.incidents import delivery_fields
    from storage.records.records import DeliveryState

    if state is not None and state not in list(DeliveryState):
        raise BadSettings(f"--state: choose one of {', '.join(DeliveryState)}")
    states = tuple(DeliveryState) if state is None else (DeliveryState(state),)
    with open_store(config, data) as store:
        found = store.outbox.deliveries(states, receiver, limit)
        incident_ids = store.outbox.incidents_by_delivery([each.id for each in found])
    rows = [delivery_fields(each, incident_ids.get(each.id, [])) for each in found]
    if not as_json:
        rows = [row | {"incidents": _shorten_ids(row["incidents"])} for row in rows]
    columns = ["id", "receiver", "state", "attempts", "tried_at", "next_at", "incidents", "reason"]
    show_rows(rows, columns, as_json)


@deliveries.command("replay")
def replay_deliveries(
    id: Annotated[
        str | None, typer.Argument(help="The id of a delivery, or how it begins.")
    ] = None,
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    receiver: Annotated[
        str | None, typer.Option(help="All that this receiver was never told.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="With --receiver: not before, say 12h ago or a time.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="With ID: also what was delivered or superseded.")
    ] = False,
    by: ByOption = None,
    note: NoteOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let what was given up, refused or orphaned wait again, with the same id."""
    from deploy.cli.incident_actions import check_note, get_actor

    now, actor, note_text = datetime.now(UTC), get_actor(by), check_note(note)
    if (id is None) == (receiver is None) or (since is not None and receiver is None):
        raise BadSettings(
            "say what to replay: either ID, or --receiver NAME with or without --since"
        )
    begin_at = _parse_since(since, now) if since else None
    with open_store(config, data, is_writing=True) as store:
        if receiver is not None:
            count = store.outbox.requeue_undelivered(receiver, begin_at, now, actor, note_text)
        else:
            delivery = _find_replayable(store.outbox, str(id), again=again)
            if not store.outbox.requeue(delivery, now, actor, note_text):
                at = format_instant(delivery.next_at)
                raise CommandFailed(f"{delivery.id} still waits: its next try is at {at}")
            count = 1
    _print_result({"replayed": count}, f"{count} deliveries wait again", as_json)


@receivers.command("list")
def list_receivers(
    config: ConfigOption, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List the receivers of a settings file and how they stand."""
    from deploy.config.partial_settings import NamesSubset
    from deploy.config.settings_file import read_subset

    part = read_subset(config, NamesSubset)
    with open_store(None if data else config, data) as store:
        known = store.outbox.receiver_statuses() if store.has_database else {}
    rows = [
        _receiver_fields(name, receiver.kind, known.get(name))
        for name, receiver in part.receivers.items()
    ]
    show_rows(rows, ["name", "kind", "state", "since", "reason"], as_json)


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
    """Post again to a receiver that had said it wants nothing more (410)."""
    from deploy.cli.incident_actions import check_note, get_actor

    actor, note_text = get_actor(by), check_note(note)
    with open_store(config, data, is_writing=True) as store:
        if not store.outbox.enable_receiver(name, datetime.now(UTC), actor, note_text):
            raise CommandFailed(f"{name} is not disabled: see `longwatch receivers list`")
    then = f"what it missed: longwatch deliveries replay --receiver {name}"
    _print_result({"enabled": name}, f"{name} is posted to again; {then}", as_json)


@receivers.command("test")
def send_test_message(
    name: Annotated[str, typer.Argument(help="The name of a receiver.")],
    config: ConfigOption,
    as_json: JsonOption = False,
) -> None:
    """Send a test message now; say what came of it, and exit 1 when it failed."""
    from uuid import uuid4

    from alerts.dispatch.messages import build_test_body
    from alerts.notify.outcomes import Delivered
    from deploy.config.assemble import build_origin
    from deploy.config.settings_file import read_settings

    now = datetime.now(UTC)
    body = build_test_body(name, now, build_origin(read_settings(config)))
    outcome = _build_named_receiver(config, name).send(uuid4(), body, now)
    if isinstance(outcome, Delivered):
        status = f" (status {outcome.status})" if outcome.status else ""
        _print_result(
            {"delivered": True, "status": outcome.status}, f"{name} took it{status}", as_json
        )
        return
    if not as_json:
        raise CommandFailed(
            f"{name}: {outcome.reason}" + (f": {outcome.hint}" if outcome.hint else "")
        )
    _print_result({"delivered": False, "reason": outcome.reason, "hint": outcome.hint}, "", as_json)
    raise typer.Exit(1)


def _find_replayable(outbox: "Outbox", id: str, *, again: bool) -> "Delivery":
    from storage.db.outbox import RECEIVED

    delivery = find_by_prefix(outbox.find, id, "delivery", "deliveries list")
    if delivery.state in RECEIVED and not again:
        raise CommandFailed(f"{delivery.id} is {delivery.state}: --again sends it once more")
    return delivery


def _build_named_receiver(config: Path, name: str) -> "Receiver":
    from deploy.config.settings_file import read_settings

    known = read_settings(config).receivers
    if name not in known:
        message = ", ".join(known) or "there is none"
        raise BadSettings(f"no receiver is called {name!r} (known: {message})")
    return known[name].endpoint.build(name)


def _parse_since(text: str, now: datetime) -> datetime:
    from storage.duration import parse_duration

    try:
        return now - parse_duration(text.removesuffix(" ago"))
    except ValueError:
        return parse_instant("--since", text)


def _shorten_ids(ids: list[str]) -> str:
    """Name the first of many incidents."""
    rest = f" and {len(ids) - MAX_INCIDENTS_SHOWN} more" if len(ids) > MAX_INCIDENTS_SHOWN else ""
    return ", ".join(id[:8] for id in ids[:MAX_INCIDENTS_SHOWN]) + rest


def _receiver_fields(name: str, kind: str, status: "ReceiverStatus | None") -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "state": status.state if status else "active",
        "since": status.since.isoformat() if status else None,
        "reason": status.reason if status else None,
    }


def _print_result(fields: dict[str, Any], line: str, as_json: bool) -> None:
    show(fields if as_json else line)
