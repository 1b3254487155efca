"""The commands about incidents: look at them, act on them, verify what is written of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alerts import incidents as steps
from deploy import acts
from deploy.console import AsJson, By, MaybeConfig, MaybeData, Note, show, show_rows
from deploy.data import chosen_config
from deploy.store import open_store

if TYPE_CHECKING:
    from alerts.tickets import Describer
    from storage.acts import ActEntry
    from storage.verdict import Verdict

incidents = typer.Typer(no_args_is_help=True, help="Look at incidents, and act on them.")
audit = typer.Typer(
    no_args_is_help=True, help="Look at the acts of people, and verify the trail of incidents."
)


@incidents.command("list")
def list_incidents(
    config: MaybeConfig = None,
    data: MaybeData = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, from the newest on.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List incidents, newest first."""
    from deploy import report
    from storage.wire import incident_fields

    with open_store(config, data) as store:
        found = store.incidents.incidents(limit=limit)
    show([incident_fields(each) for each in found] if as_json else report.incidents_table(found))


@incidents.command("show")
def show_incident(
    id: Annotated[str, typer.Argument(help="The id of an incident, or how it begins.")],
    config: MaybeConfig = None,
    data: MaybeData = None,
    as_json: AsJson = False,
) -> None:
    """Show an incident, what is behind it, who was told or why not, and who did what."""
    from deploy import report

    describer = _describer(config, data)
    with open_store(config, data) as store:
        incidents = store.incidents
        incident = acts.find(incidents, id)
        findings = incidents.findings(incident.evidence)
        deliveries = incidents.deliveries(incident.id)
        case = report.Case(
            incident=incident,
            findings=findings,
            stills=incidents.evidence(incident.id),
            folder=store.evidence / str(incident.id),
            deliveries=deliveries,
            sent=store.outbox.incidents_of([each.id for each in deliveries]),
            trail=incidents.trail(incident.id),
            notices=incidents.notices(incident.id),
            facts=describer.facts(incident, {each.id: each for each in findings}),
        )
    if as_json:
        show(report.incident_detail(case))
        return
    for table in report.incident_tables(case):
        show(table)


@incidents.command("ack")
def acknowledge_incident(
    id: acts.Id,
    *,
    config: MaybeConfig = None,
    data: MaybeData = None,
    by: By = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Take an open incident on: it is told no more until it is resolved."""
    _act((config, data), id, steps.acknowledge, by, note, as_json=as_json)


@incidents.command("resolve")
def resolve_incident(
    id: acts.Id,
    *,
    config: MaybeConfig = None,
    data: MaybeData = None,
    by: By = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """End an incident by hand; it begins anew if its rule goes on firing."""
    _act((config, data), id, steps.resolve, by, note, as_json=as_json)


@incidents.command("note")
def note_on_incident(
    id: acts.Id,
    text: Annotated[str, typer.Argument(help="What others should know.")],
    *,
    config: MaybeConfig = None,
    data: MaybeData = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Write a note on the trail of an incident."""
    _act((config, data), id, steps.note, by, text, as_json=as_json)


@audit.command("list")
def list_acts(
    config: MaybeConfig = None,
    data: MaybeData = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the last ones first.")] = 50,
    all_: Annotated[bool, typer.Option("--all", help="Those of retention, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the acts of people, the last ones first."""
    with open_store(config, data) as store:
        found = store.incidents.acts(limit, of_retention=all_)
    rows = [_act_fields(each) for each in found]
    show_rows(rows, ["number", "at", "who", "how", "act", "object", "details", "note"], as_json)


@audit.command("verify")
def verify_audit(
    config: MaybeConfig = None,
    data: MaybeData = None,
    since: Annotated[
        str | None, typer.Option(help="What an earlier run printed, kept elsewhere.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify the trail of incidents and the acts; exit 1 where something was changed since."""
    trail, acts_ = acts.anchors(since) if since else (None, None)
    with open_store(config, data) as store:
        found = store.incidents.verify(trail, acts_)
    show(_verdict_fields(found) if as_json else _verdict_text(found))
    if found.problem is not None:
        raise typer.Exit(1)


def _act_fields(entry: "ActEntry") -> dict[str, Any]:
    return {
        "number": entry.number,
        "at": entry.at.isoformat(),
        "who": entry.act.actor.who,
        "how": entry.act.actor.how,
        "act": entry.act.kind,
        "object": entry.act.object,
        "details": entry.act.details,
        "note": entry.act.note,
    }


def _verdict_fields(found: "Verdict") -> dict[str, Any]:
    return {
        "entries": found.trail.number,
        "digest": found.trail.digest,
        "forgotten": found.forgotten,
        "acts": found.acts.number,
        "acts_digest": found.acts.digest,
        "since": f"{found.trail},{found.acts}",
        "lost": found.lost,
        "problem": found.problem,
    }


def _verdict_text(found: "Verdict") -> str:
    trail, acts_ = found.trail, found.acts
    if found.problem is not None:
        return f"NOT good: {found.problem}; {trail.number} entries, {acts_.number} acts hold"
    removed = f" ({found.forgotten} removed by retention)" if found.forgotten else ""
    lost = f"; not compared: {found.lost}" if found.lost else ""
    counts = f"good: {trail.number} entries{removed}, {acts_.number} acts{lost}"
    return f"{counts}; keep this elsewhere: {trail},{acts_}"


def _act(
    where: tuple[Path | None, Path | None],
    id: str,
    step: acts.Step,
    by: str | None,
    note: str,
    *,
    as_json: bool,
) -> None:
    from storage.wire import incident_fields

    config = chosen_config(*where)
    hears = _hears(config) if config else acts.nobody_more
    with open_store(*where, writing=True) as store:
        changed = acts.act(store.incidents, id, step, by=by, note=note, hears=hears)
    told = f"{str(changed.id)[:8]} is {changed.state}, revision {changed.revision}"
    show(incident_fields(changed) if as_json else told)


def _describer(config: Path | None, data: Path | None) -> "Describer":
    """Return who describes an incident: with the settings, where there are any."""
    from alerts.tickets import PLAIN

    file = chosen_config(config, data)
    if file is None:
        return PLAIN
    from deploy.assemble import describer_of
    from deploy.config_file import read_part
    from deploy.parts import WordsPart

    return describer_of(read_part(file, WordsPart))


def _hears(config: Path) -> acts.Hears:
    """Return who hears of an incident by the settings: the receivers of its rule."""
    from deploy.assemble import routes_of
    from deploy.config_file import read_part
    from deploy.parts import NamesPart

    part = read_part(config, NamesPart)
    notify = {rule.name: rule.notify for rule in part.rules}
    routing = routes_of(part)
    return lambda incident: routing.groups_of(incident, notify.get(incident.rule, []))
