"""The commands about incidents: look at them, act on them, verify what is written of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alerts.rules import lifecycle
from deploy.cli import incident_actions
from deploy.cli.common import (
    ByOption,
    DataOption,
    JsonOption,
    NoteOption,
    OptionalConfigOption,
    show,
    show_rows,
)
from deploy.cli.store import open_store
from deploy.config.data_dir import choose_config

if TYPE_CHECKING:
    from alerts.dispatch.describer import Describer
    from storage.db.audit.actions import AuditActionEntry
    from storage.db.audit.verification import AuditVerification

incidents = typer.Typer(no_args_is_help=True, help="Look at incidents, and act on them.")
audit = typer.Typer(
    no_args_is_help=True, help="Look at the acts of people, and verify the trail of incidents."
)


@incidents.command("list")
def list_incidents(
    config: OptionalConfigOption = None,
    data: DataOption = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, from the newest on.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List incidents, newest first."""
    from deploy.cli.render import incidents
    from storage.records.wire import incident_fields

    with open_store(config, data) as store:
        found = store.incidents.incidents(limit=limit)
    show([incident_fields(each) for each in found] if as_json else incidents.incidents_table(found))


@incidents.command("show")
def show_incident(
    id: Annotated[str, typer.Argument(help="The id of an incident, or how it begins.")],
    config: OptionalConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show an incident, what is behind it, who was told or why not, and who did what."""
    from deploy.cli.render import incidents as render

    describer = _build_describer(config, data)
    with open_store(config, data) as store:
        alert_store = store.incidents
        incident = incident_actions.find_incident(alert_store, id)
        findings = alert_store.findings(incident.evidence)
        deliveries = alert_store.deliveries(incident.id)
        case = render.IncidentDetails(
            incident=incident,
            findings=findings,
            stills=alert_store.evidence(incident.id),
            folder=store.evidence / str(incident.id),
            deliveries=deliveries,
            incidents_by_delivery=store.outbox.incidents_by_delivery(
                [each.id for each in deliveries]
            ),
            trail=alert_store.audit_entries(incident.id),
            notifications=alert_store.notifications(incident.id),
            facts=describer.facts(incident, {each.id: each for each in findings}),
        )
    if as_json:
        show(render.incident_detail(case))
        return
    for table in render.incident_tables(case):
        show(table)


@incidents.command("ack")
def acknowledge_incident(
    id: incident_actions.IncidentIdArgument,
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    by: ByOption = None,
    note: NoteOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take an open incident on: it is told no more until it is resolved."""
    _apply_action((config, data), id, lifecycle.acknowledge, by, note, as_json=as_json)


@incidents.command("resolve")
def resolve_incident(
    id: incident_actions.IncidentIdArgument,
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    by: ByOption = None,
    note: NoteOption = "",
    as_json: JsonOption = False,
) -> None:
    """End an incident by hand; it begins anew if its rule goes on firing."""
    _apply_action((config, data), id, lifecycle.resolve, by, note, as_json=as_json)


@incidents.command("note")
def note_on_incident(
    id: incident_actions.IncidentIdArgument,
    text: Annotated[str, typer.Argument(help="What others should know.")],
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a note on the trail of an incident."""
    _apply_action((config, data), id, lifecycle.note, by, text, as_json=as_json)


@audit.command("list")
def list_audit_entries(
    config: OptionalConfigOption = None,
    data: DataOption = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the last ones first.")] = 50,
    all_: Annotated[bool, typer.Option("--all", help="Those of retention, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the acts of people, the last ones first."""
    with open_store(config, data) as store:
        found = store.incidents.audit_actions(limit, of_retention=all_)
    rows = [_act_fields(each) for each in found]
    show_rows(rows, ["number", "at", "who", "how", "act", "object", "details", "note"], as_json)


@audit.command("verify")
def verify_audit(
    config: OptionalConfigOption = None,
    data: DataOption = None,
    since: Annotated[
        str | None, typer.Option(help="What an earlier run printed, kept elsewhere.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the trail of incidents and the acts; exit 1 where something was changed since."""
    trail, acts_anchor = incident_actions.parse_anchors(since) if since else (None, None)
    with open_store(config, data) as store:
        found = store.incidents.verify_audit(trail, acts_anchor)
    show(_verdict_fields(found) if as_json else _verdict_text(found))
    if found.problem is not None:
        raise typer.Exit(1)


def _act_fields(entry: "AuditActionEntry") -> dict[str, Any]:
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


def _verdict_fields(found: "AuditVerification") -> dict[str, Any]:
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


def _verdict_text(found: "AuditVerification") -> str:
    trail, acts_ = found.trail, found.actions
    if found.problem is not None:
        return f"NOT good: {found.problem}; {trail.number} entries, {acts_.number} acts hold"
    removed = f" ({found.removed} removed by retention)" if found.removed else ""
    lost = f"; not compared: {found.removed_anchor}" if found.removed_anchor else ""
    counts = f"good: {trail.number} entries{removed}, {acts_.number} acts{lost}"
    return f"{counts}; keep this elsewhere: {trail},{acts_}"


def _apply_action(
    where: tuple[Path | None, Path | None],
    id: str,
    step: incident_actions.LifecycleStep,
    by: str | None,
    note: str,
    *,
    as_json: bool,
) -> None:
    from storage.records.wire import incident_fields

    config = choose_config(*where)
    find_recipients = _recipient_finder(config) if config else incident_actions.no_recipients
    with open_store(*where, is_writing=True) as store:
        incident = incident_actions.apply_action(
            store.incidents, id, step, by=by, note=note, find_recipients=find_recipients
        )
    message = f"{str(incident.id)[:8]} is {incident.state}, revision {incident.revision}"
    show(incident_fields(incident) if as_json else message)


def _build_describer(config: Path | None, data: Path | None) -> "Describer":
    """Return who describes an incident: with the settings, where there are any."""
    from alerts.dispatch.describer import DEFAULT_DESCRIBER

    file = choose_config(config, data)
    if file is None:
        return DEFAULT_DESCRIBER
    from deploy.config.assemble import build_describer
    from deploy.config.partial_settings import DescriptionSubset
    from deploy.config.settings_file import read_subset

    return build_describer(read_subset(file, DescriptionSubset))


def _recipient_finder(config: Path) -> incident_actions.RecipientFinder:
    """Return who hears of an incident by the settings: the receivers of its rule."""
    from deploy.config.assemble import build_route_policies
    from deploy.config.partial_settings import NamesSubset
    from deploy.config.settings_file import read_subset

    part = read_subset(config, NamesSubset)
    notify = {rule.name: rule.notify for rule in part.rules}
    routing = build_route_policies(part)
    return lambda incident: routing.group_labels(incident, notify.get(incident.rule, []))
