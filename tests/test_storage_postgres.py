"""What a server adds to a file: others beside us, restarts, refusals, and copies from files."""

import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen
from uuid import UUID

import pytest
from sqlalchemy import Engine, delete, select

from kit.chaos.postgres_restarts import run_postgres_restarts
from kit.postgres.server import Postgres, run_postgres
from kit.storage.fixtures import a_delivery, a_finding, an_incident, by_rule
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.audit import trail
from storage.db.audit.verification import verify_audit
from storage.db.copying import copy_database
from storage.db.database import READ_ONLY_OPTION, inspect_schema, open_database
from storage.errors import SchemaTooNew, StorageDown, StorageUnfit
from storage.records.topics import FINDINGS

PASSWORD = "canary-of-postgres"
NOWHERE = f"postgresql://ada:{PASSWORD}@127.0.0.1:1/longwatch"


@pytest.fixture
def server_of_my_own() -> Iterator[Postgres]:
    with run_postgres() as server:
        yield server


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A database in a file, with something in many tables."""
    url = f"sqlite:///{tmp_path / 'source.db'}"
    engine = open_database(url)
    with AlertStore(engine).transaction() as transaction:
        transaction.insert_findings([a_finding(n) for n in range(2500)])
        transaction.save_revisions([by_rule(an_incident())])
        transaction.deliveries.add(a_delivery(), b"{}", {an_incident().id: 1})
        transaction.advance_offset("alerts", FINDINGS, 0, 7)
        gone = replace(an_incident(), id=UUID(int=8), camera="yard")
        transaction.save_revisions([by_rule(gone)])
        trail.remove_incidents(transaction.connection, [str(gone.id)])
        is_gone = tables.incidents.c.id == str(gone.id)
        transaction.connection.execute(delete(tables.incidents).where(is_gone))
    engine.dispose()
    return url


def rows(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    with engine.begin() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in tables.metadata.sorted_tables
        }


def command(*arguments: str) -> tuple[int, str]:
    with Popen([sys.executable, "-m", "deploy", *arguments], stdout=PIPE, stderr=PIPE) as process:
        out, error = process.communicate()
    return process.returncode, (out + error).decode()


def test_services_that_start_at_once_make_one_schema(postgres: Postgres) -> None:
    url = postgres.create_database("template0")
    with ThreadPoolExecutor(4) as pool:
        for engine in pool.map(open_database, [url] * 4):
            engine.dispose()
    schema = inspect_schema(url)
    assert schema.revision == schema.newest_revision
    postgres.drop(url)


def test_writers_come_one_after_another(postgres_url: str) -> None:
    engines = [open_database(postgres_url) for _ in range(3)]

    def write(n: int) -> None:
        store = AlertStore(engines[n])
        for _ in range(15):
            with store.transaction() as transaction:
                table = tables.positions
                stands = transaction.connection.execute(select(table.c.next)).scalar() or 0
                time.sleep(0.001)
                transaction.advance_offset("alerts", FINDINGS, stands, stands + 1)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    assert AlertStore(engines[0]).committed_offset("alerts", FINDINGS) == 45
    for engine in engines:
        engine.dispose()


def test_server_that_is_down_is_named_without_its_password() -> None:
    with pytest.raises(StorageDown, match=r"127\.0\.0\.1:1/longwatch does not") as raised:
        open_database(NOWHERE)
    assert PASSWORD not in str(raised.value) + repr(raised.value.__cause__)


def test_database_that_is_not_there_is_unfit(postgres: Postgres) -> None:
    with pytest.raises(StorageUnfit, match="does not exist") as raised:
        open_database(postgres.url("nobody_made_me"))
    assert PASSWORD not in str(raised.value)


def test_database_of_somebody_else_is_unfit_and_untouched(postgres: Postgres) -> None:
    url = postgres.create_database("template0")
    engine = open_database(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    engine.dispose()
    with pytest.raises(StorageUnfit, match="something else"):
        open_database(url)
    postgres.drop(url)


def test_store_goes_on_after_the_server_was_restarted(server_of_my_own: Postgres) -> None:
    engine = open_database(server_of_my_own.create_database())
    store = AlertStore(engine)
    with pytest.raises(StorageDown), store.transaction() as transaction:
        transaction.insert_findings([a_finding()])
        server_of_my_own.stop("immediate")
        transaction.insert_findings([a_finding(1)])
    with pytest.raises(StorageDown):
        store.counts()
    server_of_my_own.start()
    assert store.counts().findings == 0
    with store.transaction() as transaction:
        assert transaction.insert_findings([a_finding()]) == [a_finding()]
    engine.dispose()


def test_who_reads_sees_one_instant_and_waits_for_no_writer(postgres_url: str) -> None:
    engine = open_database(postgres_url)
    store = AlertStore(engine)
    reading = engine.execution_options(**{READ_ONLY_OPTION: True})
    with reading.begin() as reader:
        assert verify_audit(reader).trail.number == 0
        with store.transaction() as transaction:
            transaction.save_revisions([by_rule(an_incident())])
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(store.incidents).result(timeout=5) == []
        assert store.incidents() == [an_incident()]
        assert verify_audit(reader).trail.number == 0
    engine.dispose()


def test_connection_that_was_idle_while_the_server_restarted_is_not_used(
    server_of_my_own: Postgres,
) -> None:
    engine = open_database(server_of_my_own.create_database())
    store = AlertStore(engine)
    assert store.counts().findings == 0
    server_of_my_own.stop()
    server_of_my_own.start()
    assert store.counts().findings == 0
    engine.dispose()


def test_copy_of_a_file_holds_the_same_rows(file: str, postgres_url: str) -> None:
    progress = list[tuple[int, int]]()
    count = copy_database(file, postgres_url, lambda done, total: progress.append((done, total)))
    source, target = open_database(file), open_database(postgres_url)
    assert rows(source) == rows(target)
    assert progress[-1] == (count, count) == (2507, 2507)
    store = AlertStore(target)
    assert store.verify_audit() == AlertStore(source).verify_audit()
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(replace(an_incident(), revision=2))])
    assert (store.verify_audit().trail.number, store.verify_audit().problem) == (3, None)
    source.dispose()
    target.dispose()


def test_copy_into_a_database_that_is_not_empty_is_refused(file: str, postgres_url: str) -> None:
    engine = open_database(postgres_url)
    with AlertStore(engine).transaction() as transaction:
        transaction.insert_findings([a_finding()])
    before = rows(engine)
    with pytest.raises(StorageUnfit, match="holds findings already: name an empty database"):
        copy_database(file, postgres_url, lambda done, total: None)
    assert rows(engine) == before
    engine.dispose()


def test_copy_of_a_trail_that_was_changed_is_refused_and_leaves_nothing(
    file: str, postgres_url: str
) -> None:
    engine = open_database(file)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_takes_no_update")
        connection.exec_driver_sql("UPDATE audit SET digest = 'beef'")
    engine.dispose()
    with pytest.raises(StorageUnfit, match="audit trail does not hold"):
        copy_database(file, postgres_url, lambda done, total: None)
    engine = open_database(postgres_url)
    assert not any(rows(engine).values())
    engine.dispose()


@pytest.mark.slow
def test_commands_bring_up_look_and_copy(file: str, postgres: Postgres) -> None:
    url = postgres.create_database("template0")
    assert command("db", "check", "--database", url)[0] == 1
    assert command("db", "copy", "--from", file, "--to", url)[0] == 0
    code, result = command("db", "check", "--database", url)
    assert (code, PASSWORD in result) == (0, False)
    assert command("db", "copy", "--from", file, "--to", url)[0] == 2
    engine = open_database(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    for what in ("check", "upgrade"):
        code, result = command("db", what, "--database", url)
        assert (code, "upgrade longwatch" in result, PASSWORD in result) == (2, True, False)
    code, result = command("db", "check", "--database", NOWHERE)
    assert (code, "does not answer" in result, PASSWORD in result) == (1, True, False)
    code, result = command("db", "check", "--database", f"mysql://ada:{PASSWORD}@x/y")
    assert (code, PASSWORD in result) == (2, False)
    with pytest.raises(SchemaTooNew):
        open_database(url)
    postgres.drop(url)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_restarts_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with run_postgres(durable=True) as server:
        result = run_postgres_restarts(tmp_path, server, 10, random.Random(seed))
    assert result.longest < 10
