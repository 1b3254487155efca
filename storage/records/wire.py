"""The bytes of the records, and back.

Windows and dead entries are framed: a magic of 4 bytes, the version (16 bits), the length of a
JSON header (32 bits, big endian), the header, then raw bytes. Findings and incidents are JSON
objects that carry their version. Reading is exact: decode_* returns a whole record or raises
Unreadable, whatever the bytes; encode_* raises ValueError for what no reader would take.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from storage.records.framing import (
    VERSION,
    check_decodable,
    decode_strictly,
    encode_json,
    frame,
    parse_uuid,
    parse_versioned,
    unframe,
)
from storage.records.json_fields import JsonFields, format_instant
from storage.records.records import (
    ClockSource,
    Finding,
    Incident,
    IncidentState,
    Still,
    TimeSpan,
    Window,
    WindowClock,
    YesNoAnswer,
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
MAX_OFFSET = 2**53

_UNORDERED_STILLS = "stills: not strictly increasing in time"
_REVERSED_SPAN = "start: after end"
_WINDOW_MAGIC = b"LWwi"
_DEAD_MAGIC = b"LWde"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A log entry that could not be read: where it was, why, and its own bytes.

    Where its bytes are too many, `value` are the first ones, `size` is how many they were, and
    `sha256` is the digest of all. A `size` of 0 means that `value` is whole.
    """

    topic: str
    offset: int
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
            "at": format_instant(still.at),
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
    fields = JsonFields(
        {"camera": window.camera, "offset": float(window.clock.offset), "stills": stills}
    )
    fields.text("camera", MAX_NAME)
    fields.number("offset", -1e12, 1e12)
    fields.items("stills", MAX_STILLS)
    for still in stills:
        sides = JsonFields({"bytes": len(still.jpeg), "width": still.width, "height": still.height})
        sides.count("bytes", 1, MAX_WINDOW_BYTES)
        sides.count("width", 1, MAX_SIDE)
        sides.count("height", 1, MAX_SIDE)
    if any(one.at >= other.at for one, other in pairwise(stills)):
        raise ValueError(_UNORDERED_STILLS)
    if window.covers is not None and window.covers.start > window.covers.end:
        raise ValueError(_REVERSED_SPAN)


def decode_window(value: bytes) -> Window:
    """Read a window."""
    return decode_strictly(_parse_window, value)


def encode_finding(finding: Finding) -> bytes:
    """Write a finding."""
    return check_decodable(
        decode_finding, encode_json({"version": VERSION} | finding_fields(finding))
    )


def decode_finding(value: bytes) -> Finding:
    """Read a finding."""
    return decode_strictly(_parse_finding, value)


def encode_incident(incident: Incident) -> bytes:
    """Write an incident."""
    return check_decodable(
        decode_incident, encode_json({"version": VERSION} | incident_fields(incident))
    )


def decode_incident(value: bytes) -> Incident:
    """Read an incident."""
    return decode_strictly(_parse_incident, value)


def encode_dead_letter(dead_letter: DeadLetter) -> bytes:
    """Write an entry that could not be read, its bytes as they are."""
    header = {
        "topic": dead_letter.topic,
        "position": dead_letter.offset,
        "key": dead_letter.key,
        "reason": dead_letter.reason,
    } | ({} if dead_letter.is_whole else {"size": dead_letter.size, "sha256": dead_letter.sha256})
    return check_decodable(decode_dead_letter, frame(_DEAD_MAGIC, header, dead_letter.value))


def decode_dead_letter(value: bytes) -> DeadLetter:
    """Read an entry that could not be read."""
    return decode_strictly(_parse_dead_letter, value)


def finding_fields(finding: Finding) -> dict[str, Any]:
    """Return a finding as a JSON object; fields that were added later only where they are set."""
    fields = {
        "window_id": finding.window_id,
        "camera": finding.camera,
        "question": finding.question,
        "question_version": finding.question_version,
        "start": format_instant(finding.start),
        "end": format_instant(finding.end),
        "score": float(finding.score),
        "margin": float(finding.margin),
        "answer": finding.answer,
        "since": format_instant(finding.since),
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
    optional = {
        "acknowledged_at": acknowledged and format_instant(acknowledged),
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
        "first_seen_at": format_instant(incident.first_seen_at),
        "opened_at": incident.opened_at and format_instant(incident.opened_at),
        "last_seen_at": format_instant(incident.last_seen_at),
        "closed_at": incident.closed_at and format_instant(incident.closed_at),
        "evidence": list(incident.evidence),
        "revision": incident.revision,
    } | {name: value for name, value in optional.items() if value}


def _parse_window(value: bytes) -> Window:
    if len(value) > MAX_WINDOW_BYTES:
        raise ValueError(f"a window of {len(value)} bytes, more than {MAX_WINDOW_BYTES}")
    fields, jpegs = unframe(_WINDOW_MAGIC, value)
    camera = fields.text("camera", MAX_NAME)
    clock_fields = fields.child("clock")
    clock = WindowClock(
        source=clock_fields.one_of("source", ClockSource),
        offset=clock_fields.number("offset", -1e12, 1e12),
    )
    clock_fields.require_empty()
    after_gap = fields.flag("after_gap")
    stills = _parse_stills(fields.items("stills", MAX_STILLS), jpegs)
    covers = fields.maybe_child("covers")
    is_set_back = fields.has("is_set_back") and fields.flag("is_set_back")
    fields.require_empty()
    return Window(
        camera=camera,
        stills=stills,
        clock=clock,
        after_gap=after_gap,
        covers=None if covers is None else _parse_span(covers),
        is_set_back=is_set_back,
    )


def _parse_span(fields: JsonFields) -> TimeSpan:
    span = TimeSpan(start=fields.instant("start"), end=fields.instant("end"))
    fields.require_empty()
    if span.start > span.end:
        raise ValueError(_REVERSED_SPAN)
    return span


def _span_fields(span: TimeSpan) -> dict[str, str]:
    return {"start": format_instant(span.start), "end": format_instant(span.end)}


def _parse_stills(items: list[Any], jpegs: bytes) -> tuple[Still, ...]:
    stills: list[Still] = []
    start = 0
    for fields in map(JsonFields, items):
        end = start + fields.count("bytes", 1, MAX_WINDOW_BYTES)
        still = Still(
            at=fields.instant("at"),
            jpeg=jpegs[start:end],
            width=fields.count("width", 1, MAX_SIDE),
            height=fields.count("height", 1, MAX_SIDE),
        )
        fields.require_empty()
        if stills and still.at <= stills[-1].at:
            raise ValueError(_UNORDERED_STILLS)
        stills.append(still)
        start = end
    if start != len(jpegs):
        raise ValueError(f"stills: {start} bytes named, {len(jpegs)} there")
    return tuple(stills)


def _parse_finding(value: bytes) -> Finding:
    fields = parse_versioned(value, "longwatch.finding.v1")
    finding = Finding(
        window_id=fields.text("window_id", MAX_WINDOW_ID),
        camera=fields.text("camera", MAX_NAME),
        question=fields.text("question", MAX_NAME),
        question_version=fields.text("question_version", MAX_NAME),
        start=fields.instant("start"),
        end=fields.instant("end"),
        score=fields.number("score", 0.0, 1.0),
        margin=fields.number("margin", -1e9, 1e9),
        answer=fields.one_of("answer", YesNoAnswer),
        since=fields.instant("since"),
        model=fields.text("model", MAX_ID),
        memory_span=fields.number("memory_span", 0.0, 1e9),
        second_look=fields.maybe_number("second_look", 0.0, 1.0),
        zone=fields.maybe_text("zone", MAX_NAME),
    )
    fields.require_empty()
    if not (finding.start <= finding.end and finding.since <= finding.end):
        raise ValueError("start and since: not before end")
    return finding


def _parse_incident(value: bytes) -> Incident:
    fields = parse_versioned(value, "longwatch.incident.v1")
    evidence = fields.items("evidence", MAX_EVIDENCE)
    acknowledged = fields.has("acknowledged_at")
    incident = Incident(
        id=parse_uuid(fields.text("id", 36)),
        camera=fields.text("camera", MAX_NAME),
        rule=fields.text("rule", MAX_NAME),
        rule_version=fields.text("rule_version", MAX_NAME),
        severity=fields.text("severity", MAX_NAME),
        state=fields.one_of("state", IncidentState),
        first_seen_at=fields.instant("first_seen_at"),
        opened_at=fields.maybe_instant("opened_at"),
        last_seen_at=fields.instant("last_seen_at"),
        closed_at=fields.maybe_instant("closed_at"),
        evidence=tuple(JsonFields({"evidence": id}).text("evidence", MAX_ID) for id in evidence),
        revision=fields.count("revision", 1, MAX_OFFSET),
        acknowledged_at=fields.instant("acknowledged_at") if acknowledged else None,
        acknowledged_by=fields.maybe_text("acknowledged_by", MAX_NAME),
        closed_because=fields.maybe_text("closed_because", MAX_ID),
        summary=fields.maybe_text("summary", MAX_ID) or "",
        reason=fields.maybe_text("reason", MAX_REASON) or "",
    )
    fields.require_empty()
    _check_lifecycle(incident)
    return incident


def _check_lifecycle(incident: Incident) -> None:
    opened = incident.state not in (IncidentState.PENDING, IncidentState.DISMISSED)
    closed = incident.state in (IncidentState.RESOLVED, IncidentState.DISMISSED)
    if (incident.opened_at is not None, incident.closed_at is not None) != (
        opened,
        closed,
    ):
        raise ValueError(f"opened_at and closed_at: not those of state {incident.state}")
    lifecycle = (incident.first_seen_at, incident.opened_at, incident.closed_at)
    known = [instant for instant in lifecycle if instant is not None]
    if known != sorted(known) or incident.last_seen_at < incident.first_seen_at:
        raise ValueError("first seen, opened and closed: not in this order")


def _parse_dead_letter(value: bytes) -> DeadLetter:
    fields, original = unframe(_DEAD_MAGIC, value)
    dead_letter = DeadLetter(
        topic=fields.text("topic", MAX_NAME),
        offset=fields.count("position", 0, MAX_OFFSET),
        key=fields.text("key", MAX_ID),
        reason=fields.text("reason", MAX_ID),
        value=original,
        size=fields.count("size", len(original) + 1, MAX_OFFSET) if fields.has("size") else 0,
        sha256=fields.maybe_text("sha256", 64) or "",
    )
    fields.require_empty()
    if dead_letter.is_whole == bool(dead_letter.sha256):
        raise ValueError("size and sha256: one without the other")
    return dead_letter
