"""The commands about deliveries and receivers: `longwatch deliveries`, `longwatch receivers`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console import (
    AsJson,
    By,
    Config,
    MaybeConfig,
    MaybeData,
    Note,
    found_by,
    instant,
    show,
    show_rows,
    time_text,
)
from deploy.errors import BadSettings, Failed
from deploy.store import open_store

if TYPE_CHECKING:
    from alerts.receivers import Receiver
    from storage.outbox import Outbox
    from storage.records import Delivery, ReceiverStatus

deliveries = typer.Typer(no_args_is_help=True, help="Look at what was sent, and send it again.")
receivers = typer.Typer(no_args_is_help=True, help="Look at receivers, and test them.")

MOST_NAMED = 5
"""Incidents of a delivery that a table names; `--json` has them all."""

MaybeReceiver = Annotated[str | None, typer.Option(help="Only those to this receiver.")]


@deliveries.command("list")
def list_deliveries(
    *,
    config: MaybeConfig = None,
    data: MaybeData = None,
    state: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    receiver: MaybeReceiver = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the last ones first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List deliveries, the last ones first: waiting, delivered, or why not."""
    from deploy.report import delivery_fields
    from storage.records import DeliveryState

    if state is not None and state not in list(DeliveryState):
        raise BadSettings(f"--state: choose one of {', '.join(DeliveryState)}")
    states = tuple(DeliveryState) if state is None else (DeliveryState(state),)
    with open_store(config, data) as store:
        found = store.outbox.deliveries(states, receiver, limit)
        told = store.outbox.incidents_of([each.id for each in found])
    rows = [delivery_fields(each, told.get(each.id, [])) for each in found]
    if not as_json:
        rows = [row | {"incidents": _short(row["incidents"])} for row in rows]
    columns = ["id", "receiver", "state", "attempts", "tried_at", "next_at", "incidents", "reason"]
    show_rows(rows, columns, as_json)


@deliveries.command("replay")
def replay_deliveries(
    id: Annotated[
        str | None, typer.Argument(help="The id of a delivery, or how it begins.")
    ] = None,
    *,
    config: MaybeConfig = None,
    data: MaybeData = None,
    receiver: Annotated[
        str | None, typer.Option(help="All that this receiver was never told.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="With --receiver: not before, say 12h ago or a time.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="With ID: also what was delivered or superseded.")
    ] = False,
    by: By = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Let what was given up, refused or orphaned wait again, with the same id."""
    from deploy.acts import actor_of, plain_note

    now, actor, said = datetime.now(UTC), actor_of(by), plain_note(note)
    if (id is None) == (receiver is None) or (since is not None and receiver is None):
        raise BadSettings(
            "say what to replay: either ID, or --receiver NAME with or without --since"
        )
    begin = _since(since, now) if since else None
    with open_store(config, data, writing=True) as store:
        if receiver is not None:
            count = store.outbox.replay_all(receiver, begin, now, actor, said)
        else:
            delivery = _replayable(store.outbox, str(id), again=again)
            if not store.outbox.replay(delivery, now, actor, said):
                at = time_text(delivery.next_at)
                raise Failed(f"{delivery.id} still waits: its next try is at {at}")
            count = 1
    _say({"replayed": count}, f"{count} deliveries wait again", as_json)


@receivers.command("list")
def list_receivers(config: Config, data: MaybeData = None, as_json: AsJson = False) -> None:
    """List the receivers of a settings file and how they stand."""
    from deploy.config_file import read_part
    from deploy.parts import NamesPart

    part = read_part(config, NamesPart)
    with open_store(None if data else config, data) as store:
        known = store.outbox.statuses() if store.has_database else {}
    rows = [
        _receiver_fields(name, receiver.kind, known.get(name))
        for name, receiver in part.receivers.items()
    ]
    show_rows(rows, ["name", "kind", "state", "since", "reason"], as_json)


@receivers.command("enable")
def enable_receiver(
    name: Annotated[str, typer.Argument(help="The name of a receiver.")],
    *,
    by: By = None,
    note: Note = "",
    config: MaybeConfig = None,
    data: MaybeData = None,
    as_json: AsJson = False,
) -> None:
    """Post again to a receiver that had said it wants nothing more (410)."""
    from deploy.acts import actor_of, plain_note

    actor, said = actor_of(by), plain_note(note)
    with open_store(config, data, writing=True) as store:
        if not store.outbox.enable(name, datetime.now(UTC), actor, said):
            raise Failed(f"{name} is not disabled: see `longwatch receivers list`")
    then = f"what it missed: longwatch deliveries replay --receiver {name}"
    _say({"enabled": name}, f"{name} is posted to again; {then}", as_json)


@receivers.command("test")
def check_receiver(
    name: Annotated[str, typer.Argument(help="The name of a receiver.")],
    config: Config,
    as_json: AsJson = False,
) -> None:
    """Send a test message now; say what came of it, and exit 1 when it failed."""
    from uuid import uuid4

    from alerts.messages import trial_body
    from alerts.outcomes import Delivered
    from alerts.receivers import send
    from deploy.assemble import origin_of
    from deploy.config_file import read_settings

    now = datetime.now(UTC)
    body = trial_body(name, now, origin_of(read_settings(config)))
    outcome = send(_receiver(config, name), uuid4(), body, now)
    if isinstance(outcome, Delivered):
        status = f" (status {outcome.status})" if outcome.status else ""
        _say({"delivered": True, "status": outcome.status}, f"{name} took it{status}", as_json)
        return
    if not as_json:
        raise Failed(f"{name}: {outcome.reason}" + (f": {outcome.hint}" if outcome.hint else ""))
    _say({"delivered": False, "reason": outcome.reason, "hint": outcome.hint}, "", as_json)
    raise typer.Exit(1)


def _replayable(outbox: "Outbox", id: str, *, again: bool) -> "Delivery":
    from storage.outbox import ENDED_WELL

    delivery = found_by(outbox.find, id, "delivery", "deliveries list")
    if delivery.state in ENDED_WELL and not again:
        raise Failed(f"{delivery.id} is {delivery.state}: --again sends it once more")
    return delivery


def _receiver(config: Path, name: str) -> "Receiver":
    from deploy.config_file import read_settings
    from deploy.receivers import receiver_of

    known = read_settings(config).receivers
    if name not in known:
        told = ", ".join(known) or "there is none"
        raise BadSettings(f"no receiver is called {name!r} (known: {told})")
    return receiver_of(name, known[name])


def _since(text: str, now: datetime) -> datetime:
    from storage.duration import parse_duration

    try:
        return now - parse_duration(text.removesuffix(" ago"))
    except ValueError:
        return instant("--since", text)


def _short(ids: list[str]) -> str:
    """Name the first of many incidents."""
    rest = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
    return ", ".join(id[:8] for id in ids[:MOST_NAMED]) + rest


def _receiver_fields(name: str, kind: str, status: "ReceiverStatus | None") -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "state": status.state if status else "active",
        "since": status.since.isoformat() if status else None,
        "reason": status.reason if status else None,
    }


def _say(fields: dict[str, Any], line: str, as_json: bool) -> None:
    show(fields if as_json else line)
