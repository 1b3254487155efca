import json
import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.storage.fixtures import START, a_finding, a_window, an_incident
from storage.errors import Unreadable
from storage.records import wire
from storage.records.claims import decode_claim
from storage.records.json_types import parse_instant
from storage.records.queries import QueryRequest
from storage.records.query_wire import decode_request, encode_request
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

patient = settings(deadline=None)  # a busy machine is no failure

GOLDEN = Path(__file__).parent / "golden" / "wire"
A_DEAD = DeadLetter(
    topic="windows", offset=3, key="dock", reason="another magic", value=b"\x00\xffno"
)

A_REQUEST = QueryRequest(
    id=UUID(int=1), camera="dock", ask="Is there a bag?", look_back=None, expires_at=START
)

Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]
CODECS: dict[str, Codec] = {
    "window": (wire.encode_window, wire.decode_window),
    "finding": (wire.encode_finding, wire.decode_finding),
    "incident": (wire.encode_incident, wire.decode_incident),
    "dead": (wire.encode_dead_letter, wire.decode_dead_letter),
}
RECORDS = {
    "window": a_window(),
    "finding": a_finding(),
    "incident": an_incident(revision=2, state=IncidentState.RESOLVED),
    "dead": A_DEAD,
}

names = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=64)
instants = st.datetimes(timezones=st.just(UTC))
unit = st.floats(0, 1)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    seconds = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=5, unique=True))
    stills = tuple(
        Still(
            at=START + timedelta(milliseconds=at),
            jpeg=draw(st.binary(min_size=1, max_size=30)),
            width=draw(st.integers(1, wire.MAX_SIDE)),
            height=draw(st.integers(1, wire.MAX_SIDE)),
        )
        for at in sorted(seconds)
    )
    source = draw(st.sampled_from(ClockSource))
    clock = WindowClock(source=source, offset=draw(st.floats(-1e12, 1e12)))
    began, ended = sorted(draw(st.tuples(instants, instants)))
    return Window(
        camera=draw(names),
        stills=stills,
        clock=clock,
        after_gap=draw(st.booleans()),
        covers=draw(st.none() | st.just(TimeSpan(start=began, end=ended))),
        is_set_back=draw(st.booleans()),
    )


@st.composite
def findings(draw: st.DrawFn) -> Finding:
    start, since, end = sorted(draw(st.tuples(instants, instants, instants)))
    return Finding(
        window_id=draw(names),
        camera=draw(names),
        question=draw(names),
        question_version=draw(names),
        start=start,
        end=end,
        score=draw(unit),
        margin=draw(st.floats(-1e9, 1e9)),
        answer=draw(st.sampled_from(YesNoAnswer)),
        since=since,
        model=draw(names),
        memory_span=draw(st.floats(0, 1e9)),
        second_look=draw(st.none() | unit),
        zone=draw(st.none() | names),
    )


@patient
@given(windows())
def test_window_comes_back_as_it_was(window: Window) -> None:
    assert wire.decode_window(wire.encode_window(window)) == window


@st.composite
def odd_windows(draw: st.DrawFn) -> Window:
    """Draw a window one thing of which may be what no reader takes."""
    window = draw(windows())
    still = draw(st.sampled_from(window.stills))
    side = st.sampled_from([-1, 0, 1, wire.MAX_SIDE, wire.MAX_SIDE + 1])
    odd: dict[str, Any] = draw(
        st.sampled_from(
            [
                {"camera": draw(st.text(max_size=66))},
                {"stills": draw(st.permutations(window.stills))},
                {"stills": (*window.stills, still)},
                {"stills": (replace(still, width=draw(side), height=draw(side)),)},
                {"stills": (replace(still, jpeg=draw(st.binary(max_size=1))),)},
                {"stills": ()},
                {"clock": replace(window.clock, offset=draw(st.floats()))},
                {"covers": TimeSpan(start=draw(instants), end=draw(instants))},
            ]
        )
    )
    odd = {key: tuple(value) if key == "stills" else value for key, value in odd.items()}
    return replace(window, **odd)


@settings(patient, max_examples=500)
@given(odd_windows())
def test_what_is_written_of_a_window_is_read_back_and_all_else_is_refused(window: Window) -> None:
    """The writer does not read what it wrote: its checks have to be the reader's."""
    try:
        value = wire.encode_window(window)
    except ValueError:
        return
    assert wire.decode_window(value) == window


@patient
@given(findings())
def test_finding_comes_back_as_it_was(finding: Finding) -> None:
    assert wire.decode_finding(wire.encode_finding(finding)) == finding


@patient
@given(
    st.sampled_from(IncidentState), st.integers(1, 2**53), st.lists(names, min_size=1, max_size=16)
)
def test_incident_comes_back_as_it_was(
    state: IncidentState, revision: int, evidence: list[str]
) -> None:
    incident = replace(an_incident(revision, state), evidence=tuple(evidence))
    assert wire.decode_incident(wire.encode_incident(incident)) == incident


@patient
@given(st.binary(max_size=100), st.integers(0, 2**53))
def test_dead_entry_comes_back_as_it_was(value: bytes, position: int) -> None:
    dead = replace(A_DEAD, value=value, offset=position)
    assert wire.decode_dead_letter(wire.encode_dead_letter(dead)) == dead


@pytest.mark.parametrize("kind", CODECS)
def test_bytes_of_version_1_stay_readable(kind: str) -> None:
    encode, decode = CODECS[kind]
    golden = (GOLDEN / f"{kind}.v1").read_bytes()
    assert decode(golden) == RECORDS[kind]
    assert encode(RECORDS[kind]) == golden


def test_bytes_of_an_incident_with_a_reason_stay_readable() -> None:
    golden = (GOLDEN / "incident-with-reason.v1").read_bytes()
    incident = replace(an_incident(), reason="10.0.0.21 refuses the user or the password")
    assert wire.decode_incident(golden) == incident
    assert wire.encode_incident(incident) == golden


def only_unreadable(kind: str, value: bytes) -> None:
    encode, decode = CODECS[kind]
    try:
        record = decode(value)
    except Unreadable as error:
        assert wire.encode_dead_letter(replace(A_DEAD, reason=error.reason))
    else:
        assert decode(encode(record)) == record


@pytest.mark.parametrize("kind", CODECS)
@patient
@given(value=st.binary(max_size=200))
@example(value=b"[" * 60_000)
@example(value=b'{"a":' * 10_000)
@example(value=b"9" * 5_000)
@example(value=b'{"version":1' + b"0" * 400 + b"}")
@example(value=b"\xff\xfe")
def test_any_bytes_are_a_record_or_unreadable(kind: str, value: bytes) -> None:
    only_unreadable(kind, value)


@pytest.mark.parametrize("kind", CODECS)
@patient
@given(data=st.data())
def test_damaged_bytes_are_a_record_or_unreadable(kind: str, data: st.DataObject) -> None:
    encode, _ = CODECS[kind]
    value = bytearray(encode(RECORDS[kind]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(value) - 1))
        value[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(value)))
    only_unreadable(kind, bytes(value))
    only_unreadable(kind, bytes(value[:cut]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", CODECS)
@patient
@given(data=st.data())
def test_any_field_with_any_json_is_a_record_or_unreadable(kind: str, data: st.DataObject) -> None:
    header, body = parts(kind)
    places = [header, *(part for part in header.values() if isinstance(part, dict))]
    places += [
        part
        for item in header.values()
        if isinstance(item, list)
        for part in item
        if isinstance(part, dict)
    ]
    place = data.draw(st.sampled_from(places))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    only_unreadable(kind, put_together(kind, header, body))


def parts(kind: str) -> tuple[dict[str, Any], bytes]:
    value = CODECS[kind][0](RECORDS[kind])
    if kind in ("finding", "incident"):
        return json.loads(value), b""
    _, _, length = struct.unpack_from(">4sHI", value)
    return json.loads(value[10 : 10 + length]), value[10 + length :]


def put_together(kind: str, header: dict[str, Any], body: bytes) -> bytes:
    head = json.dumps(header).encode()
    if kind in ("finding", "incident"):
        return head
    magic = {"window": b"LWwi", "dead": b"LWde"}[kind]
    return struct.pack(">4sHI", magic, 1, len(head)) + head + body


@pytest.mark.parametrize("kind", CODECS)
def test_unknown_and_missing_fields_are_unreadable(kind: str) -> None:
    header, body = parts(kind)
    with pytest.raises(Unreadable, match="1 unknown fields"):
        CODECS[kind][1](put_together(kind, header | {"more": 1}, body))
    for name in header:
        rest = {key: value for key, value in header.items() if key != name}
        with pytest.raises(Unreadable, match=f"{name}: missing"):
            CODECS[kind][1](put_together(kind, rest, body))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("score", 1.5, "score: Input should be less than or equal to"),
        ("score", float("nan"), "NaN is no number"),
        ("score", 2, "score: Input should be less than or equal to"),
        ("score", "1", "score: Input should be a valid number"),
        ("score", True, "score: Input should be a valid number"),
        ("margin", float("inf"), "Infinity is no number"),
        ("answer", "maybe", "answer: Input should be 'yes' or 'no'"),
        ("camera", "", "camera: String should have at least 1 character"),
        ("camera", "d" * 65, "camera: String should have at most 64 characters"),
        ("camera", "do\nck", "camera: not printable characters"),
        ("camera", "\ud800", "camera: Input should be a valid string"),
        ("end", "2026-11-22T08:00:00", "end: not an RFC 3339 date-time"),
        ("end", "20261122T080000Z", "end: not an RFC 3339 date-time"),
        ("end", "2026-11-22T08:00Z", "end: not an RFC 3339 date-time"),
        ("end", "2026-11-22T08:00:00.Z", "end: not an RFC 3339 date-time"),
        ("end", "2026-11-22T08:00:00,5Z", "end: not an RFC 3339 date-time"),
        ("end", "2026-11-22T08:00:00+0000", "end: not an RFC 3339 date-time"),
        ("end", "2026-11-22T08:00:00+00:60", "end: not an RFC 3339 date-time"),
        ("end", "2026-11-22T24:00:00Z", "end: not an RFC 3339 date-time"),
        ("end", "2026-11-31T08:00:00Z", "end: not an RFC 3339 date-time of the years"),
        ("end", "0001-01-01T00:00:00+01:00", "end: not an RFC 3339 date-time of the years"),
        ("end", "9999-12-31T23:59:60Z", "end: not an RFC 3339 date-time of the years"),
        ("end", "2026-11-22T07:00:00+00:00", "start and since: not before end"),
        ("since", "2026-11-22T09:00:00+00:00", "start and since: not before end"),
        ("zone", "", "zone: String should have at least 1 character"),
        ("zone", None, "zone: Input should be a valid string"),
        ("version", 2, "version 2, not 1"),
        ("version", True, "version: not a version number"),
    ],
)
def test_findings_are_read_exactly(field: str, value: object, reason: str) -> None:
    header, _ = parts("finding")
    with pytest.raises(Unreadable, match=reason):
        wire.decode_finding(json.dumps(header | {field: value}).encode())


def test_older_reader_takes_findings_about_the_whole_picture() -> None:
    """What was added later is there only where it is set: unknown fields are refused."""
    header, _ = parts("finding")
    plain = wire.decode_finding(json.dumps(header).encode())
    assert not {"zone", "second_look"} & wire.finding_fields(plain).keys()
    assert wire.finding_fields(replace(plain, zone="yard"))["zone"] == "yard"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ((b"LWde", 1, 2), "another magic"),
        ((b"LWwi", 2, 2), "version 2, not 1"),
        ((b"LWwi", 1, 3), "a header of 3 bytes"),
        ((b"LWwi", 1, 2**32 - 1), "a header of 4294967295 bytes"),
    ],
)
def test_frames_are_read_exactly(frame: tuple[bytes, int, int], reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        wire.decode_window(struct.pack(">4sHI", *frame) + b"{}")


@pytest.mark.parametrize("kind", CODECS)
def test_json_is_bounded_before_it_is_parsed(kind: str) -> None:
    header, body = parts(kind)
    with pytest.raises(Unreadable, match=r"header of|more than 65536"):
        CODECS[kind][1](put_together(kind, header | {"more": "x" * 65536}, body))


@pytest.mark.parametrize("id", ["00000000000000000000000000000007", f"{{{UUID(int=7).hex}}}"])
def test_incident_id_is_read_in_its_usual_form_alone(id: str) -> None:
    header, _ = parts("incident")
    with pytest.raises(Unreadable, match="id: not a UUID in its usual form"):
        wire.decode_incident(json.dumps(header | {"id": id}).encode())


def test_number_too_large_for_a_float_is_unreadable() -> None:
    value = wire.encode_finding(a_finding()).replace(b'"margin":1.6', b'"margin":1e999')
    with pytest.raises(Unreadable, match="margin: Input should be less than or equal to"):
        wire.decode_finding(value)


def test_key_twice_is_unreadable() -> None:
    value = wire.encode_finding(a_finding()).replace(b'"camera"', b'"camera":"yard","camera"')
    with pytest.raises(Unreadable, match="a key twice"):
        wire.decode_finding(value)


def test_window_covers_no_time_backwards() -> None:
    covers = TimeSpan(start=START + timedelta(seconds=1), end=START)
    with pytest.raises(ValueError, match="start: after end"):
        wire.encode_window(replace(a_window(), covers=covers))


def test_stills_must_increase_in_time() -> None:
    window = a_window()
    with pytest.raises(ValueError, match="not strictly increasing"):
        wire.encode_window(replace(window, stills=window.stills + window.stills[-1:]))


@pytest.mark.parametrize("change", [-1, 1])
def test_picture_bytes_must_be_exactly_those_named(change: int) -> None:
    value = wire.encode_window(a_window())
    value = value[:change] if change < 0 else value + b"\0"
    with pytest.raises(Unreadable, match="bytes named"):
        wire.decode_window(value)


def test_counts_and_sizes_are_bounded() -> None:
    window = a_window()
    many = tuple(
        replace(window.stills[0], at=START + timedelta(seconds=n))
        for n in range(wire.MAX_STILLS + 1)
    )
    with pytest.raises(ValueError, match="stills: Tuple should have at most 256 items"):
        wire.encode_window(replace(window, stills=many))
    with pytest.raises(ValueError, match="stills: Tuple should have at least 1 item"):
        wire.encode_window(replace(window, stills=()))
    huge = replace(window.stills[0], jpeg=b"x" * wire.MAX_WINDOW_BYTES)
    with pytest.raises(ValueError, match="a window of"):
        wire.encode_window(replace(window, stills=(huge,)))
    with pytest.raises(ValueError, match="evidence: Tuple should have at most 16 items"):
        wire.encode_incident(replace(an_incident(), evidence=("f",) * 17))


@pytest.mark.parametrize(
    "incident",
    [
        replace(an_incident(), opened_at=None),
        replace(an_incident(), closed_at=START + timedelta(hours=1)),
        replace(an_incident(state=IncidentState.RESOLVED), closed_at=None),
        replace(an_incident(state=IncidentState.RESOLVED), closed_at=START),
        replace(an_incident(), last_seen_at=START - timedelta(seconds=1)),
        replace(an_incident(), first_seen_at=START + timedelta(hours=1)),
        replace(an_incident(), revision=0),
    ],
)
def test_incident_that_cannot_have_lived_is_refused(incident: Incident) -> None:
    with pytest.raises(ValueError, match=r"opened|last|first|revision"):
        wire.encode_incident(incident)


def test_time_of_another_zone_is_never_written() -> None:
    there = datetime(2026, 11, 22, 10, tzinfo=timezone(timedelta(hours=1)))
    with pytest.raises(ValueError, match=r"2026-11-22T10:00:00\+01:00: not an instant in UTC"):
        wire.encode_finding(replace(a_finding(), end=there))


@st.composite
def spelled(draw: st.DrawFn, at: datetime) -> str:
    """Write an instant in one of the ways of RFC 3339."""
    minutes = draw(st.integers(-23 * 60 - 59, 23 * 60 + 59))
    try:
        there = at.astimezone(timezone(timedelta(minutes=minutes)))
    except OverflowError:
        there, minutes = at, 0
    fraction = f"{there.microsecond:06}" + "0123456789"[: draw(st.integers(0, 10))]
    if int(fraction) == 0 and draw(st.booleans()):
        fraction = fraction[: draw(st.integers(1, 6))]
    sign, (hours, rest) = "+" if minutes >= 0 else "-", divmod(abs(minutes), 60)
    zone = f"{sign}{hours:02}:{rest:02}"
    if minutes == 0:
        zone = draw(st.sampled_from(["Z", "z", "+00:00", "-00:00"]))
    between = draw(st.sampled_from("Tt"))
    day = f"{there.year:04}-{there:%m-%d}"
    return f"{day}{between}{there:%H:%M:%S}.{fraction}{zone}"


@patient
@given(st.data(), findings())
def test_every_spelling_of_an_instant_is_the_same_finding(
    data: st.DataObject, finding: Finding
) -> None:
    fields = json.loads(wire.encode_finding(finding))
    for name in ("start", "end", "since"):
        fields[name] = data.draw(spelled(getattr(finding, name)))
    read = wire.decode_finding(json.dumps(fields).encode())
    assert (read, read.id) == (finding, finding.id)
    assert read.end.tzinfo is UTC
    assert wire.encode_finding(read) == wire.encode_finding(finding)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-22T08:00:00.123Z", datetime(2026, 11, 22, 8, 0, 0, 123000, UTC)),
        ("2026-11-22T08:00:00.9999999Z", datetime(2026, 11, 22, 8, 0, 0, 999999, UTC)),
        ("2026-11-22t09:30:00+01:30", datetime(2026, 11, 22, 8, tzinfo=UTC)),
        ("2016-12-31T15:59:60-08:00", datetime(2017, 1, 1, tzinfo=UTC)),
    ],
)
def test_instants_are_read_as_the_schema_says(text: str, at: datetime) -> None:
    assert parse_instant(text) == at
    request = json.loads(encode_request(A_REQUEST)) | {"expires_at": text}
    assert decode_request(json.dumps(request).encode()).expires_at == at
    claim = {"version": 1, "camera": "dock", "start": None, "end": text, "state": "shed"}
    assert decode_claim(json.dumps(claim).encode()).end == at
