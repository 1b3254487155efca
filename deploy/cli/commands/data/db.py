"""`longwatch db`: inspect, upgrade and copy databases."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.common import DataOption, JsonOption, OptionalConfigOption, show, stderr_console
from deploy.cli.store import DataOptions, check_file, open_store
from deploy.config.data_dir import DATABASE_FILE
from deploy.errors import BadSettings, CommandFailed

db = typer.Typer(no_args_is_help=True, help="Inspect, upgrade and copy databases.")

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        help="sqlite:///PATH or postgresql://USER@HOST/NAME; PGPASSWORD may contain the password."
    ),
]


@db.command()
def status(
    database: DatabaseOption = None,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show schema, leases, sizes and replication of a database; ~ marks an estimate."""
    from importlib.metadata import version

    from deploy.cli.render.db import status_fields, status_parts
    from storage.db.status import database_status

    found = database_status(_url(database, config, data))
    if as_json:
        show(status_fields(found, version("longwatch")))
        return
    for part in status_parts(found, version("longwatch")):
        show(part)


@db.command()
def upgrade(
    database: DatabaseOption = None, config: OptionalConfigOption = None, data: DataOption = None
) -> None:
    """Upgrade a database to the schema of this longwatch, and make the tables of an empty one.

    Refused if a migration is not safe while an older longwatch writes.
    """
    from deploy.cli.render.db import pending_text
    from storage.db.database import inspect_schema, open_database
    from storage.db.upgrades import FIRST_SCHEMA_WITH_LEASES

    url = _url(database, config, data)
    schema = inspect_schema(url)
    if schema.revision and schema.pending:
        message = pending_text(schema.revision, schema.pending, FIRST_SCHEMA_WITH_LEASES)
        show(f"{_display_url(url)}: {message}")
    open_database(url).dispose()
    show(f"{_display_url(url)}: schema {inspect_schema(url).revision}: up to date")


@db.command()
def check(
    database: DatabaseOption = None,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the schema; exit 0 if up to date, 1 if older or without answer, 2 if unusable."""
    from storage.db.database import inspect_schema

    url = _url(database, config, data)
    schema = inspect_schema(url)
    is_current = schema.revision == schema.newest_revision
    if as_json:
        show({"schema": schema.revision, "known": schema.newest_revision, "up_to_date": is_current})
    elif is_current:
        show(f"{_display_url(url)}: schema {schema.revision}: up to date")
    if not is_current:
        found = f"schema {schema.revision}" if schema.revision else "no schema"
        message = f"{_display_url(url)}: {found}, not {schema.newest_revision}"
        raise CommandFailed(f"{message}: run `longwatch db upgrade`")


@db.command()
def copy(
    source: Annotated[str, typer.Option("--from", help="The database to copy.")],
    target: Annotated[str, typer.Option("--to", help="An empty database.")],
) -> None:
    """Copy a whole database, for example from SQLite to PostgreSQL.

    Stop longwatch first: rows that it writes meanwhile are not copied.
    """
    from rich.progress import Progress

    from storage.db.copying import copy_database

    source, target = _check_url("--from", source), _check_url("--to", target)
    with Progress(console=stderr_console()) as bar:
        task = bar.add_task("rows", total=None)
        count = copy_database(
            source, target, lambda done, total: bar.update(task, completed=done, total=total)
        )
    show(f"{count} rows copied to {_display_url(target)}; the audit trail is valid")


def _url(database: str | None, config: Path | None, data: Path | None) -> str:
    if database is None:
        with open_store(DataOptions(config, data)) as store:
            if data is not None:
                check_file(data / DATABASE_FILE)
            return store.database_url
    if config is not None or data is not None:
        raise BadSettings("name one: --database URL, --config FILE or --data DIR")
    return _check_url("--database", database)


def _check_url(option: str, url: str) -> str:
    from storage.db.database import parse_database_url

    try:
        parse_database_url(url)
    except ValueError as error:
        raise BadSettings(f"{option}: {error}") from None
    return url


def _display_url(url: str) -> str:
    from storage.db.database import database_location, parse_database_url

    return database_location(parse_database_url(url))
