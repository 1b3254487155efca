"""Each mood of a PostgreSQL server is one line that says what to do, within seconds."""

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import structlog
from sqlalchemy import Engine, create_engine, select, update
from structlog.testing import capture_logs

from deploy.config.data_dir import LOG_FILE
from kit.certificates import self_signed
from kit.deploy.command import Command
from kit.postgres.server import Postgres, run_postgres
from kit.storage.fixtures import a_finding, an_incident, by_rule
from kit.waiting import wait_for
from storage import loop as storage_loop
from storage.db.alert_store import AlertStore
from storage.db.copying import copy_database
from storage.db.database import open_database
from storage.db.postgres import engines as of_postgres
from storage.db.postgres.locks import WRITER_LOCK_ID, PostgresLock, find_blocking_lock
from storage.db.tables import incidents, metadata
from storage.errors import (
    StorageBusy,
    StorageDown,
    StorageError,
    StorageFailing,
    StorageRefused,
    StorageUnfit,
)
from storage.loop import repeat
from test_commands_on_both_databases import ACTING, READING, SITE, Case, write_log

PASSWORD = "canary-of-postgres"
LINE = 6.0
"""Seconds within which whoever looks gets a line: 5 to connect, or 3 for a lock, and a bit."""
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'"
ROLES = (
    "CREATE ROLE kept_out LOGIN",
    f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{PASSWORD}'",
    f"CREATE ROLE expired LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '2020-01-01'",
    "CREATE ROLE crowded LOGIN CONNECTION LIMIT 0",
    "CREATE ROLE people NOLOGIN",
    "CREATE ROLE plain LOGIN",
    "CREATE ROLE hasty LOGIN SUPERUSER",
    "ALTER ROLE hasty SET statement_timeout = '200ms'",
)
WHO_MAY = """\
host all kept_out 127.0.0.1/32 reject
host all guarded,expired 127.0.0.1/32 scram-sha-256
"""


@pytest.fixture(scope="module", name="server")
def make_server() -> Iterator[Postgres]:
    """Run a server whose roles and rules are our own."""
    with run_postgres() as server:
        rules = server.data / "pg_hba.conf"
        rules.write_text(WHO_MAY + rules.read_text())
        run(server.url("postgres"), "SELECT pg_reload_conf()", *ROLES)
        yield server


@pytest.fixture(name="url")
def make_url(server: Postgres) -> Iterator[str]:
    url = server.create_database()
    yield url
    server.drop(url)


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def of_role(url: str, role: str, password: str = "") -> str:
    return re.sub(r"//.*?@", f"//{role}:{password}@" if password else f"//{role}@", url)


def session(url: str) -> Engine:
    """Return an engine of somebody else."""
    named = url.replace("postgresql:", "postgresql+psycopg:")
    return create_engine(named, connect_args={"application_name": "backup"})


def run(url: str, *statements: str) -> object:
    """Run statements, each in a transaction of its own; return what the last one found."""
    engine = session(url).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            found = connection.exec_driver_sql(statement)
        value = found.scalar() if found.returns_rows else None
    engine.dispose()
    return value


@contextmanager
def held(url: str, *statements: str) -> Iterator[None]:
    """Let another session run statements and keep its transaction open."""
    engine = session(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
        yield
    engine.dispose()


@contextmanager
def queue(url: str, table: str) -> Iterator[None]:
    """Let a session read a table, and another wait for it to change the table."""

    def change() -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql("SET application_name = 'migration'")
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN unwanted int")
            connection.rollback()

    waits = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
    waits += " WHERE NOT l.granted AND a.application_name = 'migration'"
    engine = session(url)
    thread = threading.Thread(target=change)
    with held(url, f"SELECT count(*) FROM {table}"):
        thread.start()
        wait_for(lambda: bool(run(url, waits)))
        yield
    thread.join()
    engine.dispose()


@contextmanager
def listener(answer: bytes | None) -> Iterator[int]:
    """Listen on a port, answer each connection and close it; say nothing where None."""

    def serve() -> None:
        kept = []
        while True:
            try:
                made, _ = listening.accept()
            except OSError:
                break
            kept.append(made)
            if answer is not None:
                made.recv(64)
                made.sendall(answer)
                made.close()
        for each in kept:
            each.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def line_of(error: StorageError) -> str:
    told = str(error)
    assert "\n" not in told
    assert PASSWORD not in told
    return told


REFUSED = [
    (
        f"expired:{PASSWORD}",
        "",
        'authentication failed for user "expired": check the url, the role',
    ),
    ("guarded:wrong", "", 'authentication failed for user "guarded": check the url, the role'),
    ("guarded", "", "no password supplied: check the url, the role and its rights"),
    ("kept_out", "", "pg_hba.conf rejects .*: check the url, or let the role in by pg_hba.conf"),
    ("people", "", 'role "people" is not permitted to log in: check the url, the role'),
    ("nobody", "", 'role "nobody" does not exist: check the url, the role'),
    ("plain", "", "permission denied for table alembic_version"),
    ("postgres", "?sslmode=require", "does not support SSL.*: check the url's sslmode"),
    ("postgres", "?channel_binding=require", "channel binding required.*: check the url"),
    ("postgres", "?options=-cnothing%3D1", 'parameter "nothing": check the url\'s options'),
    ("postgres", "?options=-cwork_mem%3Dfew", 'parameter "work_mem": .*: check the url\'s options'),
]


@pytest.mark.parametrize(("role", "option", "told"), REFUSED)
@pytest.mark.parametrize("reading", [True, False])
def test_what_a_server_refuses_at_the_start_cannot_heal(
    server: Postgres, role: str, option: str, told: str, reading: bool
) -> None:
    url = of_role(server.url("longwatch_template"), *role.split(":")) + option
    with pytest.raises(StorageUnfit, match=told) as error:
        open_database(url, read_only=reading)
    assert line_of(error.value).startswith(f"postgresql://127.0.0.1:{server.port}/longwatch_templ")


@pytest.fixture(name="certificate")
def make_certificate(server: Postgres, tmp_path: Path) -> Iterator[Path]:
    """Let the server speak TLS; return its certificate, which is of 127.0.0.1."""
    pair = self_signed(tmp_path, "server")
    for file, name in ((pair.certificate, "server.crt"), (pair.key, "server.key")):
        shutil.copy(file, server.data / name)
        if os.getuid() == 0:
            shutil.chown(server.data / name, "postgres", "postgres")
    reload = "SELECT pg_reload_conf()"
    url = server.url("postgres")
    run(url, "ALTER SYSTEM SET ssl = on", reload)
    wait_for(lambda: run(url, "SHOW ssl") == "on")
    yield pair.certificate
    run(url, "ALTER SYSTEM RESET ssl", reload)
    wait_for(lambda: run(url, "SHOW ssl") == "off")


def test_certificate_that_does_not_hold_cannot_heal(
    server: Postgres, url: str, certificate: Path, tmp_path: Path
) -> None:
    other = self_signed(tmp_path, "other").certificate
    expected = "certificate.*: check the url's sslmode and the certificates"
    for host, file in (("127.0.0.1", other), ("localhost", certificate), ("127.0.0.1", "/none")):
        named = url.replace("127.0.0.1", host)
        with pytest.raises(StorageUnfit, match=expected) as error:
            open_database(f"{named}?sslmode=verify-full&sslrootcert={file}")
        line_of(error.value)
    open_database(f"{url}?sslmode=verify-full&sslrootcert={certificate}").dispose()


def test_port_of_something_else_cannot_heal_and_silence_is_not_waited_for() -> None:
    with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        for option in ("", "?sslmode=disable"):
            with pytest.raises(
                StorageUnfit, match="is no PostgreSQL: check the url's host and port"
            ):
                open_database(f"postgresql://ada@127.0.0.1:{port}/x{option}")
    with listener(None) as port:
        began = time.monotonic()
        with pytest.raises(StorageDown, match=rf"127.0.0.1:{port}/x does not answer"):
            open_database(f"postgresql://ada@127.0.0.1:{port}/x?connect_timeout=2", read_only=True)
        assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("[::1]:1", r"postgresql://\[::1\]:1/x does not answer"),
        ("no-such-host.invalid", "no-such-host.invalid/x does not answer"),
        ("%2Fnowhere", "postgresql:///nowhere/x does not answer .*No such file"),
        (":1", "postgresql://:1/x does not answer"),
    ],
)
def test_host_that_does_not_answer_is_named_and_waited_for(host: str, told: str) -> None:
    with pytest.raises(StorageDown, match=told) as error:
        open_database(f"postgresql://ada:{PASSWORD}@{host}/x", read_only=True)
    line_of(error.value)


def test_refusal_by_one_of_two_hosts_is_waited_for_where_the_other_is_away(
    server: Postgres,
) -> None:
    refusing = f"127.0.0.1:{server.port}"
    with pytest.raises(StorageDown, match="does not exist"):
        open_database(f"postgresql://nobody@127.0.0.1:1,{refusing}/x")
    with pytest.raises(StorageUnfit, match="does not exist"):
        open_database(f"postgresql://nobody@{refusing},{refusing}/x")


def test_server_that_takes_no_connection_now_is_waited_for(server: Postgres, url: str) -> None:
    with pytest.raises(StorageDown, match=r"takes no connection now .*CONNECTION LIMIT"):
        open_database(of_role(url, "crowded"))
    allow = f"ALTER DATABASE {name_of(url)} ALLOW_CONNECTIONS"
    run(server.url("postgres"), f"{allow} false")
    with pytest.raises(StorageDown, match=r"takes no connection now .*ALLOW_CONNECTIONS true"):
        open_database(url, read_only=True)
    run(server.url("postgres"), f"{allow} true")


def test_statement_that_takes_longer_than_its_server_allows_says_what_to_raise(
    server: Postgres,
) -> None:
    bare = server.create_database("template0")
    run(
        bare,
        "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM pg_sleep(5); END'",
        "CREATE EVENT TRIGGER slow ON ddl_command_start EXECUTE FUNCTION slow()",
    )
    with pytest.raises(StorageFailing, match="statement timeout: raise statement_timeout"):
        open_database(of_role(bare, "hasty"))
    server.drop(bare)


def test_short_password_is_not_looked_for_in_words(server: Postgres) -> None:
    with pytest.raises(StorageUnfit, match='user "expired"'):
        open_database(of_role(server.url("x"), "expired", "x"))


@pytest.fixture(name="engine")
def make_engine(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine that waits a moment for a lock."""
    monkeypatch.setattr(of_postgres, "_WRITER_LOCK_SECONDS", 0.2)
    engine = open_database(url)
    with AlertStore(engine).transaction() as transaction:
        transaction.save_revisions([by_rule(an_incident())])
    yield engine
    engine.dispose()


def test_lock_on_a_table_is_said_by_whoever_reads_it(engine: Engine, url: str) -> None:
    for table in metadata.sorted_tables:
        expected = rf"\(backup\) holds a lock on table {table.name} of"
        with (
            held(url, f"LOCK TABLE {table.name}"),
            pytest.raises(StorageBusy, match=expected) as error,
            AlertStore(engine).read_transaction() as connection,
        ):
            connection.execute(select(table))
        assert "does not answer" not in line_of(error.value)


def change(engine: Engine) -> None:
    with AlertStore(engine).transaction() as transaction:
        transaction.connection.execute(update(incidents).values(camera="yard"))


@pytest.mark.parametrize(
    ("statements", "told"),
    [
        (["LOCK TABLE incidents IN SHARE MODE"], "a lock on table incidents"),
        (["LOCK TABLE incidents IN EXCLUSIVE MODE"], "a lock on table incidents"),
        (["SELECT 1 FROM incidents FOR UPDATE"], "a lock on rows of table incidents"),
        (["UPDATE incidents SET camera = 'x'"], "a lock on rows of table incidents"),
        ([f"SELECT pg_advisory_xact_lock({WRITER_LOCK_ID})"], "the write lock"),
        # Who locks another table is not in the way.
        (
            ["LOCK TABLE findings", "SELECT 1 FROM incidents FOR UPDATE"],
            "a lock on rows of table incidents",
        ),
    ],
)
def test_lock_that_stops_writers_is_said(
    engine: Engine, url: str, statements: list[str], told: str
) -> None:
    with held(url, *statements):
        with pytest.raises(
            StorageBusy, match=rf"process \d+ of the server \(backup\) holds {told} of"
        ):
            change(engine)
        if "write" not in told:
            assert len(AlertStore(engine).incidents()) == 1
    change(engine)


def test_who_waits_in_the_queue_before_us_is_said_and_behind_whom(engine: Engine, url: str) -> None:
    expected = (
        r"\(migration\) waits for a lock on table incidents of .* behind process \d+ \(backup\)"
    )
    with queue(url, "incidents"), pytest.raises(StorageBusy, match=expected) as error:
        AlertStore(engine).incidents()
    line_of(error.value)
    assert len(AlertStore(engine).incidents()) == 1


def a_lock(mode: str, *, table: str = "incidents", is_granted: bool = True) -> PostgresLock:
    return PostgresLock(
        is_writer_lock=False,
        table=table,
        mode=mode,
        is_granted=is_granted,
        pid=None,
        application=None,
        blocked_by=None,
    )


def test_lock_that_is_in_the_way_is_chosen_by_the_statement() -> None:
    rows, reader = a_lock("RowShareLock"), a_lock("AccessShareLock")
    assert find_blocking_lock("SELECT id FROM incidents", [rows, reader]) is None
    assert find_blocking_lock("UPDATE incidents SET x = 1", [reader, rows]) == rows
    assert find_blocking_lock("ALTER TABLE incidents ADD y int", [reader]) == reader
    assert find_blocking_lock("UPDATE findings SET x = 1", [rows]) is None
    assert rows.holder == "a prepared transaction (see pg_prepared_xacts)"


def test_connection_that_is_ended_or_idle_for_too_long_is_no_silence(url: str) -> None:
    engine = open_database(f"{url}?options=-cidle_in_transaction_session_timeout%3D500")
    store = AlertStore(engine)
    with (
        pytest.raises(StorageDown, match=r"closed the connection .*somebody ended"),
        store.transaction() as transaction,
    ):
        run(url, END.format("longwatch"))
        transaction.insert_findings([a_finding()])
    idle = "closed the connection .*raise idle_in_transaction_session_timeout"
    with pytest.raises(StorageDown, match=idle), store.transaction() as transaction:
        transaction.insert_findings([a_finding()])
        time.sleep(1)
    with store.transaction() as transaction:
        assert transaction.insert_findings([a_finding()]) == [a_finding()]
    engine.dispose()


def test_copy_is_not_ended_for_being_idle(url: str, tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path / 'source.db'}"
    engine = open_database(source)
    with AlertStore(engine).transaction() as transaction:
        transaction.insert_findings([a_finding(n) for n in range(1500)])
    engine.dispose()
    slow = f"{url}?options=-cidle_in_transaction_session_timeout%3D500"
    assert copy_database(source, slow, lambda done, total: time.sleep(0.8)) == 1500


def test_all_connections_in_use_is_waited_for(url: str) -> None:
    engine = open_database(url)
    engine.pool._timeout = 0.1  # type: ignore[attr-defined]
    with ExitStack() as used:
        for _ in range(15):
            used.enter_context(AlertStore(engine).read_transaction())
        with pytest.raises(StorageFailing, match="all connections of this process"):
            AlertStore(engine).counts()
    assert AlertStore(engine).counts().findings == 0
    engine.dispose()


def test_deadlock_with_somebody_else_is_tried_again(url: str) -> None:
    engine = open_database(url)
    with AlertStore(engine).transaction() as transaction:
        transaction.insert_findings([a_finding()])
        transaction.save_revisions([by_rule(an_incident())])
    with ExitStack() as stack:
        theirs = session(url)
        stack.callback(theirs.dispose)
        other = stack.enter_context(theirs.begin())
        other.exec_driver_sql("SET deadlock_timeout = '60s'")
        other.exec_driver_sql("UPDATE findings SET camera = 'x'")
        taken = threading.Thread(target=other.exec_driver_sql, args=("LOCK TABLE incidents",))
        with (
            pytest.raises(StorageFailing, match="deadlock"),
            AlertStore(engine).transaction() as transaction,
        ):
            transaction.connection.execute(update(incidents).values(camera="yard"))
            taken.start()
            transaction.connection.exec_driver_sql("UPDATE findings SET camera = 'y'")
        taken.join()
    change(engine)
    engine.dispose()


def test_role_that_is_refused_while_it_runs_waits_and_goes_on(server: Postgres, url: str) -> None:
    engine = open_database(of_role(url, "guarded", PASSWORD))
    store = AlertStore(engine)
    password = "ALTER ROLE guarded PASSWORD"
    run(url, f"{password} 'another'", END.format("longwatch"))
    try:
        with pytest.raises(StorageRefused, match="authentication failed"):
            for _ in range(3):  # the first hears only that its connection was ended
                store.counts()
    finally:
        run(url, f"{password} '{PASSWORD}'")
    assert store.counts().findings == 0
    run(server.url("postgres"), END.format("longwatch"))
    rename = "ALTER DATABASE {} RENAME TO {}"
    run(server.url("postgres"), rename.format(name_of(url), "moved"))
    with pytest.raises(StorageRefused, match="does not exist"):
        store.counts()
    run(server.url("postgres"), rename.format("moved", name_of(url)))
    assert store.counts().findings == 0
    engine.dispose()


def test_each_error_is_said_once_for_as_long_as_storage_is_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage_loop, "BLOCKED_SECONDS", 0.0)
    down, full = StorageDown("db", "port 1"), StorageFailing("db", "full")
    steps = [down, StorageDown("db", "port 2"), full, down, full, None, down]
    stop = threading.Event()

    def step() -> int:
        problem = steps.pop(0)
        if not steps:
            stop.set()
        if problem is not None:
            raise problem
        return 0

    with capture_logs() as log_lines:
        repeat(step, stop, structlog.get_logger(), seconds=0.01)
    assert [line["event"] for line in log_lines] == [str(down), str(full), str(down)]


LOG_ALONE = {"tail", "dead list", "dead replay", "ask"}
"""The commands that read the log before the database, if they come to that at all."""


def those_of_the_database() -> Iterator[Case]:
    seen = set[str]()
    for case in (*READING, *ACTING):
        if case.name not in LOG_ALONE and case.name not in seen and "tail" not in case.name:
            seen.add(case.name)
            yield case


@pytest.fixture(name="site")
def make_site(url: str, tmp_path: Path) -> Path:
    write_log(tmp_path / LOG_FILE)
    file = tmp_path / "longwatch.yaml"
    file.write_text(f"{SITE}database: {url}\n")
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "code", "told"),
    [("guarded", 2, "no password supplied"), ("crowded", 1, "takes no connection now")],
)
def test_every_command_says_a_mood_in_one_line(
    server: Postgres,
    site: Path,
    url: str,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    code: int,
    told: str,
) -> None:
    site.write_text(f"{SITE}database: {of_role(url, role)}\n")
    monkeypatch.setenv("UNSET_KEY", "a1B2" * 8)
    for case in those_of_the_database():
        result = command(*case.words.split(), "-c", site)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (code, "", 1), (
            case.words
        )
        assert told in result.stderr
    result = command("validate", "--connect", "-c", site)
    assert result.returncode == 1
    assert re.search(f"(?m)^problem  database: .*{told}", result.stdout)


@pytest.mark.slow
def test_every_command_says_within_seconds_who_holds_a_lock(
    site: Path, url: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_postgres, "_WRITER_LOCK_SECONDS", 0.3)
    monkeypatch.setattr(of_postgres, "_READER_LOCK_SECONDS", 0.3)
    engine = open_database(url)
    with AlertStore(engine).transaction() as transaction:
        transaction.save_revisions([by_rule(an_incident())])
    engine.dispose()
    every = ", ".join(name for name in metadata.tables)
    with held(url, f"LOCK TABLE {every}"):
        for case in those_of_the_database():
            if case.name in ("db check", "db upgrade"):
                continue  # they look at the schema's own table alone
            began = time.monotonic()
            result = command(*case.words.split(), "-c", site)
            assert time.monotonic() - began < 3, case.words
            assert (result.returncode, result.stdout) == (1, ""), (case.words, result.stderr)
            assert re.fullmatch(r"process \d+ .*\(backup\) holds .*\n", result.stderr), (
                result.stderr
            )
    with held(url, "LOCK TABLE alembic_version"):
        for words in ("db check", "db upgrade", "incidents list"):
            result = command(*words.split(), "-c", site)
            assert (result.returncode, result.stderr.count("\n")) == (1, 1)
            assert "(backup) holds a lock on table alembic_version of" in result.stderr
