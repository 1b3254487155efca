"""The types that the fields of records have in JSON, for pydantic's TypeAdapter.

They are strict: a number is no text, true is no number, an instant is an RFC 3339 date-time.
"""

import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

Record = TypeVar("Record")

_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:(?P<second>[0-5]\d|60)(?:\.\d+)?"
    r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII | re.IGNORECASE,
)

UNSAFE_CHARACTERS = r"\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""Controls, line breaks and marks of direction, as the `pattern` of each schema has them."""


def parse_instant(text: object) -> datetime:
    """Read an RFC 3339 date-time, in UTC and whole microseconds; raise ValueError for others.

    A leap second is the first second of the next minute.
    """
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("not an RFC 3339 date-time")
    text = match[0]
    is_leap = match["second"] == "60"
    if is_leap:
        text = f"{text[: match.start('second')]}59{text[match.end('second') :]}"
    try:
        at = datetime.fromisoformat(text.upper()).astimezone(UTC)
        return at + timedelta(seconds=1) if is_leap else at
    except (ValueError, OverflowError):
        raise ValueError("not an RFC 3339 date-time of the years 1 to 9999") from None


def format_instant(at: datetime) -> str:
    """Write an instant as `datetime.isoformat` does; raise ValueError unless it is in UTC."""
    if at.utcoffset() != timedelta():
        raise ValueError(f"{at.isoformat()}: not an instant in UTC")
    return at.isoformat()


def _parse_uuid(text: object) -> UUID:
    """Read a UUID in its usual form, in letters of either case."""
    found = UUID(text) if isinstance(text, str) else None
    if found is None or str(found) != str(text).lower():
        raise ValueError("not a UUID in its usual form")
    return found


def _read_whole(value: object) -> object:
    """Return a whole float as an int: JSON writes 1 as 1.0 and 1e0, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def text(max_length: int) -> Any:
    """Return the limits of a printable text of 1 to `max_length` characters, none unsafe."""
    pattern = f"^[^{UNSAFE_CHARACTERS}]*$"
    return Field(strict=True, min_length=1, max_length=max_length, pattern=pattern)


def within(minimum: float, maximum: float) -> Any:
    """Return the limits of a number."""
    return Field(strict=True, ge=minimum, le=maximum)


def items(maximum: int) -> Any:
    """Return the limits of a list of 1 to `maximum` items."""
    return Field(min_length=1, max_length=maximum)


AS_FLOAT = PlainSerializer(float)
AS_WHOLE = BeforeValidator(_read_whole)
Flag = Annotated[bool, Field(strict=True)]
Instant = Annotated[
    datetime,
    PlainValidator(parse_instant),
    PlainSerializer(format_instant),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Uuid = Annotated[
    UUID,
    PlainValidator(_parse_uuid),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "format": "uuid"}),
]


class FieldTypes:
    """Annotate a dataclass with the types of its fields in JSON, in the order of the wire.

    A field with a default is absent from the JSON while it is empty, unless it is `required`.
    `names` are the names on the wire that differ from the field's.
    """

    def __init__(
        self, *, required: tuple[str, ...] = (), names: dict[str, str] | None = None, **types: Any
    ) -> None:
        self._types, self._required, self._names = types, required, names or {}

    def __get_pydantic_core_schema__(
        self, record: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        defaults = {
            field.name: field.default
            for field in fields(record)
            if field.default is not MISSING and field.name not in self._required
        }
        made = []
        for name, type_ in self._types.items():
            schema, exclude = handler.generate_schema(type_), None
            if name in defaults:
                schema = core_schema.with_default_schema(schema, default=defaults[name])
                exclude = partial(_is_empty, defaults[name])
            alias = self._names.get(name)
            made.append(
                core_schema.dataclass_field(
                    name,
                    schema,
                    kw_only=True,
                    validation_alias=alias,
                    serialization_alias=alias,
                    serialization_exclude_if=exclude,
                )
            )
        arguments = core_schema.dataclass_args_schema(record.__name__, made)
        closed = core_schema.CoreConfig(extra_fields_behavior="forbid")
        return core_schema.dataclass_schema(
            record, arguments, list(self._types), slots=True, config=closed
        )


def record_adapter(
    record: type[Record],
    *,
    check: Callable[[Record], Record] | None = None,
    required: tuple[str, ...] = (),
    names: dict[str, str] | None = None,
    **types: Any,
) -> TypeAdapter[Record]:
    """Return the adapter of a dataclass for its JSON; `check` compares fields with each other."""
    fields_ = FieldTypes(required=required, names=names, **types)
    checks = [AfterValidator(check)] if check else []
    annotated: Any = Annotated[(record, fields_, *checks)]
    return TypeAdapter(annotated)


def _is_empty(default: object, value: object) -> bool:
    return value in (None, default, "")
