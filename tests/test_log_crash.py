"""Whatever statement a process dies at, a window has its claims, and a position its findings.

A crash image is a copy of the file and its WAL before a statement, as the disk has them when the
process dies there. The oracle writes the same one after the other, as a log on a broker does.
"""

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from storage_fixtures import START, a_window
from writes_analyzer import Quiet

from analyzer.worker import READER, AnalyzerWorker
from ingest.account import Account
from ingest.teller import Teller
from storage.claims import decode_claim
from storage.errors import PositionMoved, StorageFull, TooLarge
from storage.kafka_log import KafkaLog
from storage.log import COVERAGE, FINDINGS, WINDOWS, Commit, Entry, Log, Message
from storage.memory_log import MemoryLog
from storage.records import CoverageState
from storage.sqlite_log import SqliteLog
from storage.wire import encode_window

CAMERAS = ("dock", "gate", "yard")
SECOND = timedelta(seconds=1)


@contextmanager
def crashing(log: SqliteLog, folder: Path) -> Iterator[list[Path]]:
    """Keep an image of a log before each statement that writes, and one after the block."""
    images = list[Path]()

    def keep(statement: str) -> None:
        if statement.startswith("SELECT"):
            return
        images.append(image := folder / f"image-{len(images)}")
        image.mkdir()
        for name in ("log.db", "log.db-wal"):
            if (folder / name).exists():
                shutil.copy(folder / name, image / name)

    log._db.set_trace_callback(keep)
    try:
        yield images
    finally:
        log._db.set_trace_callback(None)
        keep("")


@contextmanager
def opened(image: Path) -> Iterator[SqliteLog]:
    """Open an image when the lease of the one that died is over."""
    with closing(sqlite3.connect(image / "log.db", isolation_level=None)) as db:
        db.execute("DELETE FROM members")
    log = SqliteLog(image / "log.db")
    yield log
    log.close()


def all_of(log: Log, topic: str) -> list[Entry]:
    entries = (entry for part in log.parts(topic) for entry in log.read(part, 0, limit=1000))
    return sorted(entries, key=lambda entry: (entry.key, entry.position))


def said(log: Log, topic: str) -> list[tuple[str, bytes]]:
    return [(entry.key, entry.value) for entry in all_of(log, topic)]


def put_windows(log: Log, numbers: range) -> None:
    for number in numbers:
        for camera in CAMERAS:
            log.append(WINDOWS, camera, encode_window(a_window(number, camera)))


def analyze(log: Log) -> None:
    worker = AnalyzerWorker(log, Quiet(), lambda _: None)  # type: ignore[arg-type]
    while worker.run_once(threading.Event()):
        pass
    worker._share.close()


def positions(log: Log) -> dict[str, int]:
    return {part: log.committed(READER, part) for part in log.parts(WINDOWS)}


def test_analyzer_that_dies_at_any_statement_says_everything_once(tmp_path: Path) -> None:
    oracle = MemoryLog(parts=4)
    put_windows(oracle, range(3))
    analyze(oracle)
    log = SqliteLog(tmp_path / "log.db", parts=4)
    put_windows(log, range(3))
    with crashing(log, tmp_path) as images:
        analyze(log)
    log.close()
    findings = sorted(said(oracle, FINDINGS))
    assert len(findings) == 9
    found = set[int]()
    for image in images:
        with opened(image) as again:
            before = len(all_of(again, FINDINGS))
            found.add(before)
            assert before == sum(positions(again).values())
            analyze(again)
            assert sorted(said(again, FINDINGS)) == findings
            covered = {(key, decode_claim(value).end) for key, value in said(again, COVERAGE)}
            assert covered >= {
                (key, decode_claim(value).end) for key, value in said(oracle, COVERAGE)
            }
            assert positions(again) == positions(log_with_all(again))
    assert len(found) > 1
    assert len(images) > 20


def log_with_all(log: SqliteLog) -> Log:
    whole = MemoryLog(parts=len(log.parts(WINDOWS)))
    for part in log.parts(WINDOWS):
        whole.commit(READER, part, log.next(part))
    return whole


def an_account() -> Account:
    began = (START - SECOND).timestamp()
    return Account("dock", began, period=1.0, deadline=60.0)


def ingest(log: Log, numbers: range) -> None:
    teller, account = Teller(log), an_account()
    for number in numbers:
        window, before = account.window(replace(a_window(number), after_gap=False))
        teller.append(window, before, account.kept(window))


def claimed(log: Log) -> list[tuple[CoverageState, object]]:
    claims = [decode_claim(value) for _, value in said(log, COVERAGE)]
    return [(claim.state, claim.end) for claim in claims]


def test_camera_that_dies_at_any_statement_leaves_no_window_without_its_claim(
    tmp_path: Path,
) -> None:
    oracle = MemoryLog()
    ingest(oracle, range(3))
    log = SqliteLog(tmp_path / "log.db")
    with crashing(log, tmp_path) as images:
        ingest(log, range(3))
    assert said(log, WINDOWS) == said(oracle, WINDOWS)
    assert said(log, COVERAGE) == said(oracle, COVERAGE)
    log.close()
    states = set[tuple[int, int]]()
    for image in images:
        with opened(image) as again:
            windows, claims = said(again, WINDOWS), claimed(again)
            waiting = [state for state, _ in claims if state is CoverageState.WAITING]
            assert len(waiting) == len(windows)
            assert (CoverageState.INGEST_DOWN in dict(claims)) == bool(windows)
            states.add((len(windows), len(claims)))
    assert [windows for windows, _ in sorted(states)] == [0, 1, 2, 3]


def messages(*topics: str) -> list[Message]:
    return [Message(topic=topic, key="dock", value=topic.encode()) for topic in topics]


def test_messages_of_several_topics_come_in_order_with_positions_kept(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", parts=4)
    share, part = log.join(READER, WINDOWS), log.part_of(WINDOWS, "dock")
    commit = Commit(5, share.tenure(part))
    assert share.append(messages(FINDINGS, COVERAGE, FINDINGS), {part: commit})
    assert [value for _, value in said(log, FINDINGS)] == [b"findings"] * 2
    assert [value for _, value in said(log, COVERAGE)] == [b"coverage"]
    assert log.committed(READER, part) == 5
    log.close()


def test_who_owns_the_part_no_more_writes_nothing(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    share = log.join(READER, WINDOWS)
    commit = Commit(1, share.tenure(WINDOWS))
    share.close()
    with pytest.raises(PositionMoved) as moved:
        share.append(messages(FINDINGS), {WINDOWS: commit})
    assert moved.value.topic == WINDOWS
    assert (said(log, FINDINGS), log.committed(READER, WINDOWS)) == ([], 0)
    log.close()


def test_analyzer_that_loses_one_part_of_a_batch_writes_the_rest(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", parts=4)
    put_windows(log, range(1))
    worker = AnalyzerWorker(log, Quiet(), lambda _: None)  # type: ignore[arg-type]
    worker.rehearse()
    lost = log.part_of(WINDOWS, "dock")
    others = {camera for camera in CAMERAS if log.part_of(WINDOWS, camera) != lost}
    assert others
    worker._read_on()
    batch = [each for queue in worker._queues.values() for each in queue.waiting()]
    with log.transaction() as db:
        db.execute("UPDATE owners SET member = 'other', tenure = 9 WHERE part = ?", (lost,))
    assert worker._step(threading.Event(), batch)
    assert {key for key, _ in said(log, FINDINGS)} == others
    assert {key for key, _ in said(log, COVERAGE)} == others
    assert lost not in worker._queues
    assert log.committed(READER, lost) == 0
    log.close()


class Refusing(MemoryLog):
    """A log that takes a window only after some tries."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if topic == WINDOWS and self.times:
            self.times -= 1
            raise StorageFull("log.db")
        return super().append(topic, key, *values)


def test_what_lies_before_a_refused_window_is_told_with_the_next() -> None:
    log = Refusing(1)
    teller, account = Teller(log), an_account()
    for number in range(2):
        window, before = account.window(a_window(number))
        try:
            teller.append(window, before, account.kept(window))
        except StorageFull:
            teller.tell(account.lost(window, "the log is full"))
    states = [state for state, _ in claimed(log)]
    assert set(states) == {"ingest_down", "waiting"}
    assert any(b"the log is full" in value for _, value in said(log, COVERAGE))
    assert len(said(log, WINDOWS)) == 1


def test_broker_is_sent_nothing_where_one_message_is_too_large(kafka: object) -> None:
    log = KafkaLog(kafka.place())  # type: ignore[attr-defined]
    huge = Message(topic=WINDOWS, key="dock", value=bytes(log._place.largest_value + 1))
    with pytest.raises(TooLarge):
        log.append_messages([*messages(COVERAGE), huge])
    assert said(log, COVERAGE) == []
    log.append_messages(messages(COVERAGE, WINDOWS, COVERAGE))
    assert [len(said(log, topic)) for topic in (COVERAGE, WINDOWS)] == [2, 1]
    log.close()
