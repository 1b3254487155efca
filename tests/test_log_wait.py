"""A reader that waits is woken by what another process appends, and misses nothing."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.log.log import Log
from storage.log.memory_log import MemoryLog
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import FINDINGS

LONG = 20.0


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    opened: Log = MemoryLog() if request.param == "memory" else SqliteLog(tmp_path / "log.db")
    yield opened
    opened.close()


def seconds_of(wait: Callable[[], None]) -> float:
    began = time.monotonic()
    wait()
    return time.monotonic() - began


def settled(log: Log) -> threading.Event:
    """Return a stop, after this thread saw all that is in the log."""
    stop = threading.Event()
    log.wait(stop, 0)
    return stop


def append_later(path: Path) -> None:
    time.sleep(0.1)
    SqliteLog(path).append(FINDINGS, "dock", b"a")


def test_wait_lasts_where_nothing_is_appended(log: Log) -> None:
    stop = settled(log)
    assert 0.1 <= seconds_of(lambda: log.wait(stop, 0.1)) < LONG


def test_append_of_another_thread_ends_a_wait(log: Log) -> None:
    stop = settled(log)
    other = threading.Timer(0.1, lambda: log.append(FINDINGS, "dock", b"a"))
    other.start()
    assert seconds_of(lambda: log.wait(stop, LONG)) < LONG / 2
    other.join()
    assert log.end_offset(FINDINGS) == 1


def test_append_of_another_process_ends_a_wait(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    stop = settled(log)
    other = multiprocessing.get_context("spawn").Process(
        target=append_later, args=[tmp_path / "log.db"]
    )
    other.start()
    assert seconds_of(lambda: log.wait(stop, LONG)) < LONG / 2
    other.join()
    log.close()


def test_append_between_the_look_and_the_wait_is_not_missed(log: Log) -> None:
    stop = settled(log)
    assert log.read(FINDINGS, 0) == []
    log.append(FINDINGS, "dock", b"a")
    assert seconds_of(lambda: log.wait(stop, LONG)) < LONG / 2


def test_wait_of_one_thread_hides_nothing_from_another(log: Log) -> None:
    stop = settled(log)
    log.append(FINDINGS, "dock", b"a")
    other = threading.Thread(target=log.wait, args=[stop, 0])
    other.start()
    other.join()
    assert seconds_of(lambda: log.wait(stop, LONG)) < LONG / 2


def test_stop_ends_a_wait(log: Log) -> None:
    stop = settled(log)
    threading.Timer(0.1, stop.set).start()
    assert seconds_of(lambda: log.wait(stop, LONG)) < LONG / 2


def test_what_was_taken_back_wakes_nobody(tmp_path: Path) -> None:
    log, other = SqliteLog(tmp_path / "log.db"), SqliteLog(tmp_path / "log.db")
    stop = settled(log)
    with pytest.raises(ValueError, match="broke"), other.transaction() as db:
        db.execute("INSERT INTO topics VALUES ('findings', 0, 1, 1)")
        raise ValueError("broke")
    assert seconds_of(lambda: log.wait(stop, 0.1)) >= 0.1
    other.close()
    log.close()
