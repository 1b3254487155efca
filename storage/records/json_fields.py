"""A JSON object read field by field, exactly; anything else is a ValueError with the reason."""

import json
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

E = TypeVar("E", bound=StrEnum)

_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:(?P<second>[0-5]\d|60)(?:\.\d+)?"
    r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII | re.IGNORECASE,
)

UNSAFE_CHARACTERS = r"\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""Controls, line breaks and marks of direction, as the `pattern` of each schema has them."""
_UNSAFE_PATTERN = re.compile(f"[{UNSAFE_CHARACTERS}\ud800-\udfff]")


def parse_instant(text: str) -> datetime:
    """Read an RFC 3339 date-time, in UTC and whole microseconds; raise ValueError for others.

    A leap second is the first second of the next minute.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 date-time")
    is_leap = match["second"] == "60"
    if is_leap:
        text = f"{text[: match.start('second')]}59{text[match.end('second') :]}"
    try:
        at = datetime.fromisoformat(text.upper()).astimezone(UTC)
        return at + timedelta(seconds=1) if is_leap else at
    except (ValueError, OverflowError):
        raise ValueError("not an RFC 3339 date-time of the years 1 to 9999") from None


def format_instant(at: datetime) -> str:
    """Write an instant as `datetime.isoformat` does; raise ValueError where it is not in UTC."""
    if at.utcoffset() != timedelta():
        raise ValueError(f"{at.isoformat()}: not an instant in UTC")
    return at.isoformat()


class JsonFields:
    """The fields of one JSON object; each is taken once and `end` refuses what is left."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise ValueError("no JSON object where one is due")
        self._remaining: dict[str, Any] = dict(value)

    @classmethod
    def from_bytes(cls, value: bytes) -> "JsonFields":
        """Parse strict UTF-8 JSON: no NaN, no Infinity, no key twice."""
        try:
            return cls(
                json.loads(
                    value.decode(),
                    parse_constant=_refuse_constant,
                    object_pairs_hook=_refuse_duplicate_keys,
                )
            )
        except RecursionError:
            raise ValueError("JSON nested too deep") from None

    def has(self, name: str) -> bool:
        """Tell whether there is such a field."""
        return name in self._remaining

    def text(self, name: str, max_length: int) -> str:
        """Take printable, non-empty text of at most `longest` characters: none is UNSAFE."""
        value = self._take(name, str)
        if not 0 < len(value) <= max_length or _UNSAFE_PATTERN.search(value):
            raise ValueError(f"{name}: not 1 to {max_length} printable characters")
        return str(value)

    def maybe_text(self, name: str, max_length: int) -> str | None:
        """Take text, or None where the field is absent."""
        return self.text(name, max_length) if self.has(name) else None

    def number(self, name: str, minimum: float, maximum: float) -> float:
        """Take a JSON number within these bounds, with or without a fraction."""
        is_whole = type(self._remaining.get(name)) is int
        value = self._take(name, int if is_whole else float)
        return float(self._require_within(name, value, minimum, maximum))

    def maybe_number(self, name: str, minimum: float, maximum: float) -> float | None:
        """Take a number within these bounds, or None where the field is absent."""
        return self.number(name, minimum, maximum) if name in self._remaining else None

    def count(self, name: str, minimum: int, maximum: int) -> int:
        """Take a whole number within these bounds; JSON writes 1 as 1.0 and 1e0, too."""
        value = self._remaining.get(name)
        if type(value) is float and value.is_integer():
            self._remaining[name] = int(value)
        return int(self._require_within(name, self._take(name, int), minimum, maximum))

    def flag(self, name: str) -> bool:
        """Take true or false."""
        return bool(self._take(name, bool))

    def one_of(self, name: str, choices: type[E]) -> E:
        """Take a member of an enumeration."""
        value = self._take(name, str)
        if value not in list(choices):
            raise ValueError(f"{name}: not one of {', '.join(choices)}")
        return choices(value)

    def instant(self, name: str) -> datetime:
        """Take an RFC 3339 date-time, in UTC and whole microseconds."""
        value = self._take(name, str)
        try:
            return parse_instant(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def maybe_instant(self, name: str) -> datetime | None:
        """Take an instant or null."""
        if name in self._remaining and self._remaining[name] is None:
            del self._remaining[name]
            return None
        return self.instant(name)

    def items(self, name: str, max_items: int) -> list[Any]:
        """Take a list of 1 to `most` items."""
        value: list[Any] = self._take(name, list)
        if not 0 < len(value) <= max_items:
            raise ValueError(f"{name}: not 1 to {max_items} items")
        return value

    def child(self, name: str) -> "JsonFields":
        """Take an object within this one."""
        return JsonFields(self._take(name, dict))

    def maybe_child(self, name: str) -> "JsonFields | None":
        """Take an object within this one, or None where the field is absent."""
        return self.child(name) if name in self._remaining else None

    def require_empty(self) -> None:
        """Refuse fields that nobody took."""
        if self._remaining:
            raise ValueError(f"{len(self._remaining)} unknown fields")

    def _take(self, name: str, kind: type) -> Any:
        if name not in self._remaining:
            raise ValueError(f"{name}: missing")
        value = self._remaining.pop(name)
        if type(value) is not kind:
            raise ValueError(f"{name}: a {type(value).__name__}, not a {kind.__name__}")
        return value

    @staticmethod
    def _require_within(name: str, value: float, minimum: float, maximum: float) -> float:
        if not minimum <= value <= maximum:
            raise ValueError(f"{name}: not within {minimum} and {maximum}")
        return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key twice in one JSON object")
    return fields
