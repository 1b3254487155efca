"""`longwatch db status` shows any database, and writes nothing."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, func, select, text, update

from deploy.cli.render.db import status_fields, status_parts
from deploy.config.data_dir import DATABASE_FILE
from kit.alerts.history import fill_history
from kit.alerts.routing import AT_ONCE
from kit.deploy.command import Command
from kit.postgres.server import Postgres
from kit.storage.fixtures import START, a_finding, an_incident, by_rule
from kit.storage.releases import NEXT_REVISION, create_at_revision
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.database import known_revisions, open_database
from storage.db.leader_election import LeaderElector
from storage.db.postgres import engines as of_postgres
from storage.db.sql import table_sizes
from storage.db.status import DatabaseStatus, Replication, Standby, database_status
from storage.processes import process_identity
from test_postgres_refusals import held
from test_readers import contents, running, write_lock_held


def status_of(command: Command, url: str) -> Any:
    result = command("db", "status", "--database", url, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert "canary" not in result.stdout
    return json.loads(result.stdout)


def as_person(command: Command, url: str) -> str:
    result = command("db", "status", "--database", url)
    assert (result.returncode, result.stderr) == (0, "")
    assert "canary" not in result.stdout
    return " ".join(result.stdout.split())


def test_it_shows_schema_versions_and_sizes(
    database: str, engine: Engine, command: Command
) -> None:
    with AlertStore(engine).transaction() as transaction:
        transaction.insert_findings([a_finding(1), a_finding(0)])
        transaction.save_revisions([by_rule(an_incident())])
    found, head = status_of(command, database), known_revisions()[0]
    assert (found["schema"], found["known"], found["up_to_date"]) == (head, head, True)
    assert found["longwatch"] == version("longwatch")
    assert found["server"].startswith(("SQLite 3.", "PostgreSQL 15."))
    assert found["oldest_finding"] == a_finding(0).end.isoformat()
    assert found["oldest_incident"] == an_incident().first_seen_at.isoformat()
    rows = {each["name"]: each["rows"] for each in found["tables"]}
    assert (rows["findings"], rows["incidents"], rows["audit"], rows["leases"]) == (2, 1, 1, 0)
    assert {each.name for each in tables.metadata.sorted_tables} | {"alembic_version"} == set(rows)
    each = [each["size"] for each in found["tables"]]
    assert each == sorted(each, reverse=True)
    assert 0 < sum(each) <= found["size"]
    assert not any(each["rows_estimated"] or each["size_estimated"] for each in found["tables"])
    told = as_person(command, database)
    assert f"schema {head}: up to date" in told
    assert "none was ever taken" in told


def test_it_shows_who_holds_which_lease(database: str, engine: Engine, command: Command) -> None:
    elector = LeaderElector(engine, "alert", version="1.2.3")
    lease = elector.acquire()
    (found,) = status_of(command, database)["leases"]
    assert (found["name"], found["holder"], found["version"]) == ("alert", lease.holder, "1.2.3")
    assert (found["state"], found["term"]) == ("held", lease.term)
    told = as_person(command, database)
    assert "1.2.3" in told
    assert "expires in" in told
    elector.release()
    assert status_of(command, database)["leases"][0]["state"] == "released"
    assert "released 1s ago" in as_person(command, database)


def test_a_lease_that_nobody_renewed_or_whose_process_has_ended_is_shown_so(
    database: str, engine: Engine, command: Command
) -> None:
    if not process_identity():
        pytest.skip("this machine does not tell")
    gone = subprocess.run(
        [sys.executable, "-c", "from storage.processes import *; print(process_identity())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    LeaderElector(engine, "alert").acquire()
    now = datetime.now(UTC)
    for changed, state, told in (
        ({"process": gone}, "dead", "its process has ended"),
        ({"until": now + timedelta(hours=1)}, "expired", "the clock was set back"),
        ({"until": now - timedelta(minutes=3)}, "expired", "expired 3m"),
    ):
        with engine.begin() as connection:
            connection.execute(update(tables.leases).values(changed))
        assert status_of(command, database)["leases"][0]["state"] == state
        assert told in as_person(command, database)


@pytest.mark.parametrize("revision", ["0001", "0006", "0015"])
def test_an_older_schema_is_shown_as_it_is(
    postgres: Postgres, tmp_path: Path, command: Command, revision: str
) -> None:
    server = postgres.create_database("template0")
    for url in (f"sqlite:///{tmp_path / 'old.db'}", server):
        create_at_revision(url, revision).dispose()
        found, head = status_of(command, url), known_revisions()[0]
        assert (found["schema"], found["known"], found["up_to_date"]) == (revision, head, False)
        assert found["leases"] is None
        told = as_person(command, url)
        assert f"schema {revision}: older than {head}: run `longwatch db upgrade`" in told
        assert "none in this schema: writers are unknown" in told
    postgres.drop(server)


def test_a_newer_schema_is_shown_too(database: str, engine: Engine, command: Command) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{NEXT_REVISION}'")
        connection.exec_driver_sql("CREATE TABLE novelties (a INTEGER)")
        connection.exec_driver_sql("ALTER TABLE leases ADD COLUMN mood VARCHAR")
    LeaderElector(engine, "alert")
    found = status_of(command, database)
    assert (found["schema"], found["up_to_date"], found["leases"]) == (NEXT_REVISION, False, [])
    assert "novelties" in {each["name"] for each in found["tables"]}
    assert f"{NEXT_REVISION}: newer than {known_revisions()[0]}" in as_person(command, database)


def test_an_empty_database_and_a_foreign_one_are_shown(
    postgres: Postgres, command: Command
) -> None:
    url = postgres.create_database("template0")
    assert "schema none: `longwatch db upgrade` makes" in as_person(command, url)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql('CREATE TABLE "Odd ""name" AS SELECT generate_series(1, 7) AS a')
    engine.dispose()
    (found,) = status_of(command, url)["tables"]
    assert (found["name"], found["rows"]) == ('Odd "name', 7)
    assert "schema none: it contains tables of another application" in as_person(command, url)
    postgres.drop(url)


@contextmanager
def reader_of(url: str) -> Iterator[str]:
    """Give a role that may do nothing but SELECT."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE looker LOGIN")
        connection.exec_driver_sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker")
    yield url.replace("postgres:canary-of-postgres@", "looker@")
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP OWNED BY looker")
        connection.exec_driver_sql("DROP ROLE looker")
    engine.dispose()


def test_a_role_that_may_only_select_sees_the_same(postgres_url: str, command: Command) -> None:
    with reader_of(postgres_url) as url:
        mine, its = status_of(command, postgres_url), status_of(command, url)
        assert mine == its
        assert its["replication"]["is_standby"] is False


def test_rows_of_a_table_that_the_role_may_not_read_are_estimated(
    postgres_url: str, command: Command
) -> None:
    with reader_of(postgres_url) as url:
        engine = create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            connection.exec_driver_sql("REVOKE SELECT ON groups FROM looker")
        engine.dispose()
        found = {each["name"]: each for each in status_of(command, url)["tables"]}
        assert found["groups"]["rows_estimated"]
        assert not found["notices"]["rows_estimated"]


def test_it_does_not_wait_for_a_writer(database: str, command: Command) -> None:
    if database.startswith("sqlite"):
        holding = write_lock_held(Path(database.removeprefix("sqlite:///")))
    else:
        holding = held(database, f"SELECT pg_advisory_xact_lock({of_postgres.WRITER_LOCK_ID})")
    with holding:
        assert status_of(command, database)["up_to_date"]


@pytest.mark.parametrize("runs", [False, True], ids=["ended", "running"])
def test_it_writes_nothing_and_shows_the_wal(
    sqlite_template: Path, tmp_path: Path, command: Command, runs: bool
) -> None:
    shutil.copy(sqlite_template, tmp_path / DATABASE_FILE)
    url = f"sqlite:///{tmp_path / DATABASE_FILE}"
    if not runs:
        before = contents(tmp_path)
        assert status_of(command, url)["file"] == {"wal": 0, "free": 0}
        assert contents(tmp_path) == before
        return
    with running(tmp_path):
        before = contents(tmp_path)
        found = status_of(command, url)
        assert found["file"]["wal"] == (tmp_path / f"{DATABASE_FILE}-wal").stat().st_size > 0
        assert {each["name"]: each["rows"] for each in found["tables"]}["findings"] == 1
        assert contents(tmp_path) == before


def test_sizes_of_a_large_database_are_near(
    database: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_history(engine, 2000, AT_ONCE)
    engine.dispose()  # PostgreSQL counts what a connection wrote when it ends, at the latest
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
        exact = {each.name: each for each in table_sizes.table_sizes(connection)}
        monkeypatch.setattr(table_sizes, "_MAX_COUNTED_BYTES", 10_000)
        monkeypatch.setattr(table_sizes, "_MAX_COUNTED_ROWS", 100)
        monkeypatch.setattr(table_sizes, "_SAMPLE_PAGES", 20)
        near = {each.name: each for each in table_sizes.table_sizes(connection)}
        count = select(func.count()).select_from(tables.audit)
        assert exact["audit"].rows == connection.execute(count).scalar_one() == 6000
    assert near["audit"].rows_estimated
    for name in ("findings", "incidents", "audit", "deliveries", "notices", "evidence"):
        assert near[name].rows == pytest.approx(exact[name].rows, rel=0.05), name
        assert near[name].size == pytest.approx(exact[name].size, rel=0.35), name


def test_sizes_of_a_file_are_those_of_its_pages(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'longwatch.db'}"
    engine = open_database(url)
    fill_history(engine, 500, AT_ONCE)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM notices"))
    engine.dispose()
    found = database_status(url)
    assert found.file is not None
    assert found.file.free > 0
    of_the_schema = found.size - found.file.free - sum(each.size or 0 for each in found.tables)
    assert 0 < of_the_schema < 20 * 4096


def a_status(**changed: Any) -> DatabaseStatus:
    fields: dict[str, Any] = {
        "location": "postgresql://db/longwatch",
        "server": "PostgreSQL 15.8",
        "at": START,
        "revision": "0017",
        "newest_revision": "0017",
        "is_newer": False,
        "leases": (),
        "size": 1,
        "tables": (),
        "oldest_finding": None,
        "oldest_incident": None,
    }
    return DatabaseStatus(**fields | changed)


@pytest.mark.parametrize(
    ("replication", "told"),
    [
        ((False, None, "", ()), "primary; without standbys"),
        (
            (False, None, "s1", (("s1", "streaming", "sync"), ("s2", None, None))),
            "primary; synchronous_standby_names = 's1'; followed by s1 (streaming, sync),"
            " s2 (not shown to this role)",
        ),
        ((True, timedelta(seconds=2.5), "", ()), "standby, which accepts no writes, 3s behind"),
        ((True, None, "", ()), "standby, which accepts no writes"),
    ],
)
def test_replication_is_said_in_a_line(replication: Any, told: str) -> None:
    is_standby, behind, synchronous, standbys = replication
    followers = tuple(Standby(name=n, state=s, sync=how) for n, s, how in standbys)
    found = a_status(
        replication=Replication(
            is_standby=is_standby, behind=behind, synchronous=synchronous, standbys=followers
        )
    )
    assert f"replication  {told}" in list(status_parts(found, "0.1.0"))
    assert json.loads(json.dumps(status_fields(found, "0.1.0")))["replication"]
