"""What the commands share: their options, where the data lie, and how they print."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.errors import BadSettings

if TYPE_CHECKING:
    from rich.console import Console

    from storage.incidents import IncidentStore
    from storage.log import Log

Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file (YAML).")]
MaybeConfig = Annotated[
    Path | None, typer.Option("--config", "-c", help="A settings file that names the data.")
]
MaybeData = Annotated[Path | None, typer.Option("--data", help="A data directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, nothing else.")]


def open_store(config: Path | None, data: Path | None) -> "IncidentStore":
    """Return what alerts has written, in the database that is meant."""
    from deploy.data import DATABASE_FILE, find_places
    from storage.database import open_database
    from storage.incidents import IncidentStore

    return IncidentStore(open_database(find_places(config, data, DATABASE_FILE).database))


def open_log(config: Path | None, data: Path | None, *, is_there: bool = True) -> "Log":
    """Return the log that is meant; a file that is not there is made unless it has to be."""
    from deploy.data import LOG_FILE, find_places
    from storage import opening

    files = [LOG_FILE] if is_there else []
    return opening.open_log(find_places(config, data, *files).log)


def instant(option: str, text: str) -> datetime:
    """Read an instant, in UTC where it names no zone; raise BadSettings."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadSettings(f"{option}: write it as 2026-11-22T18:00:00+01:00") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)


def stderr() -> "Console":
    """Return where a person is told what goes on."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def show(what: Any) -> None:
    """Print tables and text for a person, anything else as one line of JSON."""
    from rich.console import Console
    from rich.table import Table

    if isinstance(what, Table):
        Console(width=None if sys.stdout.isatty() else 160).print(what)
    else:
        typer.echo(what if isinstance(what, str) else json.dumps(what))


def show_rows(rows: list[dict[str, Any]], columns: list[str], as_json: bool) -> None:
    """Print rows: as one line of JSON, or the named columns as a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(str("" if row[name] is None else row[name])) for name in columns))
    show(rows if as_json else table)
