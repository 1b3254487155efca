"""What a server refuses, holds locked or cannot do is one line that says what to do."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from deploy.config.data_dir import LOG_FILE
from kit.deploy.command import Command
from kit.postgres.server import Postgres
from kit.storage.fixtures import a_finding, an_incident, by_rule
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.postgres import engines as of_postgres
from storage.db.postgres import errors
from storage.db.postgres.locks import WRITER_LOCK_ID
from storage.db.postgres.server_url import parse_server_url
from storage.errors import StorageBlocked, StorageBusy, StorageDown, StorageFailing, StorageUnfit
from test_commands_on_both_databases import READING, SITE, write_log

PASSWORD = "canary-of-postgres"


def with_hosts(url: str, *hosts: str) -> str:
    return re.sub(r"@[^/]+/", f"@{','.join(hosts)}/", url)


def host_of(url: str) -> str:
    return url.partition("@")[2].partition("/")[0]


@contextmanager
def held(url: str, statement: str) -> Iterator[None]:
    """Let another session run a statement and keep its transaction open."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("SET application_name = 'backup'")
        connection.exec_driver_sql(statement)
        yield
    engine.dispose()


@pytest.mark.parametrize("dead_first", [True, False])
@pytest.mark.parametrize("form", ["{0},{1}", "?host={0}&host={1}"])
def test_of_two_hosts_the_one_that_answers_is_used(
    postgres_url: str, dead_first: bool, form: str
) -> None:
    hosts = ["127.0.0.1:1", host_of(postgres_url)]
    told = form.format(*(hosts if dead_first else hosts[::-1]))
    url = with_hosts(postgres_url, "" if "?" in told else told) + (told if "?" in told else "")
    for reading in (False, True):
        engine = open_database(url, read_only=reading)
        assert AlertStore(engine).counts().findings == 0
        engine.dispose()


def test_of_two_hosts_the_one_that_takes_writes_is_used(
    postgres: Postgres, postgres_url: str
) -> None:
    with other_server_that_only_reads(postgres, postgres_url) as standby:
        url = with_hosts(postgres_url, host_of(standby), host_of(postgres_url))
        engine = open_database(url)
        with AlertStore(engine).transaction() as transaction:
            transaction.insert_findings([a_finding()])
        engine.dispose()


@contextmanager
def other_server_that_only_reads(postgres: Postgres, url: str) -> Iterator[str]:
    """Reach the server by another name that the role may only read by, as a standby."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    name = url.rpartition("/")[2]
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE reader LOGIN IN ROLE pg_read_all_data")
        connection.exec_driver_sql("ALTER ROLE reader SET default_transaction_read_only = on")
    try:
        yield f"postgresql://reader@127.0.0.1:{postgres.port}/{name}"
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP ROLE reader")
        engine.dispose()


def test_server_that_takes_no_writes_is_read_and_not_written(
    postgres: Postgres, postgres_url: str
) -> None:
    with other_server_that_only_reads(postgres, postgres_url) as standby:
        reader = open_database(standby, read_only=True)
        assert AlertStore(reader).counts().findings == 0
        reader.dispose()
        for url in (standby, with_hosts(standby, host_of(standby), "127.0.0.1:1")):
            with pytest.raises(StorageFailing, match="it takes no writes, as a standby does"):
                open_database(url)


def test_server_that_becomes_a_standby_is_left(postgres_url: str) -> None:
    engine = open_database(postgres_url)
    store = AlertStore(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
    with pytest.raises(StorageFailing, match="takes no writes"), store.transaction() as transaction:
        transaction.insert_findings([a_finding()])
    with store.transaction() as transaction:  # by another connection
        assert transaction.insert_findings([a_finding()]) == [a_finding()]
    engine.dispose()


@pytest.fixture(name="site")
def make_site(postgres_url: str, tmp_path: Path) -> Path:
    write_log(tmp_path / LOG_FILE)
    engine = open_database(postgres_url)
    with AlertStore(engine).transaction() as transaction:
        transaction.save_revisions([by_rule(an_incident())])
    engine.dispose()
    file = tmp_path / "longwatch.yaml"
    file.write_text(f"{SITE}database: {postgres_url}\n")
    return file


def test_reader_of_a_locked_table_says_which_within_seconds(
    site: Path, command: Command, postgres_url: str
) -> None:
    with held(postgres_url, "LOCK TABLE incidents IN ACCESS EXCLUSIVE MODE"):
        began = time.monotonic()
        result = command("incidents", "list", "-c", site)
        assert time.monotonic() - began < 6
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    expected = (
        r"^process \d+ of the server \(backup\) holds a lock on table incidents of postgresql://"
    )
    assert re.match(expected, result.stderr), result.stderr


def test_readers_answer_while_another_session_writes(
    site: Path, command: Command, postgres_url: str
) -> None:
    with held(postgres_url, f"SELECT pg_advisory_xact_lock({WRITER_LOCK_ID})"):
        for case in READING:
            result = command(*case.words.split(), "-c", site)
            assert "holds" not in result.stderr, case.words


def test_who_acts_hears_who_holds_the_write_lock(
    site: Path, command: Command, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_postgres, "_WRITER_LOCK_SECONDS", 1)
    with held(postgres_url, f"SELECT pg_advisory_xact_lock({WRITER_LOCK_ID})"):
        result = command("incidents", "ack", "0000", "--by", "ann", "-c", site)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert re.match(r"process \d+ of the server \(backup\) holds the write lock", result.stderr)
    assert PASSWORD not in result.stderr
    assert command("incidents", "ack", "0000", "--by", "ann", "-c", site).returncode == 0


def test_statement_that_the_server_ends_is_not_a_server_that_is_down(postgres_url: str) -> None:
    url = f"{postgres_url}?options=-c%20statement_timeout%3D200"
    engine = open_database(url)
    with (
        pytest.raises(StorageBlocked, match="statement_timeout") as raised,
        AlertStore(engine).transaction() as transaction,
    ):
        transaction.connection.exec_driver_sql("SELECT pg_sleep(5)")
    assert "does not answer" not in str(raised.value)
    with (
        pytest.raises(StorageUnfit, match="its tables are not those of its schema"),
        AlertStore(engine).transaction() as transaction,
    ):
        transaction.connection.exec_driver_sql("SELECT nothing FROM nowhere")
    engine.dispose()


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("h:abc/x", "the port of h is a number from 1 to 65535"),
        ("h:0/x", "the port of h is a number from 1 to 65535"),
        ("h1:5432,h2:/x", "the port of h2 is a number from 1 to 65535"),
        ("h/x?sslmod=require", 'invalid connection option "sslmod"'),
        ("h/x?sslmode=requir", 'invalid sslmode value: "requir"'),
        ("h/x?target_session_attrs=rw", 'invalid target_session_attrs value: "rw"'),
        ("h/x?connect_timeout=abc", "bad value for connect_timeout: 'abc'"),
        ("h/x?connect_timeout=0", "connect_timeout: it would wait for ever"),
        ("h1,h2,h3/x?port=1,2", "port: name one, or one for each host"),
        ("tail-of-canary@h/x", "and @ in a password as %40"),
        ("tail-of-canary:w@h/x", "and @ in a password as %40"),
        ("h", "a server is written as postgresql://USER:PASSWORD@HOST/NAME"),
    ],
)
def test_url_that_cannot_work_is_refused_in_one_line(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, rest: str, told: str
) -> None:
    monkeypatch.setenv("UNSET_KEY", "a1B2" * 8)
    url = f"postgresql://ada:{PASSWORD}@{rest}"
    with pytest.raises(ValueError, match=re.escape(told)):
        open_database(url)
    file = tmp_path / "longwatch.yaml"
    file.write_text(f'{SITE}database: "{url}"\n')
    for words in ("validate", "incidents list", "db check", "receivers list"):
        result = command(*words.split(), "-c", file)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert f"{file}:10: database: " in result.stderr
        assert told in result.stderr
        assert "canary" not in result.stderr
    result = command("db", "check", "--database", url)
    assert (result.returncode, told in result.stderr, "canary" in result.stderr) == (2, True, False)


@pytest.mark.parametrize("option", ["sslmode=require", "keepalives_idle=abc"])
def test_option_that_the_server_does_not_take_is_unfit(postgres_url: str, option: str) -> None:
    with pytest.raises(StorageUnfit, match="check the url") as raised:
        open_database(f"{postgres_url}?{option}")
    assert PASSWORD not in str(raised.value)


def test_server_that_takes_a_connection_and_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://ada:{PASSWORD}@127.0.0.1:{silent.getsockname()[1]}/x"
        began = time.monotonic()
        with pytest.raises(StorageDown, match="does not answer"):
            open_database(f"{url}?connect_timeout=2")
        assert time.monotonic() - began < 8


def test_why_each_of_several_hosts_fails_is_said() -> None:
    with pytest.raises(StorageDown, match=r"port 1 failed.*; .*port 2 failed") as raised:
        open_database(f"postgresql://ada:{PASSWORD}@127.0.0.1:1,127.0.0.1:2/x")
    assert str(raised.value).startswith("postgresql://127.0.0.1:1,127.0.0.1:2/x does not answer")
    assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u:p@h1:5432,h2:5433/x", "postgresql://h1:5432,h2:5433/x"),
        ("postgresql://u:p@/x?host=h1:1&host=h2:2", "postgresql://h1:1,h2:2/x"),
        ("postgresql://u:p@h1,h2/x?port=7", "postgresql://h1:7,h2:7/x"),
        ("postgresql://u:p@/x?host=%2Frun%2Fpg", "postgresql:///run/pg/x"),
        ("postgresql://u:p@[::1]:5,[::2]/x", "postgresql://[::1]:5,[::2]/x"),
        ("postgresql+psycopg://u:a/b@h/x", "postgresql://h/x"),
        ("postgresql://h/x?user=u&password=p", "postgresql://h/x"),
    ],
)
def test_forms_of_urls(url: str, place: str) -> None:
    found = parse_server_url(url)
    assert found.location == place
    assert found.password in ("p", "a/b")
    assert "password" not in repr(found)
    assert errors.server_location(of_postgres.parse_postgres_url(url)) == place


def test_error_of_a_lock_names_no_more_than_is_known() -> None:
    assert str(StorageBusy("x.db")) == (
        "another process holds the write lock of x.db; nothing was changed, try again"
    )
