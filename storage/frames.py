"""How records lie in bytes: frames with a JSON header, or JSON objects that carry their version."""

import json
import struct
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from storage.errors import Unreadable
from storage.fields import Fields

VERSION = 1
_MAX_JSON_BYTES = 64 * 2**10
_MAX_VERSION = 2**53
_FRAME = struct.Struct(">4sHI")

Record = TypeVar("Record")


def uuid_of(text: str) -> UUID:
    """Read a UUID in its usual form, in letters of either case; raise ValueError for others."""
    found = UUID(text)
    if str(found) != text.lower():
        raise ValueError("id: not a UUID in its usual form")
    return found


def as_json(fields: dict[str, Any], *, is_ascii: bool = False) -> bytes:
    """Write a JSON object, as short as it can be; with `is_ascii` it has escapes for the rest."""
    separators = (",", ":")
    text = json.dumps(fields, separators=separators, allow_nan=False, ensure_ascii=is_ascii)
    return text.encode()


def frame(magic: bytes, header: dict[str, Any], body: bytes) -> bytes:
    """Write a magic, the version, a JSON header and bytes."""
    head = as_json(header)
    return _FRAME.pack(magic, VERSION, len(head)) + head + body


def unframe(magic: bytes, value: bytes) -> tuple[Fields, bytes]:
    """Read the header and the bytes of a frame; raise ValueError for anything else."""
    if len(value) < _FRAME.size:
        raise ValueError(f"{len(value)} bytes are too few")
    found, version, length = _FRAME.unpack_from(value)
    if found != magic:
        raise ValueError("another magic")
    _check(version)
    end = _FRAME.size + length
    if length > _MAX_JSON_BYTES or end > len(value):
        raise ValueError(f"a header of {length} bytes")
    return Fields.of_bytes(value[_FRAME.size : end]), value[end:]


def versioned(value: bytes, kind: str | None = None) -> Fields:
    """Read a JSON object of this version; raise ValueError for anything else.

    With a `kind`, such as `longwatch.finding.v1`, it may stand in a CloudEvent of that type, in
    the structured mode of CloudEvents 1.0.
    """
    fields, _ = of_a_version(value, () if kind is None else (kind,))
    return fields


def of_a_version(value: bytes, kinds: Sequence[str]) -> tuple[Fields, int]:
    """Read a JSON object of one of several versions, as `versioned`; return its version, too.

    `kinds` are the types of its versions, from 1 on.
    """
    if len(value) > _MAX_JSON_BYTES:
        raise ValueError(f"{len(value)} bytes, more than {_MAX_JSON_BYTES}")
    fields = Fields.of_bytes(value)
    if kinds and fields.has("specversion"):
        fields = _data_of(fields, kinds)
    version = fields.count("version", 0, _MAX_VERSION)
    _check(version, latest=max(VERSION, len(kinds)))
    return fields, version


def _data_of(event: Fields, kinds: Sequence[str]) -> Fields:
    """Return the data of a structured CloudEvent; what else it says is not needed."""
    version, found = event.text("specversion", 16), event.text("type", 256)
    if version != "1.0" or found not in kinds:
        known = " or ".join(kinds)
        raise ValueError(f"a CloudEvent {version} of type {found}, not 1.0 of type {known}")
    if not event.has("data_base64"):
        return event.part("data")
    return Fields.of_bytes(b64decode(event.text("data_base64", _MAX_JSON_BYTES), validate=True))


def _check(version: int, latest: int = VERSION) -> None:
    if not VERSION <= version <= latest:
        then = ": upgrade longwatch, then `longwatch dead replay`" if version > latest else ""
        known = " or ".join(map(str, range(VERSION, latest + 1)))
        raise ValueError(f"version {version}, not {known}{then}")


def exactly(read: Callable[[bytes], Record], value: bytes) -> Record:
    """Read a record; raise Unreadable where `read` raises ValueError."""
    try:
        return read(value)
    except ValueError as error:
        raise Unreadable(str(error)) from error


def readable(decode: Callable[[bytes], object], value: bytes) -> bytes:
    """Refuse to write what no reader would take."""
    try:
        decode(value)
    except Unreadable as error:
        raise ValueError(error.reason) from error
    return value
