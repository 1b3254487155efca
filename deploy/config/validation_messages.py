"""Messages about settings that the validation refuses, without names of libraries or classes."""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from pydantic_core import ErrorDetails

from storage.duration import format_duration

_NUMBER, _WHOLE = "write a number", "write a whole number"
_SECTION = "write keys and values under it"
_FLAG = "write true or false"
_INSTANT = "write it as 2026-11-22T18:00:00Z"

_TIMEDELTA = re.compile(r"datetime\.timedelta\((.*)\)")
_DURATION_PART = re.compile(r"(days|seconds|microseconds)=(\d+)")

_BY_TYPE: Mapping[str, str] = {
    "bool_parsing": _FLAG,
    "bool_type": _FLAG,
    "dict_type": _SECTION,
    "finite_number": _NUMBER,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "list_type": "write a list",
    "missing": "missing: add it",
    "model_attributes_type": _SECTION,
    "model_type": _SECTION,
    "path_type": "write a path",
    "string_pattern_mismatch": "has characters that cannot be here, or is too long",
    "string_type": "write text; in quotes where it looks like a number or a date",
    "tuple_type": "write a list",
    "timezone_aware": _INSTANT,
}

_BY_BOUND: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "greater_than": lambda ctx: f"must be more than {_format_bound(ctx['gt'])}",
    "greater_than_equal": lambda ctx: f"must be at least {_format_bound(ctx['ge'])}",
    "less_than": lambda ctx: f"must be less than {_format_bound(ctx['lt'])}",
    "less_than_equal": lambda ctx: f"must be at most {_format_bound(ctx['le'])}",
    "enum": lambda ctx: f"choose {ctx['expected'].replace(chr(39), '')}",
    "literal_error": lambda ctx: f"choose {ctx['expected'].replace(chr(39), '')}",
    "string_too_long": lambda ctx: f"at most {ctx['max_length']} characters: shorten it",
    "string_too_short": lambda ctx: f"at least {ctx['min_length']} characters: lengthen it",
    "too_long": lambda ctx: f"at most {ctx['max_length']} of them: name fewer",
    "too_short": lambda ctx: f"at least {ctx['min_length']} of them: name more",
}


def explain_error(detail: ErrorDetails) -> str:
    """Return what is wrong with a value and what to write, without the value."""
    kind = detail["type"]
    if kind in _BY_TYPE:
        return _BY_TYPE[kind]
    if kind in _BY_BOUND:
        return _BY_BOUND[kind](detail["ctx"])
    if kind.startswith(("datetime_", "date_", "time_")):
        return _INSTANT
    if kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return message[:1].lower() + message[1:]
    return "cannot be read: see deploy/example.yaml for an example"


def _format_bound(value: object) -> str:
    """Write a bound; pydantic reports that of a duration as the text of its repr."""
    match = _TIMEDELTA.fullmatch(str(value))
    if match is None:
        return str(value)
    parts = {unit: int(count) for unit, count in _DURATION_PART.findall(match[1])}
    return format_duration(timedelta(**parts))
