"""`longwatch dead`: list dead letters, and requeue those that can be read now."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from deploy.cli.common import DataOption, JsonOption, Listing, OptionalConfigOption, show
from deploy.cli.store import DataOptions, open_store

if TYPE_CHECKING:
    from storage.records.records import DeadLetter

dead_letters = typer.Typer(no_args_is_help=True, help="List and requeue unreadable log entries.")


@dead_letters.command("list")
def list_dead_letters(
    config: OptionalConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List the log entries that could not be read, and why, while the log keeps them."""
    from storage.log.dead_letters import read_dead_letters

    with open_store(DataOptions(config, data)) as store:
        _DEAD_LETTERS.show(read_dead_letters(store.log), as_json=as_json)


@dead_letters.command("replay")
def requeue_dead_letters(
    config: OptionalConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Requeue the findings and claims that this longwatch can read, for example after an upgrade.

    Their readers skip what they know. Windows stay: their camera has gone on, and coverage has
    their seconds as `corrupt`.
    """
    from storage.log.dead_letters import requeue

    with open_store(DataOptions(config, data), is_writing=True) as store:
        requeued, left = requeue(store.log)
    message = f"{requeued} requeued, {left} left: see `longwatch dead list`"
    show({"replayed": requeued, "left": left} if as_json else message)


def _dead_letter_fields(item: "tuple[datetime, DeadLetter]") -> dict[str, Any]:
    at, letter = item
    return {
        "at": at.isoformat(timespec="seconds"),
        "part": letter.topic,
        "position": letter.offset,
        "camera": letter.key,
        "bytes": letter.size or len(letter.value),
        "sha256": letter.sha256,
        "reason": letter.reason,
    }


_DEAD_LETTERS = Listing(
    columns=("at", "part", "position", "camera", "bytes", "reason"), fields=_dead_letter_fields
)
