"""A schema is brought up beside a release that writes, or is left as it is and says who writes."""

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    DateTime,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    delete,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError

from deploy.config.data_dir import DATABASE_FILE
from kit.deploy.command import Command
from kit.postgres.server import Postgres
from kit.storage.fixtures import START
from kit.storage.releases import NEXT_REVISION, NextRelease, create_at_revision
from kit.waiting import wait_for
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.copying import copy_database
from storage.db.database import (
    MIGRATIONS,
    engine_for,
    inspect_schema,
    known_revisions,
    open_database,
)
from storage.db.leader_election import LeaderElector
from storage.db.postgres import engines as of_postgres
from storage.db.upgrades import FIRST_SCHEMA_WITH_LEASES, SchemaMigration, fence_older_writers
from storage.errors import LeaseLost, SchemaTooNew, StorageBusy, StorageUnfit
from test_commands_on_both_databases import ACTING, READING, write_data
from test_postgres_refusals import held

# SQLAlchemy reflects no index of an expression, and the tables are enough here.
pytestmark = pytest.mark.filterwarnings("ignore:.*expression-based index")

UNSAFE = ("ALTER TABLE receivers RENAME COLUMN reason TO why",)
SAFE = ("ALTER TABLE receivers ADD COLUMN note VARCHAR",)
APPEND_ONLY = ("audit", "acts")
NOT_IN_THE_DATABASE = ("dead", "tail", "ask")
OLD_WRITE = "INSERT INTO positions (reader, topic, next) VALUES (:reader, 'findings', 1)"


@pytest.fixture(params=["sqlite", "postgresql"], name="empty")
def make_empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The url of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.create_database("template0")
    yield url
    server.drop(url)


def next_release(folder: Path, *statements: str, is_safe: bool = False) -> NextRelease:
    return NextRelease(folder / "next", known_revisions()[0], is_safe, statements)


def steps() -> list[Any]:
    """Return the migrations that have to say whether they are safe."""
    found = ScriptDirectory(str(MIGRATIONS)).walk_revisions()
    return [step for step in found if step.revision >= FIRST_SCHEMA_WITH_LEASES]


def test_a_migration_says_whether_it_is_safe_beside_an_older_release_and_why() -> None:
    assert FIRST_SCHEMA_WITH_LEASES in [step.revision for step in steps()]
    for step in steps():
        assert step.module.safe_while_older_writes in (True, False), step.revision
        why = "Safe while an older release writes: |Not safe while an older release writes: "
        assert re.search(why, step.module.__doc__), step.revision


def key(table: str, column: str, number: int) -> str:
    return f"{table[:14]}-{column[:14]}-{number}"


def value_of(table: Table, column: Column[Any], number: int) -> object:
    for foreign in column.foreign_keys:
        return key(foreign.column.table.name, foreign.column.name, number)
    kinds: list[tuple[type[Any], object]] = [
        (Boolean, True),
        (Integer, number),
        (Float, float(number)),
        (DateTime, START),
        (JSON, []),
        (LargeBinary, b"x"),
    ]
    given = (value for kind, value in kinds if isinstance(column.type, kind))
    return next(given, key(table.name, column.name, number))


def statements_of(old: MetaData, number: int) -> dict[str, Any]:
    """Return what a release does that knows these tables: each is named."""
    found: dict[str, Any] = {}
    in_order = [table for table in old.sorted_tables if table.name != "alembic_version"]
    for table in in_order:
        row = {column.name: value_of(table, column, number) for column in table.c}
        found[f"insert {table.name}"] = insert(table).values(row)
    for table in in_order:
        found[f"update {table.name}"] = update(table).values({c.name: c for c in table.c})
        found[f"select {table.name}"] = select(table)
    for table in reversed(in_order):
        found[f"delete {table.name}"] = delete(table)
    return found


def works(connection: Connection, statement: Any) -> bool:
    try:
        with connection.begin_nested():
            connection.execute(statement)
    except DBAPIError:
        return False
    return True


def working(engine: Engine, old: MetaData, number: int) -> set[str]:
    with engine.begin() as connection:
        found = statements_of(old, number).items()
        return {name for name, statement in found if works(connection, statement)}


def broken_by_the_upgrade(engine: Engine, url: str) -> set[str]:
    """Return what a release of the schema before cannot do any more after an upgrade."""
    old = MetaData()
    old.reflect(engine)
    before = working(engine, old, 1)
    tables_written = {name for name in before if name.startswith("insert")}
    assert len(tables_written) == len(old.tables) - 1  # without alembic_version
    open_database(url).dispose()
    return before - working(engine, old, 2)


@pytest.mark.parametrize(
    "step",
    [step for step in steps() if step.module.safe_while_older_writes],
    ids=lambda step: step.revision,
)
def test_an_older_release_does_after_a_safe_migration_what_it_did_before(
    empty: str, step: Any
) -> None:
    engine = create_at_revision(empty, step.down_revision)
    assert broken_by_the_upgrade(engine, empty) == set()
    engine.dispose()


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        (UNSAFE[0], {"insert receivers", "update receivers", "select receivers"}),
        (
            "DROP TABLE buckets",
            {f"{what} buckets" for what in ("insert", "update", "select", "delete")},
        ),
        (SAFE[0], set()),
    ],
)
def test_a_migration_that_is_not_safe_is_seen(
    empty: str, tmp_path: Path, statement: str, broken: set[str]
) -> None:
    head = known_revisions()[0]
    engine = create_at_revision(empty, head)
    with NextRelease(tmp_path / "next", head, True, (statement,)):
        assert broken_by_the_upgrade(engine, empty) == broken
    engine.dispose()


def test_an_older_release_writes_on_while_its_database_is_brought_up(empty: str) -> None:
    old, stop, written = create_at_revision(empty, "0015"), threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            reader = f"reader-{threading.get_ident()}-{time.monotonic_ns()}"
            with old.begin() as connection:
                connection.execute(text(OLD_WRITE), {"reader": reader})
            written.append(reader)

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write) for _ in range(3)]
        try:
            wait_for(lambda: len(written) > 20)
            open_database(empty).dispose()
            after = len(written)
            wait_for(lambda: len(written) > after + 20)
        finally:
            stop.set()
        for each in writers:
            each.result()
    with old.connect() as connection:
        found = set(connection.scalars(select(tables.positions.c.reader)))
    old.dispose()
    assert found.issuperset(written)
    assert inspect_schema(empty).pending == ()


def test_who_writes_keeps_a_migration_away_that_is_not_safe_beside_it(
    database: str, engine: Engine, tmp_path: Path, command: Command
) -> None:
    old = LeaderElector(engine, "alert", version="1.2.3")
    holder = old.acquire().holder
    before = inspect_schema(database).revision
    with next_release(tmp_path, *UNSAFE):
        with pytest.raises(StorageUnfit) as raised:
            open_database(database)
        result = command("db", "upgrade", "--database", database)
        assert (result.returncode, result.stderr) == (2, f"{raised.value}\n")
        assert (
            f"1 migration from schema {before} to {NEXT_REVISION}, of which {NEXT_REVISION} not"
            in result.stdout
        )
        assert inspect_schema(database).revision == before
        old.renew()
        old.release()
        assert command("db", "upgrade", "--database", database).returncode == 0
        assert inspect_schema(database).revision == NEXT_REVISION
    for words in (
        f"{holder} holds the lease 'alert' with longwatch 1.2.3",
        NEXT_REVISION,
        "stop that",
    ):
        assert words in str(raised.value)
    assert "canary" not in str(raised.value)


def test_a_safe_migration_is_made_beside_who_writes(
    database: str, engine: Engine, tmp_path: Path, command: Command
) -> None:
    old = LeaderElector(engine, "alert", version="1.2.3")
    term = old.acquire().term
    with next_release(tmp_path, *SAFE, is_safe=True):
        result = command("db", "upgrade", "--database", database)
        assert (result.returncode, result.stderr) == (0, "")
        assert f"to {NEXT_REVISION}, safe while an older longwatch writes\n" in result.stdout
    old.renew()
    with AlertStore(engine, old).transaction():
        pass
    assert LeaderElector(engine, "alert").acquire().term == term


def test_who_slept_through_an_upgrade_keeps_nothing(
    database: str, engine: Engine, tmp_path: Path
) -> None:
    old = LeaderElector(engine, "alert", seconds=0.2)
    old.acquire()
    time.sleep(0.3)
    with next_release(tmp_path, *UNSAFE):
        open_database(database).dispose()
    with pytest.raises(LeaseLost, match=f"the upgrade to schema {NEXT_REVISION} has taken it"):
        old.renew()
    with pytest.raises(LeaseLost), AlertStore(engine, old).transaction():
        pass


def test_who_stood_by_before_an_upgrade_does_not_lead_after_it(
    database: str, engine: Engine, tmp_path: Path
) -> None:
    leader, standby = LeaderElector(engine, "alert"), LeaderElector(engine, "alert")
    leader.acquire()
    standby.acquire()
    leader.release()
    with next_release(tmp_path, *UNSAFE):
        open_database(database).dispose()
    with pytest.raises(SchemaTooNew, match=f"it has schema {NEXT_REVISION}"):
        standby.acquire()
    assert not standby.is_held


def test_nobody_takes_the_lease_while_a_migration_runs_beside_which_that_is_not_safe(
    postgres_url: str,
) -> None:
    engine = open_database(postgres_url)
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as connection:
            fence_older_writers(
                connection, "db", (SchemaMigration(revision=NEXT_REVISION, is_safe=False),)
            )
            taking = pool.submit(LeaderElector(engine, "alert").acquire)
            time.sleep(0.5)
            assert not taking.done()
            connection.exec_driver_sql(
                f"UPDATE alembic_version SET version_num = '{NEXT_REVISION}'"
            )
        with pytest.raises(SchemaTooNew):
            taking.result()
    engine.dispose()


def test_a_migration_that_fails_leaves_nothing(database: str, tmp_path: Path) -> None:
    before = inspect_schema(database).revision
    statements = ("CREATE TABLE half (a INTEGER)", *UNSAFE, "INSERT INTO nowhere VALUES (1)")
    with next_release(tmp_path, *statements), pytest.raises(StorageUnfit):
        open_database(database)
    assert inspect_schema(database).revision == before
    engine = open_database(database)
    found = inspect(engine)
    assert not found.has_table("half")
    assert "reason" in {column["name"] for column in found.get_columns("receivers")}
    engine.dispose()


def test_a_migration_waits_for_a_lock_and_says_who_holds_it(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_postgres, "_WRITER_LOCK_SECONDS", 1)
    before = inspect_schema(postgres_url).revision
    with (
        next_release(tmp_path, "CREATE TABLE half (a INTEGER)", *UNSAFE),
        held(postgres_url, "LOCK TABLE receivers IN ACCESS EXCLUSIVE MODE"),
        pytest.raises(StorageBusy, match=r"\(backup\) holds a lock on table receivers of "),
    ):
        open_database(postgres_url)
    assert inspect_schema(postgres_url).revision == before


def test_who_waits_for_an_upgrade_is_told_so(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_postgres, "_WRITER_LOCK_SECONDS", 1)
    engine = open_database(postgres_url)
    with (
        engine.begin() as connection,
        pytest.raises(StorageBusy, match=r"\(longwatch upgrade\) holds the write lock"),
    ):
        fence_older_writers(connection, "db", ())
        with AlertStore(engine).transaction():
            pass
    engine.dispose()


def test_an_upgrade_says_how_far_and_what_it_cannot_see(empty: str, command: Command) -> None:
    create_at_revision(empty, "0013").dispose()
    head = known_revisions()[0]
    result = command("db", "upgrade", "--database", empty)
    assert (result.returncode, result.stderr) == (0, "")
    first, last = result.stdout.splitlines()
    assert f"migrations from schema 0013 to {head}, of which 0014, 0015 not safe while" in first
    assert f"before {FIRST_SCHEMA_WITH_LEASES} a longwatch holds no lease" in first
    assert last.endswith(f"schema {head}: up to date")
    assert command("db", "upgrade", "--database", empty).stdout == f"{last}\n"


def all_rows(url: str) -> dict[str, object]:
    engine = engine_for(url, read_only=True)
    with engine.begin() as connection:
        found: dict[str, object] = {
            table.name: sorted(map(repr, connection.execute(select(table))))
            for table in tables.metadata.sorted_tables
        }
    engine.dispose()
    return found


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_older_release_is_refused_in_one_line_by_each_command(
    request: pytest.FixtureRequest, tmp_path: Path, command: Command, kind: str
) -> None:
    write_data(tmp_path)
    url = f"sqlite:///{tmp_path / DATABASE_FILE}"
    if kind == "postgresql":
        file, url = url, request.getfixturevalue("postgres_url")
        copy_database(file, url, lambda done, total: None)
        (tmp_path / DATABASE_FILE).unlink()
        with (tmp_path / "longwatch.yaml").open("a") as config:
            config.write(f"database: {url}\n")
    engine = open_database(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{NEXT_REVISION}'")
    engine.dispose()
    before = all_rows(url)
    tried = [each for each in (*READING, *ACTING) if not each.words.startswith(NOT_IN_THE_DATABASE)]
    for case in tried:
        result = command(*case.words.split(), "-c", tmp_path / "longwatch.yaml")
        assert (result.returncode, result.stdout) == (2, ""), case.words
        newest = rf"it has schema {NEXT_REVISION}, this longwatch knows up to \d+"
        expected = rf".*: {newest}: upgrade longwatch\n"
        assert re.fullmatch(expected, result.stderr), result.stderr
    assert all_rows(url) == before
