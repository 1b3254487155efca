"""The bytes of the records, and back.

Windows and dead entries are framed: a magic of 4 bytes, the version (16 bits), the length of a
JSON header (32 bits, big endian), the header, then raw bytes. Findings and incidents are JSON
objects that carry their version. Reading is exact: decode_* returns a whole record or raises
Unreadable, whatever the bytes; encode_* raises ValueError for what no reader would take.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from storage.fields import Fields, write_instant
from storage.frames import VERSION, as_json, exactly, frame, readable, unframe, uuid_of, versioned
from storage.records import (
    Answer,
    Clock,
    ClockSource,
    Finding,
    Incident,
    IncidentState,
    Span,
    Still,
    Window,
)

MAX_NAME = 64
MAX_ID = 512
MAX_WINDOW_ID = MAX_ID - 2 * (MAX_NAME + 1)
"""So that the id of a finding, which names its question and version, too, fits into MAX_ID."""
MAX_STILLS = 256
MAX_SIDE = 16384
MAX_WINDOW_BYTES = 16 * 2**20
MAX_EVIDENCE = 16
MAX_REASON = 500
MAX_POSITION = 2**53

_UNORDERED = "stills: not strictly increasing in time"
_BACKWARDS = "start: after end"
_WINDOW_MAGIC = b"LWwi"
_DEAD_MAGIC = b"LWde"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """A log entry that could not be read: where it was, why, and its own bytes.

    Where its bytes are too many, `value` are the first ones, `size` is how many they were, and
    `sha256` is the digest of all. A `size` of 0 means that `value` is whole.
    """

    topic: str
    position: int
    key: str
    reason: str
    value: bytes
    size: int = 0
    sha256: str = ""

    @property
    def is_whole(self) -> bool:
        """Return whether all bytes of the entry were kept."""
        return not self.size


def encode_window(window: Window) -> bytes:
    """Write a window, JPEGs as they are."""
    stills = [
        {
            "at": write_instant(still.at),
            "width": still.width,
            "height": still.height,
            "bytes": len(still.jpeg),
        }
        for still in window.stills
    ]
    header = {
        "camera": window.camera,
        "clock": {"source": window.clock.source, "offset": float(window.clock.offset)},
        "after_gap": window.after_gap,
        "stills": stills,
    }
    if window.covers is not None:
        header["covers"] = _span_fields(window.covers)
    if window.is_set_back:
        header["is_set_back"] = True
    value = frame(_WINDOW_MAGIC, header, b"".join(still.jpeg for still in window.stills))
    _check_window(window, len(value))
    return value


def _check_window(window: Window, size: int) -> None:
    """Raise ValueError for what `decode_window` refuses, without reading a megabyte again."""
    if size > MAX_WINDOW_BYTES:
        raise ValueError(f"a window of {size} bytes, more than {MAX_WINDOW_BYTES}")
    stills = list(window.stills)
    fields = Fields(
        {"camera": window.camera, "offset": float(window.clock.offset), "stills": stills}
    )
    fields.text("camera", MAX_NAME)
    fields.number("offset", -1e12, 1e12)
    fields.items("stills", MAX_STILLS)
    for still in stills:
        sides = Fields({"bytes": len(still.jpeg), "width": still.width, "height": still.height})
        sides.count("bytes", 1, MAX_WINDOW_BYTES)
        sides.count("width", 1, MAX_SIDE)
        sides.count("height", 1, MAX_SIDE)
    if any(one.at >= other.at for one, other in pairwise(stills)):
        raise ValueError(_UNORDERED)
    if window.covers is not None and window.covers.start > window.covers.end:
        raise ValueError(_BACKWARDS)


def decode_window(value: bytes) -> Window:
    """Read a window."""
    return exactly(_window, value)


def encode_finding(finding: Finding) -> bytes:
    """Write a finding."""
    return readable(decode_finding, as_json({"version": VERSION} | finding_fields(finding)))


def decode_finding(value: bytes) -> Finding:
    """Read a finding."""
    return exactly(_finding, value)


def encode_incident(incident: Incident) -> bytes:
    """Write an incident."""
    return readable(decode_incident, as_json({"version": VERSION} | incident_fields(incident)))


def decode_incident(value: bytes) -> Incident:
    """Read an incident."""
    return exactly(_incident, value)


def encode_dead(dead: Dead) -> bytes:
    """Write an entry that could not be read, its bytes as they are."""
    header = {
        "topic": dead.topic,
        "position": dead.position,
        "key": dead.key,
        "reason": dead.reason,
    } | ({} if dead.is_whole else {"size": dead.size, "sha256": dead.sha256})
    return readable(decode_dead, frame(_DEAD_MAGIC, header, dead.value))


def decode_dead(value: bytes) -> Dead:
    """Read an entry that could not be read."""
    return exactly(_dead, value)


def finding_fields(finding: Finding) -> dict[str, Any]:
    """Return a finding as a JSON object; fields that were added later only where they are set."""
    fields = {
        "window_id": finding.window_id,
        "camera": finding.camera,
        "question": finding.question,
        "question_version": finding.question_version,
        "start": write_instant(finding.start),
        "end": write_instant(finding.end),
        "score": float(finding.score),
        "margin": float(finding.margin),
        "answer": finding.answer,
        "since": write_instant(finding.since),
        "model": finding.model,
        "memory_span": float(finding.memory_span),
    }
    if finding.second_look is not None:
        fields["second_look"] = float(finding.second_look)
    if finding.zone is not None:
        fields["zone"] = finding.zone
    return fields


def incident_fields(incident: Incident) -> dict[str, Any]:
    """Return an incident as the JSON object that topics, webhooks and the CLI show.

    Fields that were added later are there only where they are set; a consumer ignores those
    that it does not know.
    """
    acknowledged = incident.acknowledged_at
    later = {
        "acknowledged_at": acknowledged and write_instant(acknowledged),
        "acknowledged_by": incident.acknowledged_by,
        "closed_because": incident.closed_because,
        "summary": incident.summary,
        "reason": incident.reason,
    }
    return {
        "id": str(incident.id),
        "camera": incident.camera,
        "rule": incident.rule,
        "rule_version": incident.rule_version,
        "severity": incident.severity,
        "state": incident.state,
        "first_seen_at": write_instant(incident.first_seen_at),
        "opened_at": incident.opened_at and write_instant(incident.opened_at),
        "last_seen_at": write_instant(incident.last_seen_at),
        "closed_at": incident.closed_at and write_instant(incident.closed_at),
        "evidence": list(incident.evidence),
        "revision": incident.revision,
    } | {name: value for name, value in later.items() if value}


def _window(value: bytes) -> Window:
    if len(value) > MAX_WINDOW_BYTES:
        raise ValueError(f"a window of {len(value)} bytes, more than {MAX_WINDOW_BYTES}")
    fields, jpegs = unframe(_WINDOW_MAGIC, value)
    camera = fields.text("camera", MAX_NAME)
    clock_fields = fields.part("clock")
    clock = Clock(
        source=clock_fields.one_of("source", ClockSource),
        offset=clock_fields.number("offset", -1e12, 1e12),
    )
    clock_fields.end()
    after_gap = fields.flag("after_gap")
    stills = _stills(fields.items("stills", MAX_STILLS), jpegs)
    covers = fields.maybe_part("covers")
    is_set_back = fields.has("is_set_back") and fields.flag("is_set_back")
    fields.end()
    return Window(
        camera=camera,
        stills=stills,
        clock=clock,
        after_gap=after_gap,
        covers=None if covers is None else _span(covers),
        is_set_back=is_set_back,
    )


def _span(fields: Fields) -> Span:
    span = Span(start=fields.instant("start"), end=fields.instant("end"))
    fields.end()
    if span.start > span.end:
        raise ValueError(_BACKWARDS)
    return span


def _span_fields(span: Span) -> dict[str, str]:
    return {"start": write_instant(span.start), "end": write_instant(span.end)}


def _stills(items: list[Any], jpegs: bytes) -> tuple[Still, ...]:
    stills: list[Still] = []
    start = 0
    for fields in map(Fields, items):
        end = start + fields.count("bytes", 1, MAX_WINDOW_BYTES)
        still = Still(
            at=fields.instant("at"),
            jpeg=jpegs[start:end],
            width=fields.count("width", 1, MAX_SIDE),
            height=fields.count("height", 1, MAX_SIDE),
        )
        fields.end()
        if stills and still.at <= stills[-1].at:
            raise ValueError(_UNORDERED)
        stills.append(still)
        start = end
    if start != len(jpegs):
        raise ValueError(f"stills: {start} bytes named, {len(jpegs)} there")
    return tuple(stills)


def _finding(value: bytes) -> Finding:
    fields = versioned(value, "longwatch.finding.v1")
    finding = Finding(
        window_id=fields.text("window_id", MAX_WINDOW_ID),
        camera=fields.text("camera", MAX_NAME),
        question=fields.text("question", MAX_NAME),
        question_version=fields.text("question_version", MAX_NAME),
        start=fields.instant("start"),
        end=fields.instant("end"),
        score=fields.number("score", 0.0, 1.0),
        margin=fields.number("margin", -1e9, 1e9),
        answer=fields.one_of("answer", Answer),
        since=fields.instant("since"),
        model=fields.text("model", MAX_ID),
        memory_span=fields.number("memory_span", 0.0, 1e9),
        second_look=fields.maybe_number("second_look", 0.0, 1.0),
        zone=fields.maybe_text("zone", MAX_NAME),
    )
    fields.end()
    if not (finding.start <= finding.end and finding.since <= finding.end):
        raise ValueError("start and since: not before end")
    return finding


def _incident(value: bytes) -> Incident:
    fields = versioned(value, "longwatch.incident.v1")
    evidence = fields.items("evidence", MAX_EVIDENCE)
    acknowledged = fields.has("acknowledged_at")
    incident = Incident(
        id=uuid_of(fields.text("id", 36)),
        camera=fields.text("camera", MAX_NAME),
        rule=fields.text("rule", MAX_NAME),
        rule_version=fields.text("rule_version", MAX_NAME),
        severity=fields.text("severity", MAX_NAME),
        state=fields.one_of("state", IncidentState),
        first_seen_at=fields.instant("first_seen_at"),
        opened_at=fields.maybe_instant("opened_at"),
        last_seen_at=fields.instant("last_seen_at"),
        closed_at=fields.maybe_instant("closed_at"),
        evidence=tuple(Fields({"evidence": id}).text("evidence", MAX_ID) for id in evidence),
        revision=fields.count("revision", 1, MAX_POSITION),
        acknowledged_at=fields.instant("acknowledged_at") if acknowledged else None,
        acknowledged_by=fields.maybe_text("acknowledged_by", MAX_NAME),
        closed_because=fields.maybe_text("closed_because", MAX_ID),
        summary=fields.maybe_text("summary", MAX_ID) or "",
        reason=fields.maybe_text("reason", MAX_REASON) or "",
    )
    fields.end()
    _check_life(incident)
    return incident


def _check_life(incident: Incident) -> None:
    opened = incident.state not in (IncidentState.PENDING, IncidentState.DISMISSED)
    closed = incident.state in (IncidentState.RESOLVED, IncidentState.DISMISSED)
    if (incident.opened_at is not None, incident.closed_at is not None) != (
        opened,
        closed,
    ):
        raise ValueError(f"opened_at and closed_at: not those of state {incident.state}")
    life = (incident.first_seen_at, incident.opened_at, incident.closed_at)
    known = [instant for instant in life if instant is not None]
    if known != sorted(known) or incident.last_seen_at < incident.first_seen_at:
        raise ValueError("first seen, opened and closed: not in this order")


def _dead(value: bytes) -> Dead:
    fields, original = unframe(_DEAD_MAGIC, value)
    dead = Dead(
        topic=fields.text("topic", MAX_NAME),
        position=fields.count("position", 0, MAX_POSITION),
        key=fields.text("key", MAX_ID),
        reason=fields.text("reason", MAX_ID),
        value=original,
        size=fields.count("size", len(original) + 1, MAX_POSITION) if fields.has("size") else 0,
        sha256=fields.maybe_text("sha256", 64) or "",
    )
    fields.end()
    if dead.is_whole == bool(dead.sha256):
        raise ValueError("size and sha256: one without the other")
    return dead
