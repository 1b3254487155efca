"""A PostgreSQL server whose disk is full loses nothing of alerts, and has nothing posted twice."""

import random
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs
from structlog.typing import EventDict

from alerts.dispatch.dispatcher import Dispatcher
from alerts.incidents.publisher import Publisher
from alerts.intake.cursor import READER
from alerts.notify.courier import Courier
from kit.alerts.role import IMMEDIATE_POLICY, RULE, make_judge
from kit.alerts.webhook_receiver import RecordingReceiver, a_webhook, run_receiver
from kit.chaos.alerts_kills import (
    append_findings,
    assert_matches_oracle,
    assert_posts_match,
    is_settled,
)
from kit.postgres.server import TEMPLATE, Postgres, run_postgres
from kit.storage.fixtures import fill_disk, small_disk
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.errors import StorageBlocked
from storage.log.sqlite.log import SqliteLog
from storage.records.records import Finding
from storage.records.topics import FINDINGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
EACH = 30
"""Findings of each camera at a time."""


@contextmanager
def disk_of(server: Postgres, size: str) -> Iterator[Path]:
    """Mount a small disk where the server may write."""
    with small_disk(server.data.parent / "disk", size) as disk:
        shutil.chown(disk, "postgres")
        yield disk


def run(server: Postgres, *statements: str, database: str = "postgres") -> None:
    url = server.url(database).replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


class Site:
    """Alerts at work on a database, and all that they were given."""

    def __init__(self, folder: Path, url: str, receiver: RecordingReceiver) -> None:
        self.log = SqliteLog(folder / "log.db")
        self.engine = open_database(url)
        self.store = AlertStore(self.engine)
        self.receiver = receiver
        self.given: dict[str, list[Finding]] = {"dock": [], "yard": []}
        self._chance = random.Random(19)
        self._each = 0

    def give(self) -> None:
        self._each += EACH
        append_findings(self.log, self._chance, self._each, self.given)

    @property
    def is_done(self) -> bool:
        """Return whether all findings are read; they are not known to be while nobody answers."""
        try:
            return self.store.committed_offset(READER, FINDINGS) == self.log.end_offset(FINDINGS)
        except StorageBlocked:
            return False

    @contextmanager
    def at_work(self) -> Iterator[list[EventDict]]:
        """Judge, publish, route and post in threads; yield what they log."""
        publisher = Publisher(self.log, self.store)
        judging = make_judge(self.log, self.store, RULE, publisher)
        courier = Courier(self.store, [a_webhook(self.receiver.url)])
        parts = (judging, publisher, Dispatcher(self.store, IMMEDIATE_POLICY), courier)
        stop = threading.Event()
        with capture_logs() as log_lines, ThreadPoolExecutor() as threads:
            running = [threads.submit(part.run, stop) for part in parts]
            try:
                yield log_lines  # type: ignore[misc]
            finally:
                stop.set()
        for each in running:
            each.result()

    def check(self) -> None:
        """Compare with the oracle: nothing lost, and each message posted once."""
        wait_for(lambda: self.is_done, 90)
        wait_for(lambda: is_settled(self.store), 60)
        assert_matches_oracle(self.store, self.log, self.given)
        assert_posts_match(self.receiver, self.store, 0)
        assert self.store.verify_audit().problem is None

    def close(self) -> None:
        self.log.close()
        self.engine.dispose()


@contextmanager
def a_site(folder: Path, url: str) -> Iterator[Site]:
    with run_receiver() as receiver:
        site = Site(folder, url, receiver)
        try:
            yield site
        finally:
            site.close()


def errors(said: list[EventDict]) -> list[str]:
    return [str(line["event"]) for line in said if line["log_level"] == "error"]


def work_through(site: Site, fill_up: Callable[[], None], free: Callable[[], None]) -> list[str]:
    """Let the disk be full for seconds in the midst of work; return the errors that were logged."""
    with site.at_work() as said:
        site.give()
        wait_for(lambda: site.is_done, 90)
        fill_up()
        while not errors(said):  # pages with room left take some
            site.give()
            wait_for(lambda: bool(errors(said)) or site.is_done, 60)
        threading.Event().wait(3)
        free()
        site.check()
    return errors(said)


def test_full_disk_of_the_tables_is_waited_for(tmp_path: Path) -> None:
    with run_postgres(durable=True) as server, disk_of(server, "24m") as disk:
        run(
            server,
            f"CREATE TABLESPACE small LOCATION '{disk}'",
            f"CREATE DATABASE small TEMPLATE {TEMPLATE} TABLESPACE small STRATEGY FILE_COPY",
        )
        with a_site(tmp_path, server.url("small")) as site:

            def fill_up() -> None:
                run(
                    server, "VACUUM FULL", database="small"
                )  # else room in the pages takes thousands of rows
                fill_disk(disk)

            def free() -> None:
                assert site.store.counts().findings > 0, "what was written is readable"
                (disk / "ballast").unlink()

            lines = work_through(site, fill_up, free)
        assert set(lines) == {
            f"disk full: {server.url('small').replace('postgres:canary-of-postgres@', '')}:"
            " free some space; nothing already written is lost"
        }
        assert len(lines) <= 4, "a line for each thread, not for each try"
        run(server, "DROP DATABASE small WITH (FORCE)", "DROP TABLESPACE small")


def test_full_disk_of_the_wal_is_waited_for(tmp_path: Path) -> None:
    with run_postgres(durable=True) as server, disk_of(server, "72m") as disk:
        url = server.create_database()
        server.stop()
        wal = disk / "wal"
        shutil.move(server.data / "pg_wal", wal)
        for each in (wal, *wal.rglob("*")):
            shutil.chown(each, "postgres", "postgres")
        (server.data / "pg_wal").symlink_to(wal)
        server.start()

        def fill_up() -> None:
            fill_disk(disk)
            with pytest.raises(OperationalError):
                for n in range(20):
                    run(server, f"CREATE TABLE filling_{n} AS SELECT 1", "SELECT pg_switch_wal()")

        def free() -> None:
            (disk / "ballast").unlink()
            if (server.data / "postmaster.pid").exists():
                server.stop("immediate")
            server.start()

        with a_site(tmp_path, url) as site:
            lines = work_through(site, fill_up, free)
        assert all(f"127.0.0.1:{server.port}/" in line for line in lines)
        assert len(lines) <= 16, lines
