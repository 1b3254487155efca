"""How records lie in bytes: frames with a JSON header, or JSON objects that carry their version."""

import json
import struct
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from storage.errors import Unreadable
from storage.records.json_fields import JsonFields

VERSION = 1
_MAX_JSON_BYTES = 64 * 2**10
_MAX_VERSION = 2**53
_FRAME = struct.Struct(">4sHI")

Record = TypeVar("Record")


def parse_uuid(text: str) -> UUID:
    """Read a UUID in its usual form, in letters of either case; raise ValueError for others."""
    found = UUID(text)
    if str(found) != text.lower():
        raise ValueError("id: not a UUID in its usual form")
    return found


def encode_json(fields: dict[str, Any], *, is_ascii: bool = False) -> bytes:
    """Write a JSON object, as short as it can be; with `is_ascii` it has escapes for the rest."""
    separators = (",", ":")
    text = json.dumps(fields, separators=separators, allow_nan=False, ensure_ascii=is_ascii)
    return text.encode()


def frame(magic: bytes, header: dict[str, Any], body: bytes) -> bytes:
    """Write a magic, the version, a JSON header and bytes."""
    head = encode_json(header)
    return _FRAME.pack(magic, VERSION, len(head)) + head + body


def unframe(magic: bytes, value: bytes) -> tuple[JsonFields, bytes]:
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
    return JsonFields.from_bytes(value[_FRAME.size : end]), value[end:]


def parse_versioned(value: bytes, event_type: str | None = None) -> JsonFields:
    """Read a JSON object of this version; raise ValueError for anything else.

    With a `kind`, such as `longwatch.finding.v1`, it may stand in a CloudEvent of that type, in
    the structured mode of CloudEvents 1.0.
    """
    fields, _ = parse_any_version(value, () if event_type is None else (event_type,))
    return fields


def parse_any_version(value: bytes, event_types: Sequence[str]) -> tuple[JsonFields, int]:
    """Read a JSON object of one of several versions, as `versioned`; return its version, too.

    `kinds` are the types of its versions, from 1 on.
    """
    if len(value) > _MAX_JSON_BYTES:
        raise ValueError(f"{len(value)} bytes, more than {_MAX_JSON_BYTES}")
    fields = JsonFields.from_bytes(value)
    if event_types and fields.has("specversion"):
        fields = _cloudevent_data(fields, event_types)
    version = fields.count("version", 0, _MAX_VERSION)
    _check_version(version, latest=max(VERSION, len(event_types)))
    return fields, version


def _cloudevent_data(event: JsonFields, event_types: Sequence[str]) -> JsonFields:
    """Return the data of a structured CloudEvent; what else it says is not needed."""
    version, found = event.text("specversion", 16), event.text("type", 256)
    if version != "1.0" or found not in event_types:
        known = " or ".join(event_types)
        raise ValueError(f"a CloudEvent {version} of type {found}, not 1.0 of type {known}")
    if not event.has("data_base64"):
        return event.child("data")
    return JsonFields.from_bytes(
        b64decode(event.text("data_base64", _MAX_JSON_BYTES), validate=True)
    )


def _check_version(version: int, latest: int = VERSION) -> None:
    if not VERSION <= version <= latest:
        advice = ": upgrade longwatch, then `longwatch dead replay`" if version > latest else ""
        known = " or ".join(map(str, range(VERSION, latest + 1)))
        raise ValueError(f"version {version}, not {known}{advice}")


def decode_strictly(parse: Callable[[bytes], Record], value: bytes) -> Record:
    """Read a record; raise Unreadable where `read` raises ValueError."""
    try:
        return parse(value)
    except ValueError as error:
        raise Unreadable(str(error)) from error


def check_decodable(decode: Callable[[bytes], object], value: bytes) -> bytes:
    """Refuse to write what no reader would take."""
    try:
        decode(value)
    except Unreadable as error:
        raise ValueError(error.reason) from error
    return value
