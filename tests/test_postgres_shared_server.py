"""Somebody else's PostgreSQL: rights, schemas, defaults, time zones, collations and encodings."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
import structlog
from sqlalchemy import create_engine, inspect
from structlog.testing import capture_logs

from deploy.config.data_dir import LOG_FILE
from kit.deploy.command import Command
from kit.postgres.server import Postgres
from kit.storage.fixtures import a_delivery, a_finding, an_incident, by_rule
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.database import inspect_schema, open_database
from storage.db.outbox import Outbox
from storage.db.postgres import engines as of_postgres
from storage.db.rows.findings import FindingStore
from storage.db.rows.newest_incidents import newest_incidents
from storage.db.silences import known_cameras_and_rules
from storage.errors import StorageBusy, StorageUnfit
from storage.loop import repeat
from storage.records.records import Incident
from test_commands_on_both_databases import READING, SITE, write_log
from test_postgres_refusals import held

PASSWORD = "canary-of-postgres"
ALL = "SELECT, INSERT, UPDATE, DELETE"


def run(url: str, *statements: str) -> None:
    """Run statements as the server's administrator."""
    engine = create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def url_as(role: str, url: str) -> str:
    return url.replace("//postgres:", f"//{role}:")


@pytest.fixture(name="roles", autouse=True)
def make_roles(postgres: Postgres, postgres_url: str) -> Iterator[None]:
    """Make the roles `longwatch` and `looker`, which have no rights in the database of a test."""
    run(postgres_url, "CREATE ROLE longwatch LOGIN", "CREATE ROLE looker LOGIN")
    yield
    run(postgres_url, "DROP OWNED BY longwatch, looker CASCADE", "DROP ROLE longwatch, looker")


@pytest.fixture(name="empty")
def make_empty(postgres: Postgres) -> Iterator[str]:
    url = postgres.create_database("template0")
    yield url
    run(url, "DROP OWNED BY longwatch, looker CASCADE")
    postgres.drop(url)


def grant(url: str) -> None:
    run(
        url,
        f"GRANT {ALL} ON ALL TABLES IN SCHEMA public TO longwatch",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO longwatch",
    )


def test_first_start_without_a_right_to_make_tables_says_which(
    empty: str, command: Command
) -> None:
    result = command("db", "upgrade", "--database", url_as("longwatch", empty))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    expected = (
        "permission denied for schema public: GRANT USAGE, CREATE ON SCHEMA public TO longwatch"
    )
    assert expected in result.stderr
    assert PASSWORD not in result.stderr
    run(empty, "GRANT CREATE ON SCHEMA public TO longwatch")
    assert command("db", "upgrade", "--database", url_as("longwatch", empty)).returncode == 0


@pytest.mark.parametrize(
    ("taken", "told"),
    [
        (f"{ALL} ON findings", "lacks SELECT on findings; INSERT on findings; UPDATE on findings"),
        ("INSERT ON deliveries, incidents", "lacks INSERT on deliveries, incidents: GRANT"),
        ("DELETE ON coverage", "lacks DELETE on coverage: GRANT SELECT, INSERT, UPDATE, DELETE ON"),
        ("USAGE ON dead_letters_number_seq", "lacks USAGE on public.dead_letters_number_seq"),
        ("SELECT ON alembic_version", "alembic_version: GRANT SELECT ON TABLE alembic_version TO"),
    ],
)
def test_start_without_a_right_says_which(
    postgres_url: str, command: Command, taken: str, told: str
) -> None:
    grant(postgres_url)
    run(postgres_url, f"REVOKE {taken} FROM longwatch")
    with pytest.raises(StorageUnfit, match=told):
        open_database(url_as("longwatch", postgres_url))
    result = command("db", "upgrade", "--database", url_as("longwatch", postgres_url))
    assert (result.returncode, result.stderr.count("\n"), told in result.stderr) == (2, 1, True)


def test_rights_that_nobody_uses_may_be_taken(postgres_url: str) -> None:
    grant(postgres_url)
    run(
        postgres_url,
        "REVOKE UPDATE ON audit, acts, checkpoints FROM longwatch",
        "REVOKE DELETE ON acts FROM longwatch",
    )
    engine = open_database(url_as("longwatch", postgres_url))
    store = AlertStore(engine)
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(an_incident())])
    assert store.verify_audit().problem is None
    engine.dispose()


def test_right_that_is_taken_away_is_waited_for(postgres_url: str) -> None:
    grant(postgres_url)
    engine = open_database(url_as("longwatch", postgres_url))
    store, stop, number = AlertStore(engine), threading.Event(), iter(range(1_000_000))

    def step() -> int:
        with store.transaction() as transaction:
            return len(transaction.insert_findings([a_finding(next(number))]))

    def count() -> int:
        return store.counts().findings

    logger = structlog.get_logger("test")
    with capture_logs() as log_lines, ThreadPoolExecutor(1) as pool:
        running = pool.submit(repeat, step, stop, logger, seconds=0.02)
        wait_for(lambda: count() > 2)
        run(postgres_url, "REVOKE INSERT ON findings FROM longwatch")
        wait_for(lambda: len(log_lines) > 0)
        before = count()
        run(postgres_url, "GRANT INSERT ON findings TO longwatch")
        wait_for(lambda: count() > before)
        stop.set()
        running.result()
    (line,) = log_lines
    expected = "permission denied for table findings: GRANT INSERT ON TABLE findings TO longwatch"
    assert line["event"].endswith(expected)
    engine.dispose()


def test_command_without_a_right_ends_as_what_is_to_be_mended(
    postgres_url: str, command: Command, tmp_path: Path
) -> None:
    run(postgres_url, "GRANT SELECT ON alembic_version TO looker")
    file = tmp_path / "longwatch.yaml"
    file.write_text(f"{SITE}database: {url_as('looker', postgres_url)}\n")
    result = command("incidents", "list", "-c", file)
    expected = "permission denied for table incidents: GRANT SELECT ON TABLE incidents TO looker\n"
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith(expected)


def test_commands_that_look_need_to_read_and_no_more(
    postgres_url: str, command: Command, tmp_path: Path
) -> None:
    run(postgres_url, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker")
    write_log(tmp_path / LOG_FILE)
    engine = open_database(postgres_url)
    with AlertStore(engine).transaction() as transaction:
        transaction.insert_findings([a_finding()])
        transaction.save_revisions([by_rule(an_incident())])
    engine.dispose()
    file = tmp_path / "longwatch.yaml"
    for case in READING:
        messages = []
        for role in ("postgres", "looker"):
            file.write_text(f"{SITE}database: {url_as(role, postgres_url)}\n")
            messages.append(command(*case.words.split(), "-c", file))
        (one, other), words = messages, case.words
        assert (words, one.returncode, one.stdout) == (words, other.returncode, other.stdout)
    acted = command("incidents", "ack", "0000", "--by", "ann", "-c", file)
    assert (acted.returncode, "role looker lacks INSERT on" in acted.stderr) == (2, True)


def test_two_schemas_of_a_database_hold_two_longwatches(empty: str) -> None:
    for name in ("here", "there"):
        run(empty, f"CREATE SCHEMA {name} AUTHORIZATION longwatch")
    run(empty, "ALTER ROLE longwatch SET search_path = here")
    first = open_database(url_as("longwatch", empty))
    other_url = f"{url_as('longwatch', empty)}?options=-csearch_path%3Dthere"
    assert inspect_schema(other_url).revision is None
    other = open_database(other_url)
    with AlertStore(first).transaction() as transaction:
        transaction.save_revisions([by_rule(an_incident())])
        transaction.deliveries.add(a_delivery(), b"{}", {})
    assert len(AlertStore(first).incidents()) == 1
    assert AlertStore(other).incidents() == []
    made = {name: inspect(first).get_table_names(name) for name in ("here", "there", "public")}
    assert sorted(made["here"]) == sorted(made["there"])
    assert "alembic_version" in made["here"]
    assert made["public"] == []
    first.dispose()
    other.dispose()


@pytest.mark.parametrize("path", ["nowhere", "nowhere, public", '"$user", nowhere', "pg_temp"])
@pytest.mark.parametrize("reading", [False, True])
def test_schema_that_is_not_there_is_named(postgres_url: str, path: str, reading: bool) -> None:
    grant(postgres_url)
    run(postgres_url, f"ALTER ROLE longwatch SET search_path = {path}")
    name = "pg_temp" if path == "pg_temp" else "nowhere"
    with pytest.raises(StorageUnfit, match=rf"begins with schema {name}, which is not there"):
        open_database(url_as("longwatch", postgres_url), read_only=reading)


def test_schema_that_may_not_be_used_is_named(postgres_url: str) -> None:
    grant(postgres_url)
    run(postgres_url, "REVOKE ALL ON SCHEMA public FROM public")
    with pytest.raises(StorageUnfit, match="GRANT USAGE ON SCHEMA public TO longwatch"):
        open_database(url_as("longwatch", postgres_url))


def test_tables_of_a_schema_further_on_are_not_taken(postgres_url: str) -> None:
    grant(postgres_url)
    run(
        postgres_url,
        "CREATE SCHEMA mine AUTHORIZATION longwatch",
        "ALTER ROLE longwatch SET search_path = mine, public",
    )
    with pytest.raises(StorageUnfit, match="begins with schema mine, but leads to the tables of"):
        open_database(url_as("longwatch", postgres_url))
    run(postgres_url, "ALTER ROLE longwatch SET search_path = mine")
    open_database(url_as("longwatch", postgres_url)).dispose()


def test_who_holds_the_same_lock_in_another_database_is_not_named(
    postgres_url: str, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_postgres, "_WRITER_LOCK_SECONDS", 1)
    lock = f"SELECT pg_advisory_xact_lock({of_postgres.WRITER_LOCK_ID})"
    engine = open_database(postgres_url)
    with held(empty, f"SET application_name = 'stranger'; {lock}"), held(postgres_url, lock):
        with pytest.raises(StorageBusy, match=r"\(backup\) holds the write lock") as raised:
            AlertStore(engine).record_outcome(a_delivery())
        assert "stranger" not in str(raised.value)
    engine.dispose()


DEFAULTS = (
    "TimeZone = 'Pacific/Chatham'",
    "DateStyle = 'German, DMY'",
    "extra_float_digits = 0",
    "default_transaction_isolation = 'serializable'",
    "client_encoding = 'LATIN1'",
    "standard_conforming_strings = off",
    "bytea_output = 'escape'",
    "lock_timeout = 0",
    "synchronous_commit = off",
)


@pytest.mark.parametrize("of", ["ROLE longwatch", "DATABASE {name}"])
def test_defaults_of_a_role_or_a_database_change_nothing(postgres_url: str, of: str) -> None:
    grant(postgres_url)
    name = postgres_url.rpartition("/")[2]
    run(postgres_url, *(f"ALTER {of.format(name=name)} SET {each}" for each in DEFAULTS))
    engine = open_database(url_as("longwatch", postgres_url))
    store = AlertStore(engine)
    at = datetime(2026, 3, 29, 1, 59, 59, 123456, tzinfo=UTC)
    finding = replace(a_finding(0, 0.1 + 0.2, camera="Ørsted 東京"), start=at, end=at, since=at)
    with store.transaction() as transaction:
        transaction.insert_findings([finding])
        transaction.deliveries.add(a_delivery(), b"\\\x00\xff'", {})
        for setting, value in (("lock_timeout", "10s"), ("synchronous_commit", "on")):
            found = transaction.connection.exec_driver_sql(f"SHOW {setting}").scalar_one()
            assert (setting, found) == (setting, value)
    assert store.findings([finding.id]) == [finding]
    assert store.delivery_body(a_delivery()) == b"\\\x00\xff'"
    engine.dispose()


def test_writers_see_each_other_whatever_the_default_isolation(postgres_url: str) -> None:
    grant(postgres_url)
    run(postgres_url, "ALTER ROLE longwatch SET default_transaction_isolation = 'serializable'")
    engine = open_database(url_as("longwatch", postgres_url))
    store = AlertStore(engine)
    lock = f"SELECT pg_advisory_xact_lock({of_postgres.WRITER_LOCK_ID})"
    with ThreadPoolExecutor(1) as pool:
        with held(postgres_url, f"{lock}; INSERT INTO positions VALUES ('alerts', 'x', 7)"):
            moving = pool.submit(advance, store)
            wait_for(lambda: waits_for_a_lock(postgres_url))
        moving.result()
    assert store.committed_offset("alerts", "x") == 8
    engine.dispose()


def advance(store: AlertStore) -> None:
    with store.transaction() as transaction:
        transaction.advance_offset("alerts", "x", 7, 8)


def waits_for_a_lock(url: str) -> bool:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
        found = connection.exec_driver_sql(query).scalar_one()
    engine.dispose()
    return bool(found)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_database_of_another_encoding_is_unfit(postgres: Postgres, encoding: str) -> None:
    url = postgres.create_database("template0", f"LOCALE 'C' ENCODING '{encoding}'")
    for reading in (False, True):
        with pytest.raises(StorageUnfit, match=f"its encoding is {encoding}, .*ENCODING 'UTF8'"):
            open_database(url, read_only=reading)
    postgres.drop(url)


COLLATIONS = (
    "LOCALE 'C'",
    "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'",
    "LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'",
    "LOCALE_PROVIDER icu ICU_LOCALE 'da-DK'",
    "LOCALE_PROVIDER icu ICU_LOCALE 'und-u-kn-true-ka-shifted'",
)
CAMERAS = ("dock-10", "Dock-2", "dock 2", "aa", "ab", "Zaun", "ıstanbul", "Istanbul", "åbo", "_x")
IDS = [UUID(text) for text in (
    "aa000000-0000-4000-8000-000000000001", "ab000000-0000-4000-8000-000000000002",
    "a1000000-0000-4000-8000-000000000003", "10000000-0000-4000-8000-000000000004",
    "1a000000-0000-4000-8000-000000000005", "ff000000-0000-4000-8000-000000000006",
    "02000000-0000-4000-8000-000000000007", "00a00000-0000-4000-8000-000000000008",
    "aaa00000-0000-4000-8000-000000000009",
    "dd000000-0000-4000-8000-00000000000a",
)]  # fmt: skip


@pytest.mark.parametrize("collation", COLLATIONS)
def test_collation_changes_no_answer(postgres: Postgres, tmp_path: Path, collation: str) -> None:
    url = postgres.create_database("template0", collation)
    on_file, on_server = (answers(each) for each in (f"sqlite:///{tmp_path / 'x.db'}", url))
    postgres.drop(url)
    assert on_server == on_file


def answers(url: str) -> dict[str, object]:
    """Fill a database and return what it answers wherever the order of text matters."""
    engine = open_database(url)
    store = AlertStore(engine)
    findings = [a_finding(0, camera=camera, question="Bag") for camera in CAMERAS]
    incidents = [of_camera(id, camera) for id, camera in zip(IDS, CAMERAS, strict=True)]
    with store.transaction() as transaction:
        transaction.insert_findings(findings)
        transaction.save_revisions([by_rule(each) for each in incidents])
        for number, camera in enumerate(CAMERAS):
            delivery = replace(a_delivery(number + 1, camera), id=IDS[number])
            transaction.deliveries.add(delivery, b"{}", {each.id: 1 for each in incidents})
    prefixes = {str(id)[:length] for id in IDS for length in (1, 2, 3, 4, 9, 36)}
    found = {
        "findings": store.findings([each.id for each in findings]),
        "pages": list(FindingStore(engine).between(None, None)),
        "incidents": store.incidents(),
        "begins": {each: begins(store, each) for each in sorted(prefixes)},
        "sent": {each: sent(store, each) for each in sorted(prefixes)},
        "deliveries": Outbox(store).deliveries(),
        "told": Outbox(store).incidents_by_delivery(IDS),
        "labels": known_cameras_and_rules(store),
    }
    with store.read_transaction() as connection:
        found["newest"] = sorted(row.id for row in newest_incidents(connection, CAMERAS))
    engine.dispose()
    return found


def of_camera(id: UUID, camera: str) -> Incident:
    return replace(an_incident(), id=id, camera=camera, rule=f"{camera}-left", rule_version="R1")


def begins(store: AlertStore, prefix: str) -> object:
    try:
        return store.find_incident(prefix)
    except ValueError as error:
        return str(error)


def sent(store: AlertStore, prefix: str) -> object:
    try:
        return Outbox(store).find(prefix)
    except ValueError as error:
        return str(error)
