"""`longwatch db`: look at a database, bring it up, copy it to another."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.console import AsJson, MaybeConfig, MaybeData, show, stderr
from deploy.data import DATABASE_FILE
from deploy.errors import BadSettings, Failed
from deploy.store import check_file, open_store

db = typer.Typer(no_args_is_help=True, help="Look at a database, bring it up, copy it.")

Database = Annotated[
    str | None,
    typer.Option(
        help="sqlite:///PATH or postgresql://USER@HOST/NAME; the password may stand in PGPASSWORD."
    ),
]


@db.command()
def status(
    database: Database = None,
    config: MaybeConfig = None,
    data: MaybeData = None,
    as_json: AsJson = False,
) -> None:
    """Show schema, leases, sizes and replication of a database, whatever its schema.

    What ~ stands before is an estimate.
    """
    from importlib.metadata import version

    from deploy.db_report import status_fields, status_parts
    from storage.database_status import database_status

    found = database_status(_url(database, config, data))
    if as_json:
        show(status_fields(found, version("longwatch")))
        return
    for part in status_parts(found, version("longwatch")):
        show(part)


@db.command()
def upgrade(database: Database = None, config: MaybeConfig = None, data: MaybeData = None) -> None:
    """Bring a database up to the schema of this longwatch; an empty one is filled with tables.

    Refused while an older longwatch writes beside which a migration is not safe.
    """
    from deploy.db_report import pending_text
    from storage.database import open_database, schema_of
    from storage.upgrades import FIRST_LEASE

    url = _url(database, config, data)
    schema = schema_of(url)
    if schema.found and schema.pending:
        show(f"{_place(url)}: {pending_text(schema.found, schema.pending, FIRST_LEASE)}")
    open_database(url).dispose()
    show(f"{_place(url)}: schema {schema_of(url).found}: up to date")


@db.command()
def check(
    database: Database = None,
    config: MaybeConfig = None,
    data: MaybeData = None,
    as_json: AsJson = False,
) -> None:
    """Say which schema a database has: exit 0 up to date, 1 not yet or no answer, 2 unusable."""
    from storage.database import schema_of

    url = _url(database, config, data)
    schema = schema_of(url)
    is_current = schema.found == schema.known
    if as_json:
        show({"schema": schema.found, "known": schema.known, "up_to_date": is_current})
    elif is_current:
        show(f"{_place(url)}: schema {schema.found}: up to date")
    if not is_current:
        found = f"schema {schema.found}" if schema.found else "no schema"
        told = f"{_place(url)}: {found}, not {schema.known}: run `longwatch db upgrade`"
        raise Failed(told)


@db.command()
def copy(
    source: Annotated[str, typer.Option("--from", help="The database that is read.")],
    target: Annotated[str, typer.Option("--to", help="An empty database that is filled.")],
) -> None:
    """Copy a whole database, say from SQLite to PostgreSQL; nothing changes in the source.

    Stop what writes into the source before: what it writes meanwhile is not copied.
    """
    from rich.progress import Progress

    from storage.copying import copy_database

    source, target = _checked("--from", source), _checked("--to", target)
    with Progress(console=stderr()) as bar:
        task = bar.add_task("rows", total=None)
        count = copy_database(
            source, target, lambda done, total: bar.update(task, completed=done, total=total)
        )
    show(f"{count} rows copied to {_place(target)}; the audit trail holds")


def _url(database: str | None, config: Path | None, data: Path | None) -> str:
    if database is None:
        with open_store(config, data) as store:
            if data is not None:
                check_file(data / DATABASE_FILE)
            return store.url
    if config is not None or data is not None:
        raise BadSettings("name one: --database URL, --config FILE or --data DIR")
    return _checked("--database", database)


def _checked(option: str, url: str) -> str:
    from storage.database import parse

    try:
        parse(url)
    except ValueError as error:
        raise BadSettings(f"{option}: {error}") from None
    return url


def _place(url: str) -> str:
    from storage.database import parse, place_of

    return place_of(parse(url))
