"""Write and read records as bytes: JSON objects that carry their version, or framed ones."""

import json
import struct
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from storage.errors import Unreadable
from storage.text import one_line

VERSION = 1
_MAX_JSON_BYTES = 64 * 2**10
_MAX_VERSION = 2**53
_FRAME = struct.Struct(">4sHI")
_REASONS = {"missing": "missing", "string_pattern_mismatch": "not printable characters"}
"""Shorter texts for errors of pydantic, by their types."""
_UNKNOWN = "unexpected_keyword_argument"
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False)

Record = TypeVar("Record")


def encode_json(fields: dict[str, Any]) -> bytes:
    """Write a JSON object without spaces."""
    return _ENCODER.encode(fields).encode()


def encode_record(adapter: TypeAdapter[Record], record: Record, *, version: int = VERSION) -> bytes:
    """Write a record as JSON with its version; raise ValueError for what no reader accepts."""
    fields = to_fields(adapter, record)
    from_fields(adapter, fields)
    return encode_versioned(fields, version=version)


def encode_versioned(fields: dict[str, Any], *, version: int = VERSION) -> bytes:
    """Write a JSON object with its version; raise ValueError if it is too large."""
    value = encode_json({"version": version} | fields)
    _check_size(value)
    return value


def decode_record(
    adapter: TypeAdapter[Record], value: bytes, event_type: str | None = None
) -> Record:
    """Read a record of this version, as JSON or as the data of a CloudEvent of this type.

    Raise Unreadable for anything else.
    """
    try:
        fields, _ = parse_versioned(value, *([event_type] if event_type else []))
        return from_fields(adapter, fields)
    except ValueError as error:
        raise Unreadable(str(error)) from error


def to_fields(adapter: TypeAdapter[Record], record: Record) -> dict[str, Any]:
    """Return a record as a JSON object, without its version."""
    fields: dict[str, Any] = adapter.dump_python(record, mode="json", by_alias=True)
    return fields


def from_fields(adapter: TypeAdapter[Record], fields: object, context: object = None) -> Record:
    """Build a record from a JSON object; raise ValueError with the first field that is wrong."""
    try:
        return adapter.validate_python(fields, context=context)
    except ValidationError as error:
        raise ValueError(_reason(error)) from None


def _reason(error: ValidationError) -> str:
    """Return one line about the innermost error; it repeats no bytes of the value."""
    found = error.errors(include_url=False, include_input=False)
    unknown = [one for one in found if one["type"] == _UNKNOWN]
    first = min(found, key=lambda one: (-len(one["loc"]), one in unknown))
    if first in unknown:
        return f"{len(unknown)} unknown fields"
    message = _REASONS.get(first["type"], first["msg"].removeprefix("Value error, "))
    return ": ".join([*(str(step) for step in first["loc"]), message])


def frame(magic: bytes, header: dict[str, Any], body: bytes) -> bytes:
    """Write a magic, the version, a JSON header and bytes."""
    head = encode_json(header)
    return _FRAME.pack(magic, VERSION, len(head)) + head + body


def unframe(magic: bytes, value: bytes) -> tuple[dict[str, Any], bytes]:
    """Read the header and the bytes of a frame; raise ValueError for anything else."""
    if len(value) < _FRAME.size:
        raise ValueError(f"{len(value)} bytes are too few")
    found, version, length = _FRAME.unpack_from(value)
    if found != magic:
        raise ValueError("another magic")
    _check_version(version)
    end = _FRAME.size + length
    if length > _MAX_JSON_BYTES or end > len(value):
        raise ValueError(f"a header of {length} bytes")
    return _parse_json(value[_FRAME.size : end]), value[end:]


def parse_versioned(value: bytes, *event_types: str) -> tuple[dict[str, Any], int]:
    """Read a JSON object; return its fields without the version, and the version.

    `event_types`, such as `longwatch.finding.v1`, are the types of its versions, from 1 on. The
    object may be the data of a CloudEvent of such a type, in the structured mode of CloudEvents
    1.0. Raise ValueError for anything else.
    """
    _check_size(value)
    fields = _parse_json(value)
    if event_types and "specversion" in fields:
        fields = _cloudevent_data(fields, event_types)
    if "version" not in fields:
        raise ValueError("version: missing")
    version = fields.pop("version")
    if type(version) not in (int, float) or not 0 <= version <= _MAX_VERSION:
        raise ValueError("version: not a version number")
    _check_version(version, latest=max(VERSION, len(event_types)))
    return fields, int(version)


def _check_size(value: bytes) -> None:
    if len(value) > _MAX_JSON_BYTES:
        raise ValueError(f"{len(value)} bytes, more than {_MAX_JSON_BYTES}")


def _parse_json(value: bytes) -> dict[str, Any]:
    """Read an object of strict UTF-8 JSON: no NaN, no Infinity, no key twice."""
    try:
        fields = _DECODER.decode(value.decode())
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    if not isinstance(fields, dict):
        raise ValueError("no JSON object where one is due")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key twice in one JSON object")
    return fields


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicate_keys
)


def _cloudevent_data(event: dict[str, Any], event_types: Sequence[str]) -> dict[str, Any]:
    """Return the data of a structured CloudEvent; ignore its other attributes."""
    version, found = event["specversion"], event.get("type")
    if version != "1.0" or found not in event_types:
        named = f"a CloudEvent {version} of type {found}"
        raise ValueError(f"{one_line(named, 256)}, not 1.0 of type {' or '.join(event_types)}")
    if "data_base64" in event:
        return _parse_json(b64decode(str(event["data_base64"]), validate=True))
    data = event.get("data")
    if not isinstance(data, dict):
        raise ValueError(f"data: a {type(data).__name__}, not an object")
    return data


def _check_version(version: float, latest: int = VERSION) -> None:
    if version not in range(VERSION, latest + 1):
        advice = ": upgrade longwatch, then `longwatch dead replay`" if version > latest else ""
        known = " or ".join(map(str, range(VERSION, latest + 1)))
        raise ValueError(f"version {version}, not {known}{advice}")


def decode_strictly(parse: Callable[[bytes], Record], value: bytes) -> Record:
    """Read a record; raise Unreadable if `parse` raises ValueError."""
    try:
        return parse(value)
    except ValueError as error:
        raise Unreadable(str(error)) from error
