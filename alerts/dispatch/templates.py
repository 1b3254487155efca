"""Sentences with placeholders, as `{camera_title}: {ask} yes since {since}`.

A placeholder is one of PLACEHOLDERS, without attribute, index, conversion or format. Its value is
never parsed as a template, so text from a camera or a person cannot inject placeholders.
"""

from collections.abc import Iterator, Mapping
from string import Formatter

PLACEHOLDERS = (
    "id",
    "camera",
    "camera_title",
    "rule",
    "severity",
    "state",
    "question",
    "ask",
    "zone",
    "second_question",
    "second_ask",
    "within",
    "score",
    "margin",
    "since",
    "first_seen_at",
    "opened_at",
    "last_seen_at",
    "closed_at",
    "reason",
    "url",
    "site",
)
UNKNOWN = "-"
"""Replaces a value that an incident does not have."""
MAX_TEMPLATE_CHARS = 500


def check_template(text: str) -> str:
    """Return a valid template; raises ValueError, without its text, for any other."""
    if not text.strip() or len(text) > MAX_TEMPLATE_CHARS or not text.isprintable():
        raise ValueError(f"write 1 to {MAX_TEMPLATE_CHARS} characters in one line")
    list(_parse(text))
    return text


def render(template: str, values: Mapping[str, str]) -> str:
    """Return the sentence of a checked template; a missing value shows as `-`."""
    return "".join(
        literal + (values.get(name) or UNKNOWN if name else "")
        for literal, name in _parse(template)
    )


def _parse(template: str) -> Iterator[tuple[str, str]]:
    """Yield each literal text with the placeholder after it, if any."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        raise ValueError("a brace has no partner: write {{ and }} for the character") from None
    for literal, name, form, conversion in parts:
        if name is None:
            yield literal, ""
        elif name not in PLACEHOLDERS or form or conversion:
            known = ", ".join(PLACEHOLDERS)
            raise ValueError(f"a placeholder is not known; write {{NAME}} with one of: {known}")
        else:
            yield literal, name
