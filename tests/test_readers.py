"""Who looks writes nothing, waits for nobody, and hears in one line what is wrong."""

import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path

import pytest
from alembic import command as upgrade
from sqlalchemy import select
from structlog.testing import capture_logs

from alerts.intake.cursor import READER
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from deploy.config.data_dir import DATABASE_FILE, LOG_FILE
from kit.deploy.command import Command
from kit.storage.fixtures import a_finding, small_disk
from kit.waiting import wait_for
from storage import loop as storage_loop
from storage import sqlite_connection
from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.database import (
    _alembic_config,
    engine_for,
    inspect_schema,
    open_database,
    translate_errors,
)
from storage.errors import StorageBlocked, StorageError, StorageFailing, StorageUnfit
from storage.log.sqlite.log import SqliteLog
from storage.records import wire
from storage.records.topics import FINDINGS
from test_commands_on_both_databases import ACTING, READING, Case, write_data

HOLD = """
import sqlite3, sys
held = [sqlite3.connect(path, isolation_level=None) for path in sys.argv[1:]]
for each in held:
    each.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""
RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5, notify=("soc",))
FILES = (DATABASE_FILE, LOG_FILE)
ACT = "incidents ack 0000 --by ann"


@pytest.fixture(scope="session", name="template")
def make_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readers")
    write_data(folder)
    return folder


@pytest.fixture(name="site")
def make_site(template: Path, tmp_path: Path) -> Path:
    """The data of a longwatch that ran and has ended, beside its settings."""
    return Path(shutil.copytree(template, tmp_path / "site")) / "longwatch.yaml"


@contextmanager
def write_lock_held(*files: Path) -> Iterator[None]:
    """Let another process hold the write locks of these files for as long as the block runs."""
    words = [sys.executable, "-c", HOLD, *map(str, files)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            holder.communicate(b"")


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return what a folder holds: rights, time of the last change, and bytes."""
    return {
        path.name: (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith("-shm")  # the locks of readers are in it
    }


def test_readers_answer_while_another_process_holds_the_write_lock(
    site: Path, command: Command
) -> None:
    command("incidents", "list", "-c", site)  # loads what is loaded once
    with write_lock_held(*(site.parent / name for name in FILES)):
        for case in READING:
            began = time.monotonic()
            result = command(*case.words.split(), "-c", site)
            assert time.monotonic() - began < 1.0, case.words
            assert result.returncode == case.code, result.stderr


def test_who_acts_waits_once_for_the_write_lock_and_says_who_has_it(
    site: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_connection, "BUSY_SECONDS", 0.5)
    acting = [case for case in ACTING if not case.words.startswith(("db", "ask", "dead"))]
    with write_lock_held(site.parent / DATABASE_FILE):
        before = contents(site.parent)
        for case in acting:
            began = time.monotonic()
            result = command(*case.words.split(), "-c", site)
            assert time.monotonic() - began < 2.0, case.words
            expected = f"another process holds the write lock of {site.parent / DATABASE_FILE};"
            assert (result.returncode, result.stdout) == (1, "")
            assert result.stderr == f"{expected} nothing was changed, try again\n"
        assert contents(site.parent) == before


def test_act_needs_no_log(site: Path, command: Command) -> None:
    with write_lock_held(site.parent / LOG_FILE):
        result = command("incidents", "ack", "0000", "--by", "ann", "-c", site)
    assert (result.returncode, result.stderr) == (0, "")
    listed = command("incidents", "list", "-c", site, "--json").stdout
    assert '"state": "acknowledged"' in listed


@pytest.mark.parametrize("runs", [False, True], ids=["ended", "running"])
def test_readers_write_nothing(site: Path, command: Command, runs: bool) -> None:
    with running(site.parent) if runs else nullcontext():
        before = contents(site.parent)
        for case in READING:
            assert command(*case.words.split(), "-c", site).returncode == case.code
        assert contents(site.parent) == before
        assert runs or not list(site.parent.glob("*-shm"))


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Keep both files open and written to, as a longwatch does."""
    engine = open_database(f"sqlite:///{folder / DATABASE_FILE}")
    with closing(SqliteLog(folder / LOG_FILE)) as log, engine.connect():
        with AlertStore(engine).transaction() as transaction:
            transaction.insert_findings([a_finding(5)])
        log.append("other", "dock", b"x")
        yield
    engine.dispose()


@pytest.mark.parametrize("runs", [False, True], ids=["ended", "running"])
def test_readers_need_no_right_to_write(template: Path, command: Command, runs: bool) -> None:
    for case in (*READING, Case(words=ACT, shows="")):  # loads what is loaded once
        command(*case.words.split(), "--data", "/nowhere")
    import_module("deploy.config.assemble")
    with open_to_all(template) as folder, running(folder) if runs else nullcontext():
        close(folder, 0o555, 0o444)
        with as_nobody():
            for case in READING:
                result = command(*case.words.split(), "-c", folder / "longwatch.yaml")
                assert result.returncode == case.code, result.stderr
            acted = command(*ACT.split(), "--data", folder)
        assert (acted.returncode, acted.stderr.count("\n")) == (2, 1), acted.stderr
        assert "must be able to write the file and its folder" in acted.stderr


def test_who_may_not_read_is_told_so(template: Path, command: Command) -> None:
    command("incidents", "list", "--data", template)  # loads what is loaded once
    with open_to_all(template) as folder:
        for folder_mode, told in ((0o755, "it cannot be opened"), (0o700, "cannot be read")):
            close(folder, folder_mode, 0o600)
            with as_nobody():
                result = command("incidents", "list", "--data", folder)
            assert (result.returncode in (1, 2), result.stderr.count("\n")) == (True, 1)
            assert told in result.stderr


def close(folder: Path, folder_mode: int, file_mode: int) -> None:
    for path in folder.iterdir():
        path.chmod(file_mode)
    folder.chmod(folder_mode)


@contextmanager
def open_to_all(template: Path) -> Iterator[Path]:
    """Copy the data to where other users come."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield Path(shutil.copytree(template, folder / "data"))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user without rights for as long as the block runs; skip where that is not permitted."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.parametrize("runs", [False, True], ids=["ended", "killed"])
def test_file_system_that_is_read_only(
    template: Path, tmp_path: Path, command: Command, runs: bool
) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        folder = Path(shutil.copytree(template, disk / "data"))
        if runs:
            leave_as_killed(folder)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for case in READING:
            result = command(*case.words.split(), "-c", folder / "longwatch.yaml")
            assert result.returncode == case.code, result.stderr
        result = command("incidents", "ack", "0000", "--by", "ann", "--data", folder)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
        assert result.stderr.startswith(f"{folder}/")
        assert "must be able to write the file and its folder" in result.stderr


def leave_as_killed(folder: Path) -> None:
    """Leave -wal and -shm behind, with something in them."""
    words = f"import os, sqlite3; db = sqlite3.connect('{folder}/longwatch.db');"
    words += "db.execute('UPDATE receivers SET reason = 7'); db.commit(); os._exit(1)"
    subprocess.run([sys.executable, "-c", words], check=False)
    assert (folder / f"{DATABASE_FILE}-wal").stat().st_size > 0


def nonsense(file: Path) -> None:
    file.write_bytes(random.Random(1).randbytes(65536))


def half(file: Path) -> None:
    os.truncate(file, 8192)


def nothing(file: Path) -> None:
    os.truncate(file, 0)


def without_tables(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        for table in ("incidents", "entries"):
            database.execute(f"DROP TABLE IF EXISTS {table}")


def of_an_older_longwatch(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        if file.name == DATABASE_FILE:
            database.execute("UPDATE alembic_version SET version_num = '0009'")
        else:
            database.execute("PRAGMA user_version=1")


DAMAGE: list[tuple[Callable[[Path], None], str, str | None]] = [
    (nonsense, "it is no SQLite database", "it is no SQLite database"),
    (half, "it is damaged", "it is damaged"),
    (nothing, "it is empty, this longwatch reads", None),
    (without_tables, "its tables are not those of its schema", "its tables are not those"),
    (of_an_older_longwatch, "it has schema", None),
]


@pytest.mark.parametrize(("damage", "reading", "acting"), DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_what_is_wrong_with_a_file_is_one_line(
    site: Path,
    command: Command,
    name: str,
    damage: Callable[[Path], None],
    reading: str,
    acting: str | None,
) -> None:
    file = site.parent / name
    damage(file)
    looks = "incidents list" if name == DATABASE_FILE else "tail findings --from-start --limit 1"
    acts = acting is not None and name == DATABASE_FILE
    tries = [(looks, reading)] + ([(ACT, acting)] if acts and acting else [])
    for words, told in tries:
        result = command(*words.split(), "-c", site)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1
        assert result.stderr.startswith(f"{file}: ")
        assert told in result.stderr


@pytest.mark.parametrize("seed", range(8))
def test_no_damage_ends_in_a_traceback(site: Path, command: Command, seed: int) -> None:
    rng = random.Random(seed)
    for name in FILES:
        with (site.parent / name).open("r+b") as file:
            pages = file.seek(0, os.SEEK_END) // 4096
            for _ in range(3):
                file.seek(4096 * rng.randrange(1, pages))
                file.write(rng.choice([bytes(4096), rng.randbytes(4096)]))
            if rng.random() < 0.5:
                file.truncate(rng.randrange(512, 4096 * pages))
    for case in (*READING, *ACTING[:4]):
        result = command(*case.words.split(), "-c", site)
        assert result.returncode in (0, 1, 2)
        assert result.stderr.count("\n") <= 1


def test_file_that_grows_no_more_is_named(site: Path) -> None:
    engine = open_database(f"sqlite:///{site.parent / DATABASE_FILE}")
    store = AlertStore(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1")
    with pytest.raises(StorageError, match=r"^disk full: .*free some space"):
        write_much(store)
    engine.dispose()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    engine = open_database(f"sqlite:///{site.parent / DATABASE_FILE}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(StorageFailing, match="check the disk and the file system"):
            write_much(AlertStore(engine))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        engine.dispose()


def write_much(store: AlertStore) -> None:
    for n in range(10):
        with store.transaction() as transaction:
            transaction.insert_findings([a_finding(500 * n + each) for each in range(10, 500)])


def test_reader_of_an_older_schema_changes_nothing_and_the_upgrade_does(
    site: Path, command: Command
) -> None:
    (site.parent / DATABASE_FILE).unlink()
    url = f"sqlite:///{site.parent / DATABASE_FILE}"
    engine = engine_for(url)
    with engine.begin() as connection:
        upgrade.upgrade(_alembic_config(connection), "0009")
    engine.dispose()
    before = contents(site.parent)
    result = command("incidents", "list", "-c", site)
    assert (result.returncode, "run `longwatch db upgrade`" in result.stderr) == (2, True)
    assert contents(site.parent) == before
    assert command("db", "upgrade", "-c", site).returncode == 0
    assert command("incidents", "list", "-c", site).returncode == 0
    assert inspect_schema(url).revision == inspect_schema(url).newest_revision


def test_log_read_before_anybody_opened_it_shows_what_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / LOG_FILE
    with closing(SqliteLog(path)) as log:
        log.append(FINDINGS, "dock", b"a")
    with closing(SqliteLog(path, read_only=True)) as reader:
        assert reader.end_offset(FINDINGS) == 1
        with closing(SqliteLog(path)) as log:
            log.append(FINDINGS, "dock", b"b")
            assert [entry.value for entry in reader.read(FINDINGS, 0)] == [b"a", b"b"]
        assert reader.end_offset(FINDINGS) == 2
        with pytest.raises(StorageUnfit, match="read-only"):
            reader.append(FINDINGS, "dock", b"c")


def test_what_was_changed_while_it_was_read_is_not_believed(site: Path) -> None:
    url = f"sqlite:///{site.parent / DATABASE_FILE}"
    reader = open_database(url, read_only=True)
    blocked = pytest.raises(StorageBlocked, match="was changed while it was read: try again")
    with blocked, translate_errors(reader), reader.begin() as connection:
        connection.execute(select(tables.incidents)).all()
        writer = open_database(url)
        write_much(AlertStore(writer))
        writer.dispose()
    assert AlertStore(reader).counts().findings > 2
    reader.dispose()


@pytest.mark.parametrize("name", FILES)
def test_alerts_wait_for_a_lock_and_go_on(
    site: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sqlite_connection, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(storage_loop, "BLOCKED_SECONDS", 0.05)
    engine = open_database(f"sqlite:///{site.parent / DATABASE_FILE}")
    store, log = AlertStore(engine), SqliteLog(site.parent / LOG_FILE)
    log.append(FINDINGS, "dock", *(wire.encode_finding(a_finding(n)) for n in range(2, 6)))
    partition, stop = log.partition_for(FINDINGS, "dock"), threading.Event()
    worker = AlertsWorker(log, store, (RULE,), keepalive=lambda seconds: None)
    with capture_logs() as log_lines, ThreadPoolExecutor() as threads:
        with write_lock_held(site.parent / name):
            judged = threads.submit(worker.run, stop)
            wait_for(lambda: any("holds the write lock" in line["event"] for line in log_lines))
            stop.wait(0.5)
        wait_for(lambda: store.committed_offset(READER, partition) == log.end_offset(partition))
        stop.set()
        judged.result(10)
    assert sum(line["log_level"] == "error" for line in log_lines) == 1
    log.close()
    engine.dispose()
