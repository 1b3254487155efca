"""PgBouncer before the database: longwatch works through it, and says what it refuses."""

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest

import test_storage_postgres as contract
from alerts.dispatch.dispatcher import Dispatcher
from alerts.notify.courier import Courier
from alerts.worker import AlertsWorker
from deploy.config.data_dir import DATABASE_FILE, LOG_FILE
from kit.alerts.role import IMMEDIATE_POLICY, RULE
from kit.alerts.webhook_receiver import a_webhook, run_receiver
from kit.deploy.command import Command
from kit.postgres.pgbouncer import PASSWORD, Pooler, run_pgbouncer
from kit.postgres.server import Postgres, run_postgres
from kit.storage.fixtures import a_finding, an_incident, by_rule
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.copying import copy_database
from storage.db.database import inspect_schema, open_database
from storage.errors import StorageBlocked, StorageDown, StorageUnfit
from storage.log.sqlite.log import SqliteLog
from storage.records import wire
from storage.records.deliveries import DeliveryState
from storage.records.topics import FINDINGS
from test_commands_on_both_databases import ACTING, READING, SITE, write_data

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
    with run_pgbouncer(postgres, pool_mode=request.param) as made:
        yield made


@pytest.fixture(name="pooled")
def make_pooled(pooler: Pooler, postgres_url: str) -> str:
    return pooler.url(postgres_url)


def test_each_transaction_is_set_whichever_connection_it_gets(
    postgres: Postgres, postgres_url: str
) -> None:
    with run_pgbouncer(postgres) as pooler:
        engine, other = (open_database(pooler.url(postgres_url)) for _ in range(2))
        servers = set()
        for number in range(4):
            # Another client takes a connection of the pool away now and then.
            away = AlertStore(other).read_transaction() if number % 2 else nullcontext()
            with away, AlertStore(engine).transaction() as transaction:
                run = transaction.connection.exec_driver_sql
                found = {name: run(f"SHOW {name}").scalar_one() for name in SETTINGS}
                servers.add(run("SELECT pg_backend_pid()").scalar_one())
            assert found == SETTINGS
        assert len(servers) > 1
        engine.dispose()
        other.dispose()


def test_statement_that_is_often_used_is_not_prepared(
    postgres: Postgres, postgres_url: str
) -> None:
    with run_pgbouncer(postgres) as pooler:
        engine, other = (open_database(pooler.url(postgres_url)) for _ in range(2))
        store = AlertStore(engine)
        for number in range(24):
            # Another client takes a connection of the pool away now and then.
            with AlertStore(other).read_transaction() if number % 2 else nullcontext():
                assert store.committed_offset("alerts", FINDINGS) == 0
        engine.dispose()
        other.dispose()


def test_statements_are_prepared_where_no_pooler_is(postgres_url: str) -> None:
    engine = open_database(postgres_url)
    store = AlertStore(engine)
    for _ in range(12):
        store.committed_offset("alerts", FINDINGS)
    with store.read_transaction() as connection:
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
    direct = postgres.create_database("template0")
    url = pooler.url(direct)
    result = command("db", "upgrade", "--database", url)
    assert (result.returncode, "up to date" in result.stdout) == (0, True)
    schema = inspect_schema(url)
    assert schema.revision == schema.newest_revision
    postgres.drop(direct)


def test_commands_do_the_same_as_on_a_file(pooled: str, command: Command, tmp_path: Path) -> None:
    write_data(tmp_path)
    copy_database(f"sqlite:///{tmp_path / DATABASE_FILE}", pooled, lambda done, total: None)
    settings = tmp_path / "longwatch.yaml"
    settings.write_text(f"{SITE}database: {pooled}\n")
    for case in (*READING, *(each for each in ACTING if each.code == 0)):
        result = command(*case.words.split(), "-c", settings)
        assert (case.words, result.returncode) == (case.words, case.code), result.stderr
        assert case in ACTING or case.shows in result.stdout + result.stderr


def test_finding_becomes_an_incident_and_a_message(pooled: str, tmp_path: Path) -> None:
    engine, log = open_database(pooled), SqliteLog(tmp_path / LOG_FILE)
    store = AlertStore(engine)
    for number in range(4):
        log.append(FINDINGS, "dock", wire.encode_finding(a_finding(number)))
    with run_receiver() as receiver:
        AlertsWorker(log, store, (RULE,), lambda seconds: None, policy=IMMEDIATE_POLICY).run_once()
        dispatcher, courier = (
            Dispatcher(store, IMMEDIATE_POLICY),
            Courier(store, [a_webhook(receiver.url)]),
        )
        dispatcher.run_once(datetime.now(UTC))
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
        result = command(*words, "-c", settings)
        assert "ok       database: answers, it has schema" in result.stdout, result.stderr


def test_option_of_the_url_that_the_pooler_ignores_is_named(
    postgres: Postgres, postgres_url: str
) -> None:
    with run_pgbouncer(postgres, **IGNORES) as pooler:
        url = pooler.url(postgres_url)
        expected = "search_path is .*: set it by ALTER ROLE postgres SET search_path = "
        for reading in (False, True):
            with pytest.raises(StorageUnfit, match=f"a pooler ignores the options .*{expected}"):
                open_database(f"{url}?options=-csearch_path%3Dthere", read_only=reading)
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
    with run_pgbouncer(postgres, **settings) as pooler:
        url = pooler.url(postgres_url)
        if change is not None:
            url = f"{url}?".replace(*change).removesuffix("?")
        with pytest.raises(kind, match=told) as error:
            open_database(url)
    assert str(error.value).startswith("postgresql://127.0.0.1:")
    assert "\n" not in str(error.value)
    assert PASSWORD not in str(error.value)


def test_pool_that_is_used_up_is_named(postgres: Postgres, postgres_url: str) -> None:
    with run_pgbouncer(postgres, default_pool_size=1, query_wait_timeout=1) as pooler:
        engine = open_database(pooler.url(postgres_url))
        with AlertStore(engine).read_transaction() as connection:
            connection.exec_driver_sql("SELECT 1")
            with pytest.raises(StorageDown, match="raise default_pool_size of the pooler"):
                open_database(pooler.url(postgres_url))
        assert AlertStore(engine).incidents() == []
        engine.dispose()


@pytest.mark.slow
def test_server_and_pooler_that_stop_are_waited_for(tmp_path: Path) -> None:
    with (
        run_postgres() as server,
        run_pgbouncer(server, query_wait_timeout=2, server_login_retry=1) as pooler,
    ):
        engine = open_database(pooler.url(server.create_database()))
        store = AlertStore(engine)
        with pytest.raises(StorageDown), store.transaction() as transaction:
            transaction.insert_findings([a_finding()])
            server.stop("immediate")
            transaction.insert_findings([a_finding(1)])
        with pytest.raises(StorageBlocked):
            store.counts()
        server.start()
        wait_for(lambda: answers(store))
        with store.transaction() as transaction:
            transaction.save_revisions([by_rule(an_incident())])
        pooler.restart()
        wait_for(lambda: answers(store))
        assert store.counts().findings == 0
        assert store.incidents() == [an_incident()]
        engine.dispose()


def answers(store: AlertStore) -> bool:
    try:
        store.counts()
    except StorageBlocked:
        return False
    return True
