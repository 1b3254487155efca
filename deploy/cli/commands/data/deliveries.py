"""`longwatch deliveries`: list deliveries, and requeue them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from deploy.cli.common import (
    ByOption,
    DataOption,
    JsonOption,
    Listing,
    NoteOption,
    OptionalConfigOption,
    find_by_prefix,
    format_instant,
    parse_instant,
    show,
)
from deploy.cli.render.deliveries import delivery_fields
from deploy.cli.store import DataOptions, open_store
from deploy.errors import BadSettings, CommandFailed

if TYPE_CHECKING:
    from storage.db.outbox import Outbox
    from storage.records.deliveries import Delivery

deliveries = typer.Typer(no_args_is_help=True, help="List and requeue deliveries.")


@deliveries.command("list")
def list_deliveries(
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    state: Annotated[str | None, typer.Option(help="List only deliveries in this state.")] = None,
    receiver: Annotated[
        str | None, typer.Option(help="List only deliveries to this receiver.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most deliveries to list.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List deliveries and their state, newest first."""
    from storage.records.deliveries import DeliveryState

    if state is not None and state not in list(DeliveryState):
        raise BadSettings(f"--state: choose one of {', '.join(DeliveryState)}")
    states = tuple(DeliveryState) if state is None else (DeliveryState(state),)
    with open_store(DataOptions(config, data)) as store:
        found = store.outbox.deliveries(states, receiver, limit)
        incident_ids = store.outbox.incidents_by_delivery([each.id for each in found])
    items = [(delivery, incident_ids.get(delivery.id, [])) for delivery in found]
    _DELIVERIES.show(items, as_json=as_json)


@deliveries.command("replay")
def replay_deliveries(
    id: Annotated[
        str | None, typer.Argument(help="The id of a delivery, or its beginning.")
    ] = None,
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    receiver: Annotated[
        str | None, typer.Option(help="Requeue all failed deliveries to this receiver.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="With --receiver: not before, say 12h ago or a time.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="With ID: also if it was delivered or superseded.")
    ] = False,
    by: ByOption = None,
    note: NoteOption = "",
    as_json: JsonOption = False,
) -> None:
    """Requeue failed deliveries under the same webhook-id."""
    from deploy.cli.incident_actions import check_note, get_actor

    now, actor, note_text = datetime.now(UTC), get_actor(by), check_note(note)
    if (id is None) == (receiver is None) or (since is not None and receiver is None):
        raise BadSettings("name either ID, or --receiver NAME with or without --since")
    begin_at = _parse_since(since, now) if since else None
    with open_store(DataOptions(config, data), is_writing=True) as store:
        if receiver is not None:
            count = store.outbox.requeue_undelivered(receiver, begin_at, now, actor, note_text)
        else:
            delivery = _find_replayable(store.outbox, str(id), again=again)
            if not store.outbox.requeue(delivery, now, actor, note_text):
                at = format_instant(delivery.next_at)
                raise CommandFailed(f"{delivery.id} is queued: its next attempt is at {at}")
            count = 1
    show({"replayed": count} if as_json else f"{count} deliveries requeued")


def _find_replayable(outbox: "Outbox", id: str, *, again: bool) -> "Delivery":
    from storage.db.outbox import RECEIVED

    delivery = find_by_prefix(outbox.find, id, "delivery", "deliveries list")
    if delivery.state in RECEIVED and not again:
        raise CommandFailed(f"{delivery.id} is {delivery.state}: --again sends it once more")
    return delivery


def _parse_since(text: str, now: datetime) -> datetime:
    from storage.duration import parse_duration

    try:
        return now - parse_duration(text.removesuffix(" ago"))
    except ValueError:
        return parse_instant("--since", text)


def _listed_fields(item: "tuple[Delivery, Sequence[UUID]]") -> dict[str, Any]:
    return delivery_fields(*item)


_DELIVERIES = Listing(
    columns=("id", "receiver", "state", "attempts", "tried_at", "next_at", "incidents", "reason"),
    fields=_listed_fields,
)
