"""What our own JSON Schemas call valid is read, in whichever way it is written."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cloudevents.v1.conversion import to_structured
from cloudevents.v1.http import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.storage import schemas
from kit.storage.fixtures import a_finding, an_incident
from storage.errors import Unreadable
from storage.records import cloudevents
from storage.records.claims import Claim, decode_claim, encode_claim
from storage.records.json_types import UNSAFE_CHARACTERS
from storage.records.records import CoverageState
from storage.records.topics import COVERAGE, FINDINGS, INCIDENTS
from storage.records.wire import decode_finding, decode_incident, encode_finding, encode_incident

patient = settings(deadline=None, max_examples=60)
FOLDER = Path(cloudevents.__file__).parent / "schemas"
Decode = Callable[[bytes], Any]
DECODE: dict[str, Decode] = {
    FINDINGS: decode_finding,
    INCIDENTS: decode_incident,
    COVERAGE: decode_claim,
}
SCHEMAS = {
    (topic, version): json.loads((FOLDER / name).read_text())
    for topic in DECODE
    for version, name in enumerate(cloudevents.SCHEMAS[topic], 1)
}
CLAIM = Claim(camera="dock", start=None, end=a_finding().end, state=CoverageState.SHED)
LATER = replace(CLAIM, state=CoverageState.OVERLOADED)
VALUE = {
    (FINDINGS, 1): encode_finding(a_finding()),
    (INCIDENTS, 1): encode_incident(an_incident()),
    (COVERAGE, 1): encode_claim(CLAIM),
    (COVERAGE, 2): encode_claim(LATER),
}


@st.composite
def instants(draw: st.DrawFn) -> str:
    at = draw(st.datetimes(timezones=st.just(UTC)))
    fraction = draw(st.sampled_from(["", ".1", ".123456", ".123456789"]))
    zone = draw(st.sampled_from(["Z", "z", "+00:00", "-00:00", "+05:30", "-12:00"]))
    year = min(max(at.year, 2), 9998)
    return f"{year:04}-{at:%m-%d}{draw(st.sampled_from('Tt'))}{at:%H:%M:%S}{fraction}{zone}"


def numbers(partition: dict[str, Any]) -> st.SearchStrategy[Any]:
    low, high = partition["minimum"], partition["maximum"]
    return st.floats(low, high) | st.integers(low, high)


def counts(partition: dict[str, Any]) -> st.SearchStrategy[Any]:
    whole = st.integers(partition["minimum"], partition["maximum"])
    return whole | whole.map(float)


def texts(part: dict[str, Any]) -> st.SearchStrategy[Any]:
    if part.get("format") == "date-time":
        return instants()
    if part.get("format") == "uuid":
        return st.uuids().flatmap(lambda id: st.sampled_from([str(id), str(id).upper()]))
    unsafe = re.compile(f"[{UNSAFE_CHARACTERS}]")
    letters = st.characters(exclude_categories=["Cs"]).filter(lambda one: not unsafe.match(one))
    return st.text(letters, min_size=part["minLength"], max_size=9) | letters.map(
        lambda one: one * part["maxLength"]
    )


def valid(part: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that a schema of ours calls valid; it fails on what it does not know."""
    if "const" in part:
        return st.sampled_from([part["const"], float(part["const"])])
    if "enum" in part:
        return st.sampled_from(part["enum"])
    if "anyOf" in part:
        return st.one_of([valid(each) for each in part["anyOf"]])
    if part["type"] == "object":
        assert part["additionalProperties"] is False
        fields = {name: valid(each) for name, each in part["properties"].items()}
        needed = {name: fields[name] for name in part["required"]}
        others = {name: each for name, each in fields.items() if name not in needed}
        return st.fixed_dictionaries(needed, optional=others)
    if part["type"] == "array":
        bounds = {"min_size": part["minItems"], "max_size": part["maxItems"]}
        return st.lists(valid(part["items"]), **bounds)
    kinds = {"number": numbers, "integer": counts, "string": texts, "null": lambda _: st.none()}
    return kinds[part["type"]](part)


@pytest.mark.parametrize("name", schemas.SCHEMAS)
def test_published_schemas_are_those_of_the_records(name: str) -> None:
    assert json.loads((FOLDER / f"{name}.json").read_text()) == schemas.generate(name)


def test_every_published_schema_is_generated() -> None:
    assert {each.stem for each in FOLDER.glob("*.json")} == schemas.SCHEMAS.keys()


ACROSS = re.compile(r"(start|since).*not before end|first seen, opened|opened_at and closed_at")
"""What no JSON Schema can say, and each of ours says in its description."""


@pytest.mark.parametrize(("topic", "version"), SCHEMAS)
@patient
@given(data=st.data())
def test_what_a_schema_calls_valid_is_read(topic: str, version: int, data: st.DataObject) -> None:
    fields = data.draw(valid(SCHEMAS[topic, version]))
    jsonschema.validate(fields, SCHEMAS[topic, version])
    ascii = data.draw(st.booleans())
    value = json.dumps(fields, ensure_ascii=ascii, indent=data.draw(st.sampled_from([None, 1])))
    try:
        read = DECODE[topic](value.encode())
    except Unreadable as error:
        assert ACROSS.search(error.reason) or len(value) > 2**16, error.reason
        return
    write: dict[str, Callable[[Any], bytes]]
    write = {FINDINGS: encode_finding, INCIDENTS: encode_incident, COVERAGE: encode_claim}
    written = write[topic](read)
    assert topic == COVERAGE or DECODE[topic](written) == read
    again = json.loads(written)
    jsonschema.validate(again, SCHEMAS[topic, again["version"]])


@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_texts_of_a_schema_are_those_that_are_read(schema: dict[str, Any]) -> None:
    found = re.findall(r'"pattern": "([^"]*)"', json.dumps(schema))
    assert {json.loads(f'"{each}"') for each in found} == {f"^[^{UNSAFE_CHARACTERS}]*$"}
    assert len(found) == json.dumps(schema).count("maxLength")


@pytest.mark.parametrize(("topic", "version"), VALUE)
def test_what_is_written_fits_the_schema_that_its_headers_name(topic: str, version: int) -> None:
    headers = dict(cloudevents.build_headers(topic, "dock", VALUE[topic, version]))
    schema = headers["ce_dataschema"].decode().removeprefix("urn:longwatch:")
    assert headers["ce_type"].decode() == f"longwatch.{schema.removesuffix('.json')}"
    assert schema == cloudevents.SCHEMAS[topic][version - 1]
    jsonschema.validate(json.loads(VALUE[topic, version]), SCHEMAS[topic, version])


@pytest.mark.parametrize(("topic", "version"), VALUE)
@pytest.mark.parametrize("kind", ["json", "base64"])
def test_a_structured_cloudevent_is_read(topic: str, version: int, kind: str) -> None:
    value = VALUE[topic, version]
    headers = dict(cloudevents.build_headers(topic, "dock", value))
    attributes = {"type": headers["ce_type"].decode(), "source": headers["ce_source"].decode()}
    if kind == "base64":
        envelope = {
            "specversion": "1.0",
            "id": "1",
            "data_base64": base64.b64encode(value).decode(),
        }
        event = json.dumps(envelope | attributes).encode()
    else:
        _, event = to_structured(CloudEvent(attributes | {"extra": "1"}, json.loads(value)))
    assert DECODE[topic](event) == DECODE[topic](value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "longwatch.incident.v1"}, "a CloudEvent 1.0 of type longwatch.incident.v1, not"),
        ({"specversion": "0.3"}, "a CloudEvent 0.3 of type longwatch.finding.v1, not 1.0"),
        ({"data": "text"}, "data: a str, not an object"),
        ({"data_base64": "?"}, "base64|Only|padding"),
        ({"data_base64": "WzFd"}, "no JSON object"),
    ],
)
def test_another_cloudevent_says_why_it_is_set_aside(change: dict[str, Any], reason: str) -> None:
    event = {"specversion": "1.0", "type": "longwatch.finding.v1", "id": "1", "source": "/x"}
    event |= {"data": json.loads(VALUE[FINDINGS, 1])} | change
    with pytest.raises(Unreadable, match=reason):
        decode_finding(json.dumps(event).encode())


def test_the_longest_finding_is_evidence_that_can_be_written() -> None:
    fields = json.loads(VALUE[FINDINGS, 1])
    face = "\U0001f600"
    longest = {"window_id": face * 382, "question": face * 64, "question_version": face * 64}
    finding = decode_finding(json.dumps(fields | longest).encode())
    incident = json.loads(VALUE[INCIDENTS, 1]) | {"evidence": [finding.id] * 16}
    read = decode_incident(json.dumps(incident, ensure_ascii=False).encode())
    assert decode_incident(encode_incident(read)) == read
