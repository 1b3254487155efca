"""`longwatch dead`: what could not be read, and what of it can be by now."""

import typer

from deploy.cli.common import DataOption, JsonOption, OptionalConfigOption, show, show_rows
from deploy.cli.store import open_store

dead_letters = typer.Typer(
    no_args_is_help=True, help="Look at what could not be read, and read it again."
)


@dead_letters.command("list")
def list_dead_letters(
    config: OptionalConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List what was set aside, as long as the log keeps it: from where, and why."""
    from storage.log.dead_letters import read_dead_letters

    with open_store(config, data) as store:
        rows = [
            {
                "at": at.isoformat(timespec="seconds"),
                "part": each.topic,
                "position": each.offset,
                "camera": each.key,
                "bytes": each.size or len(each.value),
                "sha256": each.sha256,
                "reason": each.reason,
            }
            for at, each in read_dead_letters(store.log)
        ]
    show_rows(rows, ["at", "part", "position", "camera", "bytes", "reason"], as_json)


@dead_letters.command("replay")
def requeue_dead_letters(
    config: OptionalConfigOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Append again the findings and claims that this longwatch can read, say after an upgrade.

    What is known already is left out by whoever reads it. Windows are not read again: their
    camera has gone on, and their seconds are `corrupt` in the ledger.
    """
    from storage.log.dead_letters import requeue

    with open_store(config, data, is_writing=True) as store:
        again, left = requeue(store.log)
    message = f"{again} appended again, {left} left: see `longwatch dead list`"
    show({"replayed": again, "left": left} if as_json else message)
