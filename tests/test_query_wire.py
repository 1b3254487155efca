"""Requests and replies as bytes: exact, bounded, and nothing but the record or Unreadable."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.storage.fixtures import START, WINDOW_LENGTH
from storage.errors import Unreadable
from storage.records import query_wire
from storage.records.queries import QueryReply, QueryRequest
from storage.records.records import TimeSpan, YesNoAnswer

patient = settings(deadline=None)  # a busy machine is no failure

GOLDEN = Path(__file__).parent / "golden" / "wire"
A_REQUEST = QueryRequest(
    id=UUID(int=7),
    camera="dock",
    ask="Is there a bag that nobody is with?",
    look_back=timedelta(minutes=30),
    expires_at=START,
    in_words=True,
)
REFUSED = QueryReply(
    request_id=UUID(int=7), camera="dock", model="nano:0123abcd", refused="too long"
)
FORGOTTEN = replace(REFUSED, refused=None, forgotten=True)
ANSWERED = replace(
    FORGOTTEN,
    answer=YesNoAnswer.YES,
    score=0.93,
    margin=2.6,
    since=START + WINDOW_LENGTH,
    since_or_before=True,
    text="Yes, at the gate",
    remembers_from=START,
    until=START + 3 * WINDOW_LENGTH,
    dense=(
        TimeSpan(start=START, end=START + WINDOW_LENGTH),
        TimeSpan(start=START + WINDOW_LENGTH, end=START + 2 * WINDOW_LENGTH),
    ),
)

Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]
REQUEST: Codec = (query_wire.encode_request, query_wire.decode_request)
REPLY: Codec = (query_wire.encode_reply, query_wire.decode_reply)
CASES: dict[str, tuple[Codec, Any]] = {
    "request": (REQUEST, A_REQUEST),
    "answered": (REPLY, ANSWERED),
    "forgotten": (REPLY, FORGOTTEN),
    "refused": (REPLY, REFUSED),
}
SPAN = {"start": START.isoformat(), "end": (START + WINDOW_LENGTH).isoformat()}
OPTIONAL = {("request", "look_back"), ("answered", "score")}

names = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=64)
instants = st.datetimes(timezones=st.just(UTC))
seconds = st.integers(1000, 10**15).map(lambda n: timedelta(microseconds=n))


@patient
@given(names, names, st.none() | seconds, instants, st.booleans(), st.none() | names)
def test_request_comes_back_as_it_was(
    camera: str,
    ask: str,
    look_back: timedelta | None,
    expires_at: datetime,
    in_words: bool,
    zone: str | None,
) -> None:
    request = QueryRequest(
        id=UUID(int=1),
        camera=camera,
        ask=ask,
        look_back=look_back,
        expires_at=expires_at,
        in_words=in_words,
        zone=zone,
    )
    assert query_wire.decode_request(query_wire.encode_request(request)) == request


@patient
@given(
    st.tuples(instants, instants, instants).map(sorted),
    st.floats(0, 1),
    st.floats(-1e9, 1e9),
    st.none() | names,
    st.booleans(),
    st.lists(st.tuples(instants, instants).map(sorted), min_size=1, max_size=5),
)
def test_answer_comes_back_as_it_was(
    times: list[datetime],
    score: float,
    margin: float,
    text: str | None,
    flag: bool,
    spans: list[list[datetime]],
) -> None:
    reply = replace(
        ANSWERED,
        remembers_from=times[0],
        since=times[1],
        until=times[2],
        score=score,
        margin=margin,
        text=text,
        forgotten=flag,
        since_or_before=not flag,
        dense=tuple(TimeSpan(start=start, end=end) for start, end in spans),
        seen=tuple(TimeSpan(start=start, end=end) for start, end in spans[1:]),
    )
    assert query_wire.decode_reply(query_wire.encode_reply(reply)) == reply


@pytest.mark.parametrize("reply", [REFUSED, FORGOTTEN, ANSWERED, replace(ANSWERED, text=None)])
def test_each_kind_of_reply_comes_back_as_it_was(reply: QueryReply) -> None:
    assert query_wire.decode_reply(query_wire.encode_reply(reply)) == reply


@pytest.mark.parametrize("kind", CASES)
def test_bytes_of_version_1_stay_readable(kind: str) -> None:
    (encode, decode), record = CASES[kind]
    golden = (GOLDEN / f"{kind}.v1").read_bytes()
    assert decode(golden) == record
    assert encode(record) == golden


def only_unreadable(codec: Codec, value: bytes) -> None:
    encode, decode = codec
    try:
        record = decode(value)
    except Unreadable:
        return
    assert decode(encode(record)) == record


@pytest.mark.parametrize("codec", [REQUEST, REPLY])
@patient
@given(value=st.binary(max_size=200))
@example(value=b"[" * 60_000)
@example(value=b'{"version":1' + b"0" * 400 + b"}")
@example(value=b"\xff\xfe")
def test_any_bytes_are_a_record_or_unreadable(codec: Codec, value: bytes) -> None:
    only_unreadable(codec, value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", CASES)
@patient
@given(data=st.data())
def test_any_field_with_any_json_is_a_record_or_unreadable(kind: str, data: st.DataObject) -> None:
    codec, record = CASES[kind]
    fields = json.loads(codec[0](record))
    places = [fields, *fields.get("dense", [])]
    place = data.draw(st.sampled_from(places))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    only_unreadable(codec, json.dumps(fields).encode())


@pytest.mark.parametrize("kind", CASES)
@patient
@given(data=st.data())
def test_damaged_bytes_are_a_record_or_unreadable(kind: str, data: st.DataObject) -> None:
    codec, record = CASES[kind]
    value = bytearray(codec[0](record))
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    only_unreadable(codec, bytes(value))
    only_unreadable(codec, bytes(value[: data.draw(st.integers(0, len(value)))]))


@pytest.mark.parametrize("kind", CASES)
def test_unknown_and_missing_fields_are_unreadable(kind: str) -> None:
    (encode, decode), record = CASES[kind]
    fields = json.loads(encode(record))
    with pytest.raises(Unreadable, match="1 unknown fields"):
        decode(json.dumps(fields | {"more": 1}).encode())
    for name in fields:
        rest = {key: value for key, value in fields.items() if key != name}
        if (kind, name) not in OPTIONAL:
            with pytest.raises(Unreadable, match=f"{name}: missing"):
                decode(json.dumps(rest).encode())


@pytest.mark.parametrize(
    ("kind", "field", "value", "reason"),
    [
        ("request", "id", "0" * 31 + "7", "id: not a UUID in its usual form|badly formed"),
        ("request", "id", UUID(int=10).hex, "id: not a UUID in its usual form"),
        ("request", "camera", "d" * 65, "camera: String should have at most 64 characters"),
        ("request", "ask", "", "ask: String should have at least 1 character"),
        ("request", "ask", "Is there\na fire?", "ask: not printable characters"),
        ("request", "ask", "x" * 4097, "ask: String should have at most 4096 characters"),
        ("request", "zone", "z" * 65, "zone: String should have at most 64 characters"),
        ("request", "zone", None, "zone: Input should be a valid string"),
        ("request", "look_back", 0.0, "look_back: Input should be greater than or equal to"),
        ("request", "look_back", 1e10, "look_back: Input should be less than or equal to"),
        ("request", "look_back", "30", "look_back: Input should be a valid number"),
        ("request", "look_back", None, "look_back: Input should be a valid number"),
        ("request", "expires_at", "2026-11-22T08:00:00", "expires_at: not an RFC 3339 date-time"),
        ("request", "version", 2, "version 2, not 1"),
        ("answered", "score", 1.5, "score: Input should be less than or equal to"),
        ("answered", "margin", float("nan"), "NaN is no number"),
        ("answered", "answer", "maybe", "answer: Input should be 'yes' or 'no'"),
        ("answered", "dense", [], "dense: Tuple should have at least 1 item"),
        ("answered", "dense", [SPAN] * 257, "dense: Tuple should have at most 256 items"),
        ("answered", "dense", [SPAN | {"more": 1}], "1 unknown fields"),
        ("answered", "dense", [SPAN | {"end": None}], "end: not an RFC 3339 date-time"),
        ("answered", "seen", [SPAN | {"end": None}], "end: not an RFC 3339 date-time"),
        ("answered", "until", None, "until: not both there"),
        ("answered", "since", "2026-11-22T09:00:00+00:00", "not in this order"),
        ("answered", "since", "2026-11-22T07:00:00+00:00", "not in this order"),
        ("answered", "refused", "why not", "1 unknown fields"),
        ("answered", "text", "", "text: String should have at least 1 character"),
        ("answered", "text", "x" * 4097, "text: String should have at most 4096 characters"),
        ("forgotten", "answer", "yes", "1 unknown fields"),
        ("forgotten", "until", "2026-11-22T09:00:00+00:00", "until: not both there"),
        ("refused", "forgotten", True, "1 unknown fields"),
        ("refused", "refused", "x" * 513, "refused: String should have at most 512 characters"),
    ],
)
def test_records_are_read_exactly(kind: str, field: str, value: object, reason: str) -> None:
    (encode, decode), record = CASES[kind]
    fields = json.loads(encode(record)) | {field: value}
    with pytest.raises(Unreadable, match=reason):
        decode(json.dumps(fields).encode())


def test_json_is_bounded_before_it_is_parsed() -> None:
    for codec, record in CASES.values():
        fields = json.loads(codec[0](record)) | {"more": "x" * 65536}
        with pytest.raises(Unreadable, match="more than 65536"):
            codec[1](json.dumps(fields).encode())


@pytest.mark.parametrize(
    "reply",
    [
        replace(ANSWERED, refused="and yet"),
        replace(ANSWERED, since=None),
        replace(ANSWERED, remembers_from=None),
        replace(ANSWERED, remembers_from=None, until=None),
        replace(ANSWERED, dense=()),
        replace(ANSWERED, dense=(TimeSpan(start=START, end=START - WINDOW_LENGTH),)),
        replace(ANSWERED, seen=(TimeSpan(start=START, end=START - WINDOW_LENGTH),)),
        replace(FORGOTTEN, forgotten=False),
    ],
)
def test_reply_that_says_two_things_or_none_is_refused(reply: QueryReply) -> None:
    with pytest.raises(ValueError, match=r"unknown|: "):
        query_wire.encode_reply(reply)


def test_look_back_that_no_reader_would_take_is_refused() -> None:
    with pytest.raises(ValueError, match="look_back: Input should be less than or equal to"):
        query_wire.encode_request(replace(A_REQUEST, look_back=timedelta.max))
