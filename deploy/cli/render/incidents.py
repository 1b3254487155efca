"""What the commands print: JSON for machines, tables for people."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rich.table import Table
from rich.text import Text

from deploy.cli.common import format_instant
from storage.records.deliveries import Delivery
from storage.records.notifications import Notification
from storage.records.queries import QueryReply
from storage.records.records import EvidenceStill, Finding, Incident, TimeSpan, YesNoAnswer
from storage.records.wire import incident_fields

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.demo.monitor import DemoSummary


def demo_fields(summary: "DemoSummary") -> dict[str, Any]:
    """Return the last line of a demo."""
    opened = [(each.rule, each.opened_at) for each in summary.incidents]
    return {
        "windows": summary.windows,
        "findings": summary.findings,
        "incidents": [{"rule": rule, "opened_at": at and at.isoformat()} for rule, at in opened],
        "deliveries": {"delivered": summary.delivered},
    }


def incidents_table(incidents: Sequence[Incident]) -> Table:
    """Return one line for each incident."""
    table = Table("id", "rule", "camera", "severity", "state", "opened", "closed")
    for each in incidents:
        times = (format_instant(each.opened_at), format_instant(each.closed_at))
        table.add_row(str(each.id)[:8], each.rule, each.camera, each.severity, each.state, *times)
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentDetails:
    """An incident and all that is known of it; `stills` are in `folder`.

    `sent` are the incidents in each delivery, by its id. `facts` is what a message says of the
    incident beside its own fields, by the same names.
    """

    incident: Incident
    findings: Sequence[Finding]
    stills: Sequence[EvidenceStill]
    folder: "Path"
    deliveries: Sequence[Delivery]
    trail: Sequence[dict[str, Any]]
    incidents_by_delivery: Mapping[UUID, Sequence[UUID]] = field(default_factory=dict)
    notifications: Sequence[Notification] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def incident_detail(details: IncidentDetails) -> dict[str, Any]:
    """Return an incident with what is behind it, what became of it, and who did what."""
    return incident_fields(details.incident) | {
        **details.facts,
        "evidence": [_finding_fields(finding) for finding in details.findings],
        "stills": [
            asdict(kept) | {"folder": None if kept.missing else str(details.folder / kept.moment)}
            for kept in details.stills
        ],
        "notices": [
            {name: getattr(notice, name) for name in _COLUMNS["notices"]}
            for notice in details.notifications
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
    """Return the same for a person."""
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
        (kept.moment, kept.window_id or "-", kept.missing or details.folder / kept.moment)
        for kept in details.stills
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
    """Return the name of the question, and of the zone that it is about."""
    return finding.question if finding.zone is None else f"{finding.question} ({finding.zone})"


def _answer_cells(finding: Finding) -> tuple[str, str, str, str]:
    score, margin = f"{finding.score:.2f}", f"{finding.margin:+.1f}"
    return finding.answer, score, margin, _second_look(finding)


def _second_look(finding: Finding) -> str:
    """Say whether reading the same stills again, without the memory, agreed."""
    if finding.second_look is None:
        return "-"
    agrees = (finding.second_look >= 0.5) == (finding.answer is YesNoAnswer.YES)
    return f"{'agrees' if agrees else 'DISAGREES'} ({finding.second_look:.2f})"


def reply_lines(reply: QueryReply) -> Iterator[str]:
    """Yield what was answered, since when, what was read in full, and how far back it went."""
    if reply.answer is None or reply.since is None or reply.until is None:
        yield f"I no longer remember anything of {reply.camera}."
        return
    day = reply.until.date()
    or_before = " or before" if reply.since_or_before else ""
    answer = (
        f"{reply.answer} ({reply.score:.2f}), since {_format_hour(reply.since, day)}{or_before}"
    )
    yield f"{answer}, seen until {format_instant(reply.until)}"
    if reply.text is not None:
        yield reply.text
    if reply.seen:
        yield f"yes: {_format_spans(reply.seen, day)}"
    yield f"read in full: {_format_spans(reply.dense, day)}"
    if reply.remembers_from is not None:
        rest = "; what was before that I no longer remember." if reply.forgotten else "."
        yield f"I remember since {_format_hour(reply.remembers_from, day)}{rest}"


def _format_spans(spans: Sequence[TimeSpan], day: date) -> str:
    return ", ".join(
        f"{_format_hour(span.start, day)} to {_format_hour(span.end, day)}" for span in spans
    )


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


def delivery_fields(delivery: Delivery, incidents: Iterable[UUID]) -> dict[str, Any]:
    """Return a delivery, and the incidents in it, as every command shows it in JSON."""
    return {
        "id": str(delivery.id),
        "receiver": delivery.receiver,
        "number": delivery.number,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "tried_at": delivery.tried_at and delivery.tried_at.isoformat(),
        "next_at": delivery.next_at.isoformat(),
        "incidents": [str(id) for id in incidents],
        "reason": delivery.reason,
    }


def _format_hour(at: datetime, day: date) -> str:
    """Write an instant short where it lies on this day."""
    return at.strftime("%H:%M:%SZ") if at.date() == day else format_instant(at)
