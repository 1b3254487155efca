"""What the commands print: JSON for machines, tables for people."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rich.table import Table
from rich.text import Text

from deploy.console import time_text
from storage.records import Answer, Delivery, Finding, Incident, Kept, Reply, Span
from storage.routing import Notice
from storage.wire import incident_fields

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.onlooker import Seen


def demo_fields(seen: "Seen") -> dict[str, Any]:
    """Return the last line of a demo."""
    opened = [(each.rule, each.opened_at) for each in seen.incidents]
    return {
        "windows": seen.windows,
        "findings": seen.findings,
        "incidents": [{"rule": rule, "opened_at": at and at.isoformat()} for rule, at in opened],
        "deliveries": {"delivered": seen.delivered},
    }


def incidents_table(incidents: Sequence[Incident]) -> Table:
    """Return one line for each incident."""
    table = Table("id", "rule", "camera", "severity", "state", "opened", "closed")
    for each in incidents:
        times = (time_text(each.opened_at), time_text(each.closed_at))
        table.add_row(str(each.id)[:8], each.rule, each.camera, each.severity, each.state, *times)
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An incident and all that is known of it; `stills` are in `folder`.

    `sent` are the incidents in each delivery, by its id. `facts` is what a message says of the
    incident beside its own fields, by the same names.
    """

    incident: Incident
    findings: Sequence[Finding]
    stills: Sequence[Kept]
    folder: "Path"
    deliveries: Sequence[Delivery]
    trail: Sequence[dict[str, Any]]
    sent: Mapping[UUID, Sequence[UUID]] = field(default_factory=dict)
    notices: Sequence[Notice] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def incident_detail(case: Case) -> dict[str, Any]:
    """Return an incident with what is behind it, what became of it, and who did what."""
    return incident_fields(case.incident) | {
        **case.facts,
        "evidence": [_finding_fields(finding) for finding in case.findings],
        "stills": [
            asdict(kept) | {"folder": None if kept.missing else str(case.folder / kept.moment)}
            for kept in case.stills
        ],
        "notices": [
            {name: getattr(notice, name) for name in _COLUMNS["notices"]} for notice in case.notices
        ],
        "deliveries": [
            delivery_fields(delivery, case.sent.get(delivery.id, ()))
            for delivery in case.deliveries
        ],
        "trail": [
            {name: entry[name] for name in ("number", "written_at", "who", "note")}
            | {name: entry["incident"][name] for name in ("revision", "state")}
            for entry in case.trail
        ],
    }


def incident_tables(case: Case) -> list[Table]:
    """Return the same for a person."""
    facts = Table(show_header=False, box=None)
    for name, value in (incident_fields(case.incident) | dict(case.facts)).items():
        if name != "evidence":
            facts.add_row(name, Text(_value(name, value)))
    return [facts, *map(_rows_of, _COLUMNS, _cells(case))]


_COLUMNS = {
    "evidence": ("from", "to", "question", "answer", "score", "margin", "second look", "model"),
    "stills": ("moment", "window", "where"),
    "notices": ("revision", "kind", "receiver", "state", "why"),
    "deliveries": ("id", "receiver", "number", "state", "attempts"),
    "trail": ("number", "written", "who", "revision", "state", "note"),
}


def _rows_of(title: str, rows: Iterable[tuple[object, ...]]) -> Table:
    table = Table(*_COLUMNS[title], title=title)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def _value(name: str, value: object) -> str:
    if value is None:
        return "-"
    if name == "since" or name.endswith("_at"):
        return time_text(datetime.fromisoformat(str(value)))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cells(case: Case) -> Iterator[list[tuple[object, ...]]]:
    yield [
        (time_text(each.start), time_text(each.end), _asked(each), *_said(each), each.model)
        for each in case.findings
    ]
    yield [
        (kept.moment, kept.window_id or "-", kept.missing or case.folder / kept.moment)
        for kept in case.stills
    ]
    yield [
        (each.revision, each.kind, each.receiver, each.state, each.why or "-")
        for each in case.notices
    ]
    yield [
        (each.id, each.receiver, each.number, each.state, each.attempts) for each in case.deliveries
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
        for entry in case.trail
    ]


def _asked(finding: Finding) -> str:
    """Return the name of the question, and of the zone that it is about."""
    return finding.question if finding.zone is None else f"{finding.question} ({finding.zone})"


def _said(finding: Finding) -> tuple[str, str, str, str]:
    score, margin = f"{finding.score:.2f}", f"{finding.margin:+.1f}"
    return finding.answer, score, margin, _second_look(finding)


def _second_look(finding: Finding) -> str:
    """Say whether reading the same stills again, without the memory, agreed."""
    if finding.second_look is None:
        return "-"
    agrees = (finding.second_look >= 0.5) == (finding.answer is Answer.YES)
    return f"{'agrees' if agrees else 'DISAGREES'} ({finding.second_look:.2f})"


def reply_lines(reply: Reply) -> Iterator[str]:
    """Yield what was answered, since when, what was read in full, and how far back it went."""
    if reply.answer is None or reply.since is None or reply.until is None:
        yield f"I no longer remember anything of {reply.camera}."
        return
    day = reply.until.date()
    or_before = " or before" if reply.since_or_before else ""
    answer = f"{reply.answer} ({reply.score:.2f}), since {_hour(reply.since, day)}{or_before}"
    yield f"{answer}, seen until {time_text(reply.until)}"
    if reply.text is not None:
        yield reply.text
    if reply.seen:
        yield f"yes: {_spans(reply.seen, day)}"
    yield f"read in full: {_spans(reply.dense, day)}"
    if reply.remembers_from is not None:
        rest = "; what was before that I no longer remember." if reply.forgotten else "."
        yield f"I remember since {_hour(reply.remembers_from, day)}{rest}"


def _spans(spans: Sequence[Span], day: date) -> str:
    return ", ".join(f"{_hour(span.start, day)} to {_hour(span.end, day)}" for span in spans)


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


def _hour(at: datetime, day: date) -> str:
    """Write an instant short where it lies on this day."""
    return at.strftime("%H:%M:%SZ") if at.date() == day else time_text(at)
