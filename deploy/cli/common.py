"""The options that commands share, and how commands print."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

from deploy.config.find import default_config
from deploy.errors import BadSettings, CommandFailed

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")

MAX_ITEMS_SHOWN = 5
"""The most items of a list in a table; `--json` prints them all."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00")
_DEFAULT_CONFIG = "LONGWATCH_CONFIG, ./longwatch.yaml or /etc/longwatch/longwatch.yaml"

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        default_factory=default_config,
        show_default=_DEFAULT_CONFIG,
        help="The settings file (YAML).",
    ),
]
OptionalConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        show_default=_DEFAULT_CONFIG,
        help="The settings file (YAML) that names the data.",
    ),
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="A data directory, instead of a settings file.")
]
ByOption = Annotated[
    str | None, typer.Option("--by", help="Your name in the audit trail. Default: your login name.")
]
NoteOption = Annotated[str, typer.Option("--note", "-m", help="A note in the audit trail.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]


def parse_instant(option: str, text: str) -> datetime:
    """Parse an instant, in UTC if it names no zone; raise BadSettings.

    Years near the ends of the calendar are refused, since arithmetic on them overflows.
    """
    try:
        at = datetime.fromisoformat(text)
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadSettings(f"{option}: write it as 2026-11-22T18:00:00+01:00") from None
    if not 1970 <= at.year < 9000:
        raise BadSettings(f"{option}: name a year from 1970 on")
    return at


def stderr_console() -> "Console":
    """Return a console on stderr, for progress."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def show(what: Any) -> None:
    """Print tables and text for a person, anything else as one line of JSON.

    A cell that is too wide for the terminal continues on the next line.
    """
    from rich.console import Console
    from rich.table import Table

    if isinstance(what, Table):
        for column in what.columns:
            column.overflow = "fold"
        Console(width=None if sys.stdout.isatty() else 160).print(what)
    else:
        typer.echo(what if isinstance(what, str) else json.dumps(what))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[Item]):
    """A list that a command prints: all fields of an item as JSON, or some as columns."""

    columns: Sequence[str]
    fields: Callable[[Item], dict[str, Any]]

    def show(self, items: Iterable[Item], *, as_json: bool) -> None:
        """Print one line of JSON, or a table."""
        from rich.table import Table
        from rich.text import Text

        rows = [self.fields(item) for item in items]
        table = Table(*self.columns)
        for row in rows:
            table.add_row(*(Text(_format_cell(row[name])) for name in self.columns))
        show(rows if as_json else table)


def format_instant(at: datetime | None) -> str:
    """Write an instant to the second; `-` for None."""
    return "-" if at is None else at.strftime("%Y-%m-%d %H:%M:%SZ")


def _format_cell(value: object) -> str:
    """Write a value of JSON for a table: short ids, instants to the second, short lists."""
    if value is None:
        return ""
    if isinstance(value, list):
        rest = len(value) - MAX_ITEMS_SHOWN
        shown = ", ".join(map(_format_cell, value[:MAX_ITEMS_SHOWN]))
        return f"{shown} and {rest} more" if rest > 0 else shown
    text = str(value)
    if _UUID.fullmatch(text):
        return text[:8]
    return format_instant(datetime.fromisoformat(text)) if _INSTANT.fullmatch(text) else text


def find_by_prefix(find: Callable[[str], Item | None], id: str, kind: str, listing: str) -> Item:
    """Return the item whose id has a prefix; raise CommandFailed, or BadSettings for several."""
    try:
        found = find(id)
    except ValueError as error:
        raise BadSettings(f"{error}: write more of the id") from None
    if found is None:
        raise CommandFailed(f"no {kind} has an id that begins with {id}: see `longwatch {listing}`")
    return found


def check_printable(option: str, text: str, longest: int) -> str:
    """Return a text that is short and printable; raise BadSettings."""
    if not text.isprintable() or len(text) > longest:
        raise BadSettings(f"{option}: at most {longest} printable characters")
    return text
