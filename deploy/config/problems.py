"""What is wrong with a setting, and how a message names it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

SettingKey = tuple[str | int, ...]
"""The path from the root of the settings to a value: `("rules", 0, "when")`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingProblem:
    """A setting that cannot be used, what is wrong and what to do; the file fills in `line`."""

    key: SettingKey
    message: str
    line: int = 1


def format_problem(file: Path, problem: SettingProblem) -> str:
    """Write a problem as `FILE:LINE: KEY: MESSAGE`."""
    location = f"{file}:{problem.line}"
    return ": ".join(filter(None, [location, format_key(problem.key), problem.message]))


def format_key(key: SettingKey) -> str:
    """Write a key as `cameras.dock.url`, with `?` for a part that may be a misplaced value."""
    return ".".join(str(part) if is_plain(part) else "?" for part in key)


def is_plain(part: str | int) -> bool:
    """Return whether a part of a key can be shown: it may be a name, and no value."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,64}", str(part)) is not None


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return a question about the known name that is most like a misspelt one; else nothing."""
    close = get_close_matches(name, known, n=1)
    return f", did you mean {close[0]}?" if close else ""
