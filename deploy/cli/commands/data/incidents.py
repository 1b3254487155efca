"""`longwatch incidents`: list and show incidents, and act on them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alerts.rules import lifecycle
from deploy.cli import incident_actions
from deploy.cli.common import (
    ByOption,
    DataOption,
    JsonOption,
    Listing,
    NoteOption,
    OptionalConfigOption,
    show,
)
from deploy.cli.store import DataOptions, open_store

if TYPE_CHECKING:
    from alerts.dispatch.describer import Describer

incidents = typer.Typer(no_args_is_help=True, help="List, show and handle incidents.")


@incidents.command("list")
def list_incidents(
    config: OptionalConfigOption = None,
    data: DataOption = None,
    limit: Annotated[int, typer.Option(min=1, help="The most incidents to list.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List incidents, newest first."""
    from storage.records.wire import incident_fields

    columns = ("id", "rule", "camera", "severity", "state", "opened_at", "closed_at")
    with open_store(DataOptions(config, data)) as store:
        found = store.incidents.incidents(limit=limit)
    Listing(columns=columns, fields=incident_fields).show(found, as_json=as_json)


@incidents.command("show")
def show_incident(
    id: incident_actions.IncidentIdArgument,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show an incident, its evidence, its notifications and its audit trail."""
    from deploy.cli.render import incidents as render

    options = DataOptions(config, data)
    describer = _build_describer(options)
    with open_store(options) as store:
        alert_store = store.incidents
        incident = incident_actions.find_incident(alert_store, id)
        findings = alert_store.findings(incident.evidence)
        deliveries = alert_store.deliveries(incident.id)
        delivery_ids = [each.id for each in deliveries]
        details = render.IncidentDetails(
            incident=incident,
            findings=findings,
            stills=alert_store.evidence(incident.id),
            folder=store.evidence / str(incident.id),
            deliveries=deliveries,
            incidents_by_delivery=store.outbox.incidents_by_delivery(delivery_ids),
            trail=alert_store.audit_entries(incident.id),
            notifications=alert_store.notifications(incident.id),
            facts=describer.facts(incident, {each.id: each for each in findings}),
        )
    if as_json:
        show(render.incident_detail(details))
        return
    for table in render.incident_tables(details):
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
    """Acknowledge an open incident; repeat notifications stop until it resolves."""
    _apply_action(DataOptions(config, data), id, lifecycle.acknowledge, by, note, as_json=as_json)


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
    """Resolve an incident by hand; if its rule still fires, a new incident opens."""
    _apply_action(DataOptions(config, data), id, lifecycle.resolve, by, note, as_json=as_json)


@incidents.command("note")
def note_on_incident(
    id: incident_actions.IncidentIdArgument,
    text: Annotated[str, typer.Argument(help="The text of the note.")],
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a note to the audit trail of an incident."""
    _apply_action(DataOptions(config, data), id, lifecycle.note, by, text, as_json=as_json)


def _apply_action(
    options: DataOptions,
    id: str,
    step: incident_actions.LifecycleStep,
    by: str | None,
    note: str,
    *,
    as_json: bool,
) -> None:
    from storage.records.wire import incident_fields

    config = options.find_config()
    find_recipients = _recipient_finder(config) if config else incident_actions.no_recipients
    with open_store(options, is_writing=True) as store:
        incident = incident_actions.apply_action(
            store.incidents, id, step, by=by, note=note, find_recipients=find_recipients
        )
    message = f"{str(incident.id)[:8]} is {incident.state}, revision {incident.revision}"
    show(incident_fields(incident) if as_json else message)


def _build_describer(options: DataOptions) -> "Describer":
    """Return a describer with the words of the settings, if there are any."""
    from alerts.dispatch.describer import DEFAULT_DESCRIBER
    from deploy.config.assemble import build_describer
    from deploy.config.partial_settings import DescriptionSubset
    from deploy.config.settings_file import read_subset

    file = options.find_config()
    return build_describer(read_subset(file, DescriptionSubset)) if file else DEFAULT_DESCRIBER


def _recipient_finder(config: Path) -> incident_actions.RecipientFinder:
    """Return a finder of the receivers of an incident's rule."""
    from deploy.config.assemble import build_route_policies
    from deploy.config.partial_settings import NamesSubset
    from deploy.config.settings_file import read_subset

    names = read_subset(config, NamesSubset)
    notify = {rule.name: rule.notify for rule in names.rules}
    policy = build_route_policies(names)
    return lambda incident: policy.group_labels(incident, notify.get(incident.rule, []))
