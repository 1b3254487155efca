"""An incident and its details, as JSON and as tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.table import Table
from rich.text import Text

from deploy.cli.common import format_instant
from deploy.cli.render.deliveries import delivery_fields
from storage.records.deliveries import Delivery
from storage.records.notifications import Notification
from storage.records.records import EvidenceStill, Finding, Incident, YesNoAnswer
from storage.records.wire import incident_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentDetails:
    """An incident with its evidence, notifications, deliveries and audit trail.

    `stills` are in `folder`. `facts` are further fields of a message about the incident.
    """

    incident: Incident
    findings: Sequence[Finding]
    stills: Sequence[EvidenceStill]
    folder: Path
    deliveries: Sequence[Delivery]
    trail: Sequence[dict[str, Any]]
    incidents_by_delivery: Mapping[UUID, Sequence[UUID]] = field(default_factory=dict)
    notifications: Sequence[Notification] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def incident_detail(details: IncidentDetails) -> dict[str, Any]:
    """Return an incident and its details as JSON."""
    return incident_fields(details.incident) | {
        **details.facts,
        "evidence": [_finding_fields(finding) for finding in details.findings],
        "stills": [
            asdict(still)
            | {"folder": None if still.missing else str(details.folder / still.moment)}
            for still in details.stills
        ],
        "notices": [
            {
                "revision": each.revision,
                "kind": each.kind,
                "receiver": each.receiver,
                "state": each.state,
                "why": each.mute_reason,
            }
            for each in details.notifications
        ],
        "deliveries": [
            delivery_fields(delivery, details.incidents_by_delivery.get(delivery.id, ()))
            for delivery in details.deliveries
        ],
        "trail": [
            {name: entry[name] for name in ("number", "written_at", "who", "note")}
            | {name: entry["incident"][name] for name in ("revision", "state")}
            for entry in details.trail
        ],
    }


def incident_tables(details: IncidentDetails) -> list[Table]:
    """Return the same as tables."""
    facts_table = Table(show_header=False, box=None)
    for name, value in (incident_fields(details.incident) | dict(details.facts)).items():
        if name != "evidence":
            facts_table.add_row(name, Text(_format_value(name, value)))
    return [facts_table, *map(_build_table, _COLUMNS, _table_rows(details))]


_COLUMNS = {
    "evidence": ("from", "to", "question", "answer", "score", "margin", "second look", "model"),
    "stills": ("moment", "window", "where"),
    "notices": ("revision", "kind", "receiver", "state", "why"),
    "deliveries": ("id", "receiver", "number", "state", "attempts"),
    "trail": ("number", "written", "who", "revision", "state", "note"),
}


def _build_table(title: str, rows: Iterable[tuple[object, ...]]) -> Table:
    table = Table(*_COLUMNS[title], title=title)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def _format_value(name: str, value: object) -> str:
    if value is None:
        return "-"
    if name == "since" or name.endswith("_at"):
        return format_instant(datetime.fromisoformat(str(value)))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table_rows(details: IncidentDetails) -> Iterator[list[tuple[object, ...]]]:
    yield [
        (
            format_instant(each.start),
            format_instant(each.end),
            _question_text(each),
            *_answer_cells(each),
            each.model,
        )
        for each in details.findings
    ]
    yield [
        (still.moment, still.window_id or "-", still.missing or details.folder / still.moment)
        for still in details.stills
    ]
    yield [
        (each.revision, each.kind, each.receiver, each.state, each.mute_reason or "-")
        for each in details.notifications
    ]
    yield [
        (each.id, each.receiver, each.number, each.state, each.attempts)
        for each in details.deliveries
    ]
    yield [
        (
            entry["number"],
            entry["written_at"][:19],
            entry["who"],
            entry["incident"]["revision"],
            entry["incident"]["state"],
            entry["note"],
        )
        for entry in details.trail
    ]


def _question_text(finding: Finding) -> str:
    """Return the name of the question, with its zone."""
    return finding.question if finding.zone is None else f"{finding.question} ({finding.zone})"


def _answer_cells(finding: Finding) -> tuple[str, str, str, str]:
    score, margin = f"{finding.score:.2f}", f"{finding.margin:+.1f}"
    return finding.answer, score, margin, _second_look(finding)


def _second_look(finding: Finding) -> str:
    """Return whether the second look, at the stills without memory, agreed."""
    if finding.second_look is None:
        return "-"
    agrees = (finding.second_look >= 0.5) == (finding.answer is YesNoAnswer.YES)
    return f"{'agrees' if agrees else 'DISAGREES'} ({finding.second_look:.2f})"


def _finding_fields(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.id,
        "question": finding.question,
        "start": finding.start.isoformat(),
        "end": finding.end.isoformat(),
        "score": finding.score,
        "margin": finding.margin,
        "model": finding.model,
        "memory_span": finding.memory_span,
        "second_look": finding.second_look,
    } | ({} if finding.zone is None else {"zone": finding.zone})
