"""Write the records as bytes, and read them.

Windows and dead letters are framed: a magic of 4 bytes, the version (16 bits), the length of a
JSON header (32 bits, big endian), the header, then raw bytes. Findings and incidents are JSON
objects that carry their version. decode_* returns a whole record or raises Unreadable, whatever
the bytes; encode_* raises ValueError for what no reader accepts.
"""

from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from typing import Annotated, Any, cast

from pydantic import AfterValidator, PlainSerializer, ValidationInfo

from storage.records.framing import (
    decode_record,
    decode_strictly,
    encode_record,
    frame,
    from_fields,
    to_fields,
    unframe,
)
from storage.records.json_types import (
    AS_FLOAT,
    AS_WHOLE,
    FieldTypes,
    Flag,
    Instant,
    Uuid,
    items,
    record_adapter,
    text,
    within,
)
from storage.records.records import (
    ClockSource,
    DeadLetter,
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
"""So that the id of a finding, which also names its question and version, fits into MAX_ID."""
MAX_STILLS = 256
MAX_SIDE = 16384
MAX_WINDOW_BYTES = 16 * 2**20
MAX_EVIDENCE = 16
MAX_REASON = 500
MAX_OFFSET = 2**53

_WINDOW_MAGIC = b"LWwi"
_DEAD_MAGIC = b"LWde"
Name = Annotated[str, text(MAX_NAME)]
Id = Annotated[str, text(MAX_ID)]
Reason = Annotated[str, text(MAX_REASON)]
Score = Annotated[float, within(0.0, 1.0), AS_FLOAT]
Margin = Annotated[float, within(-1e9, 1e9), AS_FLOAT]
_Count = Annotated[int, within(1, MAX_OFFSET), AS_WHOLE]
_Side = Annotated[int, within(1, MAX_SIDE), AS_WHOLE]


def _check_span(span: TimeSpan) -> TimeSpan:
    if span.start > span.end:
        raise ValueError("start: after end")
    return span


Span = Annotated[TimeSpan, FieldTypes(start=Instant, end=Instant), AfterValidator(_check_span)]


def _take_jpeg(size: int, info: ValidationInfo) -> bytes:
    """Read the next picture from the body, which is the context."""
    jpeg: bytes = cast("BytesIO", info.context).read(size)
    if len(jpeg) < size:
        raise ValueError("more bytes named than there are")
    return jpeg


def _check_stills(window: Window) -> Window:
    if any(earlier.at >= later.at for earlier, later in pairwise(window.stills)):
        raise ValueError("stills: not strictly increasing in time")
    return window


_Jpeg = Annotated[
    int,
    within(1, MAX_WINDOW_BYTES),
    AS_WHOLE,
    AfterValidator(_take_jpeg),
    PlainSerializer(len),
]
_Still = Annotated[
    Still,
    FieldTypes(names={"jpeg": "bytes"}, at=Instant, width=_Side, height=_Side, jpeg=_Jpeg),
]
_Clock = Annotated[
    WindowClock,
    FieldTypes(source=ClockSource, offset=Annotated[float, within(-1e12, 1e12), AS_FLOAT]),
]
_WINDOW = record_adapter(
    Window,
    check=_check_stills,
    camera=Name,
    clock=_Clock,
    after_gap=Flag,
    stills=Annotated[tuple[_Still, ...], items(MAX_STILLS)],
    covers=Span,
    is_set_back=Flag,
)


def encode_window(window: Window) -> bytes:
    """Write a window, JPEGs as they are."""
    header, body = to_fields(_WINDOW, window), b"".join(still.jpeg for still in window.stills)
    _read_window(header, body)
    value = frame(_WINDOW_MAGIC, header, body)
    _check_window_size(value)
    return value


def decode_window(value: bytes) -> Window:
    """Read a window."""
    return decode_strictly(_parse_window, value)


def _parse_window(value: bytes) -> Window:
    _check_window_size(value)
    return _read_window(*unframe(_WINDOW_MAGIC, value))


def _check_window_size(value: bytes) -> None:
    if len(value) > MAX_WINDOW_BYTES:
        raise ValueError(f"a window of {len(value)} bytes, more than {MAX_WINDOW_BYTES}")


def _read_window(header: dict[str, Any], body: bytes) -> Window:
    jpegs = BytesIO(body)
    window = from_fields(_WINDOW, header, jpegs)
    if jpegs.tell() != len(body):
        raise ValueError("stills: fewer bytes named than there are")
    return window


def _check_finding(finding: Finding) -> Finding:
    if not (finding.start <= finding.end and finding.since <= finding.end):
        raise ValueError("start and since: not before end")
    return finding


FINDING = record_adapter(
    Finding,
    check=_check_finding,
    window_id=Annotated[str, text(MAX_WINDOW_ID)],
    camera=Name,
    question=Name,
    question_version=Name,
    start=Instant,
    end=Instant,
    score=Score,
    margin=Margin,
    answer=YesNoAnswer,
    since=Instant,
    model=Id,
    memory_span=Annotated[float, within(0.0, 1e9), AS_FLOAT],
    second_look=Score,
    zone=Name,
)


def encode_finding(finding: Finding) -> bytes:
    """Write a finding."""
    return encode_record(FINDING, finding)


def decode_finding(value: bytes) -> Finding:
    """Read a finding."""
    return decode_record(FINDING, value, "longwatch.finding.v1")


def finding_fields(finding: Finding) -> dict[str, Any]:
    """Return a finding as a JSON object; fields that were added later only if they are set."""
    return to_fields(FINDING, finding)


def _check_lifecycle(incident: Incident) -> Incident:
    opened = incident.state not in (IncidentState.PENDING, IncidentState.DISMISSED)
    closed = incident.state in (IncidentState.RESOLVED, IncidentState.DISMISSED)
    if (incident.opened_at is not None, incident.closed_at is not None) != (opened, closed):
        raise ValueError(f"opened_at and closed_at: not those of state {incident.state}")
    lifecycle = (incident.first_seen_at, incident.opened_at, incident.closed_at)
    known = [instant for instant in lifecycle if instant is not None]
    if known != sorted(known) or incident.last_seen_at < incident.first_seen_at:
        raise ValueError("first seen, opened and closed: not in this order")
    return incident


INCIDENT = record_adapter(
    Incident,
    check=_check_lifecycle,
    id=Uuid,
    camera=Name,
    rule=Name,
    rule_version=Name,
    severity=Name,
    state=IncidentState,
    first_seen_at=Instant,
    opened_at=Instant | None,
    last_seen_at=Instant,
    closed_at=Instant | None,
    evidence=Annotated[tuple[Id, ...], items(MAX_EVIDENCE)],
    revision=_Count,
    acknowledged_at=Instant,
    acknowledged_by=Name,
    closed_because=Id,
    summary=Id,
    reason=Reason,
)


def encode_incident(incident: Incident) -> bytes:
    """Write an incident."""
    return encode_record(INCIDENT, incident)


def decode_incident(value: bytes) -> Incident:
    """Read an incident."""
    return decode_record(INCIDENT, value, "longwatch.incident.v1")


def incident_fields(incident: Incident) -> dict[str, Any]:
    """Return an incident as the JSON object that topics, webhooks and the CLI show.

    It has the fields that were added later only if they are set; a consumer ignores those that
    it does not know.
    """
    return to_fields(INCIDENT, incident)


def _check_original(dead_letter: DeadLetter) -> DeadLetter:
    if dead_letter.is_whole == bool(dead_letter.sha256):
        raise ValueError("size and sha256: one without the other")
    return dead_letter


_DEAD_LETTER = record_adapter(
    DeadLetter,
    check=_check_original,
    names={"offset": "position"},
    topic=Name,
    offset=Annotated[int, within(0, MAX_OFFSET), AS_WHOLE],
    key=Id,
    reason=Id,
    size=_Count,
    sha256=Name,
)


def encode_dead_letter(dead_letter: DeadLetter) -> bytes:
    """Write an entry that could not be read, its bytes as they are."""
    header = to_fields(_DEAD_LETTER, dead_letter)
    _read_dead_letter(header, dead_letter.value)
    return frame(_DEAD_MAGIC, header, dead_letter.value)


def decode_dead_letter(value: bytes) -> DeadLetter:
    """Read an entry that could not be read."""
    return decode_strictly(_parse_dead_letter, value)


def _parse_dead_letter(value: bytes) -> DeadLetter:
    return _read_dead_letter(*unframe(_DEAD_MAGIC, value))


def _read_dead_letter(header: dict[str, Any], body: bytes) -> DeadLetter:
    """Build the record; until `replace` adds them, it is without its bytes."""
    dead_letter = from_fields(_DEAD_LETTER, header)
    if not dead_letter.is_whole and dead_letter.size <= len(body):
        raise ValueError(f"size: not more than the {len(body)} bytes that are there")
    return replace(dead_letter, value=body)
