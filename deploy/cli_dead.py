"""`longwatch dead`: what could not be read, and what of it can be by now."""

import typer

from deploy.console import AsJson, MaybeConfig, MaybeData, show, show_rows
from deploy.store import open_store

dead = typer.Typer(no_args_is_help=True, help="Look at what could not be read, and read it again.")


@dead.command("list")
def list_dead(config: MaybeConfig = None, data: MaybeData = None, as_json: AsJson = False) -> None:
    """List what was set aside, as long as the log keeps it: from where, and why."""
    from storage.dead import set_aside

    with open_store(config, data) as store:
        rows = [
            {
                "at": at.isoformat(timespec="seconds"),
                "part": each.topic,
                "position": each.position,
                "camera": each.key,
                "bytes": each.size or len(each.value),
                "sha256": each.sha256,
                "reason": each.reason,
            }
            for at, each in set_aside(store.log)
        ]
    show_rows(rows, ["at", "part", "position", "camera", "bytes", "reason"], as_json)


@dead.command("replay")
def replay_dead(
    config: MaybeConfig = None, data: MaybeData = None, as_json: AsJson = False
) -> None:
    """Append again the findings and claims that this longwatch can read, say after an upgrade.

    What is known already is left out by whoever reads it. Windows are not read again: their
    camera has gone on, and their seconds are `corrupt` in the ledger.
    """
    from storage.dead import append_again

    with open_store(config, data, writing=True) as store:
        again, left = append_again(store.log)
    told = f"{again} appended again, {left} left: see `longwatch dead list`"
    show({"replayed": again, "left": left} if as_json else told)
