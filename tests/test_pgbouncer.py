"""PgBouncer before the database: longwatch works through it, and says what it refuses."""

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest
import test_storage_postgres as contract
from alerts_fixtures import a_webhook, receiving
from alerts_role import ROUTING, RULE
from deploy_fixtures import Command
from pgbouncer import PASSWORD, Pooler, pooling
from postgres_fixtures import Postgres, serving
from storage_fixtures import a_finding, an_incident, by_rule, wait_for
from test_commands_on_both_databases import ACTING, READING, SITE, write_data

from alerts.courier import Courier
from alerts.router import Router
from alerts.worker import AlertsWorker
from deploy.data import DATABASE_FILE, LOG_FILE
from storage import wire
from storage.copying import copy_database
from storage.database import open_database, schema_of
from storage.errors import StorageBlocked, StorageDown, StorageUnfit
from storage.incidents import IncidentStore
from storage.log import FINDINGS
from storage.records import DeliveryState
from storage.sqlite_log import SqliteLog

SETTINGS = {
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "1min",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "jit": "off",
    "transaction_isolation": "read committed",
}
IGNORES = {"ignore_startup_parameters": "options"}


@pytest.fixture(scope="module", params=["transaction", "session"], name="pooler")
def make_pooler(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[Pooler]:
    with pooling(postgres, pool_mode=request.param) as made:
        yield made


@pytest.fixture(name="pooled")
def make_pooled(pooler: Pooler, postgres_url: str) -> str:
    return pooler.url(postgres_url)


def test_each_transaction_is_set_whichever_connection_it_gets(
    postgres: Postgres, postgres_url: str
) -> None:
    with pooling(postgres) as pooler:
        engine, other = (open_database(pooler.url(postgres_url)) for _ in range(2))
        servers = set()
        for number in range(4):
            # Another client takes a connection of the pool away now and then.
            away = IncidentStore(other).reading() if number % 2 else nullcontext()
            with away, IncidentStore(engine).transaction() as ledger:
                run = ledger.connection.exec_driver_sql
                found = {name: run(f"SHOW {name}").scalar_one() for name in SETTINGS}
                servers.add(run("SELECT pg_backend_pid()").scalar_one())
            assert found == SETTINGS
        assert len(servers) > 1
        engine.dispose()
        other.dispose()


def test_statement_that_is_often_used_is_not_prepared(
    postgres: Postgres, postgres_url: str
) -> None:
    with pooling(postgres) as pooler:
        engine, other = (open_database(pooler.url(postgres_url)) for _ in range(2))
        store = IncidentStore(engine)
        for number in range(24):
            # Another client takes a connection of the pool away now and then.
            with IncidentStore(other).reading() if number % 2 else nullcontext():
                assert store.position("alerts", FINDINGS) == 0
        engine.dispose()
        other.dispose()


def test_statements_are_prepared_where_no_pooler_is(postgres_url: str) -> None:
    engine = open_database(postgres_url)
    store = IncidentStore(engine)
    for _ in range(12):
        store.position("alerts", FINDINGS)
    with store.reading() as connection:
        query = "SELECT count(*) FROM pg_prepared_statements"
        assert connection.exec_driver_sql(query).scalar_one() > 0
    engine.dispose()


def test_writers_come_one_after_another(pooled: str) -> None:
    contract.test_writers_come_one_after_another(pooled)


def test_who_reads_sees_one_instant_and_waits_for_no_writer(pooled: str) -> None:
    contract.test_who_reads_sees_one_instant_and_waits_for_no_writer(pooled)


file = contract.file


def test_copy_of_a_file_holds_the_same_rows(file: str, pooled: str) -> None:
    contract.test_copy_of_a_file_holds_the_same_rows(file, pooled)


def test_empty_database_is_brought_up(pooler: Pooler, postgres: Postgres, command: Command) -> None:
    direct = postgres.new("template0")
    url = pooler.url(direct)
    said = command("db", "upgrade", "--database", url)
    assert (said.returncode, "up to date" in said.stdout) == (0, True)
    schema = schema_of(url)
    assert schema.found == schema.known
    postgres.drop(direct)


def test_commands_do_the_same_as_on_a_file(pooled: str, command: Command, tmp_path: Path) -> None:
    write_data(tmp_path)
    copy_database(f"sqlite:///{tmp_path / DATABASE_FILE}", pooled, lambda done, total: None)
    settings = tmp_path / "longwatch.yaml"
    settings.write_text(f"{SITE}database: {pooled}\n")
    for case in (*READING, *(each for each in ACTING if each.code == 0)):
        said = command(*case.words.split(), "-c", settings)
        assert (case.words, said.returncode) == (case.words, case.code), said.stderr
        assert case in ACTING or case.shows in said.stdout + said.stderr


def test_finding_becomes_an_incident_and_a_message(pooled: str, tmp_path: Path) -> None:
    engine, log = open_database(pooled), SqliteLog(tmp_path / LOG_FILE)
    store = IncidentStore(engine)
    for number in range(4):
        log.append(FINDINGS, "dock", wire.encode_finding(a_finding(number)))
    with receiving() as receiver:
        AlertsWorker(log, store, (RULE,), lambda seconds: None, routing=ROUTING).run_once()
        router, courier = Router(store, ROUTING), Courier(store, [a_webhook(receiver.url)])
        router.run_once(datetime.now(UTC))
        courier.run_once(datetime.now(UTC))
    (incident,), (delivery,) = store.incidents(), store.deliveries()
    assert delivery.state is DeliveryState.DELIVERED
    assert receiver.ids() == [str(delivery.id)]
    assert str(incident.id) in receiver.posts[0].body.decode()
    log.close()
    engine.dispose()


def test_doctor_and_validate_find_the_database(
    pooled: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSET_KEY", "a1B2" * 8)
    settings = tmp_path / "longwatch.yaml"
    settings.write_text(f"{SITE}database: {pooled}\n".replace("data: .", f"data: {tmp_path}"))
    for words in (("validate", "--connect"), ("doctor",)):
        said = command(*words, "-c", settings)
        assert "ok       database: answers, it has schema" in said.stdout, said.stderr


def test_option_of_the_url_that_the_pooler_ignores_is_named(
    postgres: Postgres, postgres_url: str
) -> None:
    with pooling(postgres, **IGNORES) as pooler:
        url = pooler.url(postgres_url)
        told = "search_path is .*: set it by ALTER ROLE postgres SET search_path = "
        for reading in (False, True):
            with pytest.raises(StorageUnfit, match=f"a pooler ignores the options .*{told}"):
                open_database(f"{url}?options=-csearch_path%3Dthere", reading=reading)
        with pytest.raises(StorageUnfit, match="statement_timeout is 0, lock_timeout is 0: set"):
            open_database(f"{url}?options=-cstatement_timeout%3D200+--lock-timeout%3D7s")
        with pytest.raises(StorageUnfit, match="check the url's options"):
            open_database(f"{url}?options=-cnonsense%3D1")
        open_database(f"{url}?options=-c%20extra_float_digits%3D01").dispose()


@pytest.mark.parametrize(
    ("settings", "change", "kind", "told"),
    [
        ({}, ("/test_", "/nobody_"), StorageUnfit, 'database "nobody_.*" does not exist: check'),
        ({}, ("postgres:", "ann:"), StorageUnfit, "password authentication failed: check the url"),
        ({}, ("canary", "wrong"), StorageUnfit, "password authentication failed: check the url"),
        ({}, ("postgres:", "looker:"), StorageUnfit, 'role "looker" does not exist: check the url'),
        ({}, ("?", "?options=-cjit%3Doff"), StorageUnfit, "options: leave it out of the url, and"),
        (
            {"pool_mode": "statement"},
            None,
            StorageUnfit,
            "name a pool with pool_mode = transaction",
        ),
        ({"max_client_conn": 0}, None, StorageDown, "raise max_client_conn of the pooler"),
        (
            {"auth_type": "hba", "auth_hba_file": "/dev/null"},
            None,
            StorageUnfit,
            "login rejected: let the role in by the pooler's auth_hba_file",
        ),
    ],
)
def test_what_a_pooler_refuses_is_one_line(
    postgres: Postgres,
    postgres_url: str,
    settings: dict[str, object],
    change: tuple[str, str] | None,
    kind: type[Exception],
    told: str,
) -> None:
    with pooling(postgres, **settings) as pooler:
        url = pooler.url(postgres_url)
        if change is not None:
            url = f"{url}?".replace(*change).removesuffix("?")
        with pytest.raises(kind, match=told) as error:
            open_database(url)
    assert str(error.value).startswith("postgresql://127.0.0.1:")
    assert "\n" not in str(error.value)
    assert PASSWORD not in str(error.value)


def test_pool_that_is_used_up_is_named(postgres: Postgres, postgres_url: str) -> None:
    with pooling(postgres, default_pool_size=1, query_wait_timeout=1) as pooler:
        engine = open_database(pooler.url(postgres_url))
        with IncidentStore(engine).reading() as connection:
            connection.exec_driver_sql("SELECT 1")
            with pytest.raises(StorageDown, match="raise default_pool_size of the pooler"):
                open_database(pooler.url(postgres_url))
        assert IncidentStore(engine).incidents() == []
        engine.dispose()


@pytest.mark.slow
def test_server_and_pooler_that_stop_are_waited_for(tmp_path: Path) -> None:
    with (
        serving() as server,
        pooling(server, query_wait_timeout=2, server_login_retry=1) as pooler,
    ):
        engine = open_database(pooler.url(server.new()))
        store = IncidentStore(engine)
        with pytest.raises(StorageDown), store.transaction() as ledger:
            ledger.insert_findings([a_finding()])
            server.stop("immediate")
            ledger.insert_findings([a_finding(1)])
        with pytest.raises(StorageBlocked):
            store.counts()
        server.start()
        wait_for(lambda: answers(store))
        with store.transaction() as ledger:
            ledger.save([by_rule(an_incident())])
        pooler.restart()
        wait_for(lambda: answers(store))
        assert store.counts().findings == 0
        assert store.incidents() == [an_incident()]
        engine.dispose()


def answers(store: IncidentStore) -> bool:
    try:
        store.counts()
    except StorageBlocked:
        return False
    return True
