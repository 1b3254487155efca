"""`longwatch audit`: list the actions of people, and verify the audit hash chain."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.common import DataOption, JsonOption, Listing, OptionalConfigOption, show
from deploy.cli.incident_actions import parse_anchors
from deploy.cli.store import DataOptions, open_store

if TYPE_CHECKING:
    from storage.db.audit.actions import AuditActionEntry
    from storage.db.audit.verification import AuditVerification

audit = typer.Typer(no_args_is_help=True, help="List actions of people, and verify the trail.")


@audit.command("list")
def list_audit_entries(
    config: OptionalConfigOption = None,
    data: DataOption = None,
    limit: Annotated[int, typer.Option(min=1, help="The most actions to list.")] = 50,
    all_: Annotated[bool, typer.Option("--all", help="List those of retention, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the actions of people, newest first."""
    with open_store(DataOptions(config, data)) as store:
        found = store.incidents.audit_actions(limit, of_retention=all_)
    _ACTIONS.show(found, as_json=as_json)


@audit.command("verify")
def verify_audit(
    config: OptionalConfigOption = None,
    data: DataOption = None,
    since: Annotated[
        str | None, typer.Option(help="The anchor that an earlier run printed, kept elsewhere.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute the audit hash chain; exit 1 if any entry was altered."""
    trail, actions = parse_anchors(since) if since else (None, None)
    with open_store(DataOptions(config, data)) as store:
        found = store.incidents.verify_audit(trail, actions)
    show(_verification_fields(found) if as_json else _verification_text(found))
    if found.problem is not None:
        raise typer.Exit(1)


def _action_fields(entry: "AuditActionEntry") -> dict[str, Any]:
    return {
        "number": entry.number,
        "at": entry.at.isoformat(),
        "who": entry.action.actor.who,
        "how": entry.action.actor.origin,
        "act": entry.action.kind,
        "object": entry.action.object,
        "details": entry.action.details,
        "note": entry.action.note,
    }


_ACTIONS = Listing(
    columns=("number", "at", "who", "how", "act", "object", "details", "note"),
    fields=_action_fields,
)


def _verification_fields(found: "AuditVerification") -> dict[str, Any]:
    return {
        "entries": found.trail.number,
        "digest": found.trail.digest,
        "forgotten": found.removed,
        "acts": found.actions.number,
        "acts_digest": found.actions.digest,
        "since": f"{found.trail},{found.actions}",
        "lost": found.removed_anchor,
        "problem": found.problem,
    }


def _verification_text(found: "AuditVerification") -> str:
    trail, actions = found.trail, found.actions
    if found.problem is not None:
        valid = f"{trail.number} entries and {actions.number} actions are valid"
        return f"NOT good: {found.problem}; {valid}"
    removed = f" ({found.removed} removed by retention)" if found.removed else ""
    lost = f"; not compared: {found.removed_anchor}" if found.removed_anchor else ""
    counts = f"good: {trail.number} entries{removed}, {actions.number} actions{lost}"
    return f"{counts}; keep this elsewhere: {trail},{actions}"
