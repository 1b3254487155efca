"""What the commands share: their options, where the data lie, and how they print."""

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from deploy.config.data_dir import default_config
from deploy.errors import BadSettings, CommandFailed

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")

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
        "--config", "-c", show_default=_DEFAULT_CONFIG, help="A settings file that names the data."
    ),
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="A data directory, instead of settings.")
]
ByOption = Annotated[str | None, typer.Option("--by", help="Who you are; else your login name.")]
NoteOption = Annotated[str, typer.Option("--note", "-m", help="What others should know.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, nothing else.")]


def parse_instant(option: str, text: str) -> datetime:
    """Read an instant, in UTC where it names no zone; raise BadSettings.

    The years next to the ends of the calendar are refused: a duration more or less is beyond it.
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
    """Return where a person is told what goes on."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def show(what: Any) -> None:
    """Print tables and text for a person, anything else as one line of JSON.

    What does not fit the width of a terminal goes on in the next line; nothing is cut.
    """
    from rich.console import Console
    from rich.table import Table

    if isinstance(what, Table):
        for column in what.columns:
            column.overflow = "fold"
        Console(width=None if sys.stdout.isatty() else 160).print(what)
    else:
        typer.echo(what if isinstance(what, str) else json.dumps(what))


def show_rows(rows: list[dict[str, Any]], columns: list[str], as_json: bool) -> None:
    """Print rows: as one line of JSON, or the named columns as a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(_format_cell(row[name])) for name in columns))
    show(rows if as_json else table)


def format_instant(at: datetime | None) -> str:
    """Write an instant for a person, to the second."""
    return "-" if at is None else at.strftime("%Y-%m-%d %H:%M:%SZ")


def _format_cell(value: object) -> str:
    """Write a value of JSON for a person: ids short, instants to the second, lists with commas."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(_format_cell(each) for each in value)
    text = str(value)
    if _UUID.fullmatch(text):
        return text[:8]
    return format_instant(datetime.fromisoformat(text)) if _INSTANT.fullmatch(text) else text


def find_by_prefix(find: Callable[[str], Item | None], id: str, kind: str, listing: str) -> Item:
    """Return the one whose id begins so; raise BadSettings for several, Failed for none."""
    try:
        found = find(id)
    except ValueError as error:
        raise BadSettings(f"{error}: write more of the id") from None
    if found is None:
        raise CommandFailed(f"no {kind} begins with {id}: see `longwatch {listing}`")
    return found


def check_printable(option: str, text: str, longest: int) -> str:
    """Return a text if it is short and printable; raise BadSettings."""
    if not text.isprintable() or len(text) > longest:
        raise BadSettings(f"{option}: at most {longest} printable characters")
    return text
