import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from datetime import timedelta
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import pytest

from storage.errors import SchemaTooNew
from storage.log.log import Log
from storage.log.memory_log import MemoryLog
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import FINDINGS, WINDOWS

SPAWN = multiprocessing.get_context("spawn")
AGES = timedelta(days=1)


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    opened: Log = MemoryLog() if request.param == "memory" else SqliteLog(tmp_path / "log.db")
    yield opened
    opened.close()


def values(log: Log, topic: str = WINDOWS, offset: int = 0) -> list[bytes]:
    return [entry.value for entry in log.read(topic, offset)]


def test_retention_by_bytes_drops_the_oldest(log: Log) -> None:
    log.append(WINDOWS, "dock", *(b"x" * 100 for _ in range(10)))
    log.append(FINDINGS, "dock", b"y" * 1000)
    assert log.trim(WINDOWS, keep_bytes=350, keep_for=AGES) == 7
    assert (log.start_offset(WINDOWS), log.end_offset(WINDOWS), len(values(log))) == (7, 10, 3)
    assert log.trim(WINDOWS, keep_bytes=350, keep_for=AGES) == 0
    assert log.start_offset(FINDINGS) == 0


class CountingLog(SqliteLog):
    """Counts its transactions."""

    transactions = 0

    def transaction(  # type: ignore[override]  # a generator is more than a caller needs
        self, *, durable: bool = True
    ) -> AbstractContextManager[sqlite3.Connection]:
        self.transactions += 1
        return super().transaction()


def test_lowered_bound_is_reached_in_short_transactions(tmp_path: Path) -> None:
    with closing(CountingLog(tmp_path / "log.db", partitions=2)) as log:
        log.append_all(WINDOWS, [(f"c{n % 7}", b"x" * 10) for n in range(1000)])
        log.transactions = 0
        assert log.trim(WINDOWS, keep_bytes=1000, keep_for=AGES) == 900
        assert log.transactions >= 9
        assert (
            sum(
                log.end_offset(partition) - log.start_offset(partition)
                for partition in log.partitions(WINDOWS)
            )
            == 100
        )


def test_retention_by_age_drops_what_is_too_old(log: Log) -> None:
    log.append(WINDOWS, "dock", b"a", b"b")
    assert log.trim(WINDOWS, keep_bytes=10**9, keep_for=AGES) == 0
    assert log.trim(WINDOWS, keep_bytes=10**9, keep_for=-AGES) == 2
    assert log.trim("nothing", keep_bytes=0, keep_for=AGES) == 0


def assert_whole(log: Log, cameras: int, each: int) -> None:
    entries = log.read(WINDOWS, 0, limit=10**6)
    assert [entry.offset for entry in entries] == list(range(cameras * each))
    for camera in {entry.key for entry in entries}:
        mine = [int(entry.value) for entry in entries if entry.key == camera]
        assert mine == list(range(each))


def append_many(path: Path, camera: str, count: int, go: Event) -> None:
    go.wait()
    log = SqliteLog(path)
    for n in range(0, count, 2):
        log.append(WINDOWS, camera, b"%d" % n, b"%d" % (n + 1))
    log.close()


def test_processes_open_a_new_log_and_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    go = SPAWN.Event()
    writers = [SPAWN.Process(target=append_many, args=(path, f"c{n}", 100, go)) for n in range(4)]
    for writer in writers:
        writer.start()
    go.set()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    log = SqliteLog(path)
    assert_whole(log, cameras=4, each=100)
    log.close()


def append_for_ever(path: Path, ready: Event) -> None:
    log = SqliteLog(path)
    ready.set()
    while True:
        n = log.end_offset(WINDOWS)
        log.append(WINDOWS, "dock", *(b"%d" % (n + k) for k in range(5)))


def test_killed_writer_leaves_whole_appends(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    for pause in (0.01, 0.05, 0.1):
        ready = SPAWN.Event()
        writer = SPAWN.Process(target=append_for_ever, args=(path, ready))
        writer.start()
        assert ready.wait(30)
        writer.join(pause)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
    log = SqliteLog(path)
    entries = log.read(WINDOWS, 0, limit=10**6)
    assert len(entries) > 0
    assert len(entries) % 5 == 0
    assert [int(entry.value) for entry in entries] == list(range(len(entries)))
    assert log.end_offset(WINDOWS) == len(entries)
    log.close()


def test_append_that_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    log.append(WINDOWS, "dock", b"a")
    no_bytes: Any = ["no bytes"]
    with pytest.raises(sqlite3.Error):
        log.append(WINDOWS, "dock", b"b", no_bytes)
    assert (log.end_offset(WINDOWS), values(log)) == (1, [b"a"])
    assert log.append(WINDOWS, "dock", b"c") == 1
    log.close()


def test_space_of_trimmed_entries_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = SqliteLog(path)
    window = os.urandom(400_000)
    sizes = []
    for _ in range(5):
        for _ in range(10):
            log.append(WINDOWS, "dock", window)
        log.trim(WINDOWS, keep_bytes=2_000_000, keep_for=AGES)
        sizes.append(path.stat().st_size)
    assert sizes[-1] == sizes[1] < 10_000_000
    log.close()


def test_each_file_has_an_identity_that_it_keeps(tmp_path: Path) -> None:
    found = list[str]()
    for name in ("a.db", "b.db", "a.db"):
        with closing(SqliteLog(tmp_path / name)) as log:
            assert log.identity(WINDOWS) == log.identity(FINDINGS)
            found.append(log.identity(WINDOWS))
    assert found[0] == found[2] != found[1]


def test_file_of_an_older_longwatch_gets_an_identity_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with closing(SqliteLog(path, partitions=4)) as log:
        log.append(WINDOWS, "dock", b"a", b"b")
        partition, partitions = log.partition_for(WINDOWS, "dock"), log.partitions(WINDOWS)
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE layout DROP COLUMN identity")
        database.execute("PRAGMA user_version=2")
    with closing(SqliteLog(path)) as log:
        assert (values(log, partition), log.partitions(WINDOWS)) == ([b"a", b"b"], partitions)
        first = log.identity(partition)
    with closing(SqliteLog(path)) as log:
        assert len(first) == 36
        assert log.identity(partition) == first


def test_log_of_a_newer_longwatch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    SqliteLog(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=9")
    database.close()
    with pytest.raises(SchemaTooNew, match=r"log\.db: it has schema 9.*upgrade longwatch"):
        SqliteLog(path)


def test_log_is_durable_and_leaves_writers_waiting_rather_than_failing(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    found = [log._select_number(f"PRAGMA {name}") for name in ("synchronous", "busy_timeout")]
    assert found == [2, 10_000]
    log.close()


def open_new_logs(folder: Path, together: Barrier) -> None:
    for n in range(30):
        together.wait()
        SqliteLog(folder / f"{n}.db").close()


def test_processes_may_open_the_same_new_log_at_the_same_instant(tmp_path: Path) -> None:
    together = SPAWN.Barrier(4, timeout=20)
    openers = [SPAWN.Process(target=open_new_logs, args=(tmp_path, together)) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(60)
    assert [opener.exitcode for opener in openers] == [0] * 4
