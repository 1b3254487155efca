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

from analyzer.worker import GROUP, AnalyzerWorker
from ingest.recording.claim_sender import ClaimSender
from ingest.recording.coverage import CoverageTracker
from kit.deploy.stub_analyzer import NegativeWatcher
from kit.storage.fixtures import START, a_window
from storage.errors import OffsetMoved, StorageFull, TooLarge
from storage.log.kafka.log import KafkaLog
from storage.log.log import Log, LogEntry, LogMessage, OffsetCommit
from storage.log.memory_log import MemoryLog
from storage.log.sqlite.log import SqliteLog
from storage.records.claims import decode_claim
from storage.records.records import CoverageState
from storage.records.topics import COVERAGE, FINDINGS, WINDOWS
from storage.records.wire import encode_window

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


def all_of(log: Log, topic: str) -> list[LogEntry]:
    entries = (
        entry for partition in log.partitions(topic) for entry in log.read(partition, 0, limit=1000)
    )
    return sorted(entries, key=lambda entry: (entry.key, entry.offset))


def entries_of(log: Log, topic: str) -> list[tuple[str, bytes]]:
    return [(entry.key, entry.value) for entry in all_of(log, topic)]


def put_windows(log: Log, numbers: range) -> None:
    for number in numbers:
        for camera in CAMERAS:
            log.append(WINDOWS, camera, encode_window(a_window(number, camera)))


def analyze(log: Log) -> None:
    worker = AnalyzerWorker(log, NegativeWatcher(), lambda _: None)  # type: ignore[arg-type]
    while worker.run_once(threading.Event()):
        pass
    worker._membership.close()


def positions(log: Log) -> dict[str, int]:
    return {partition: log.committed(GROUP, partition) for partition in log.partitions(WINDOWS)}


def test_analyzer_that_dies_at_any_statement_says_everything_once(tmp_path: Path) -> None:
    oracle = MemoryLog(partitions=4)
    put_windows(oracle, range(3))
    analyze(oracle)
    log = SqliteLog(tmp_path / "log.db", partitions=4)
    put_windows(log, range(3))
    with crashing(log, tmp_path) as images:
        analyze(log)
    log.close()
    findings = sorted(entries_of(oracle, FINDINGS))
    assert len(findings) == 9
    found = set[int]()
    for image in images:
        with opened(image) as again:
            before = len(all_of(again, FINDINGS))
            found.add(before)
            assert before == sum(positions(again).values())
            analyze(again)
            assert sorted(entries_of(again, FINDINGS)) == findings
            covered = {(key, decode_claim(value).end) for key, value in entries_of(again, COVERAGE)}
            assert covered >= {
                (key, decode_claim(value).end) for key, value in entries_of(oracle, COVERAGE)
            }
            assert positions(again) == positions(log_with_all(again))
    assert len(found) > 1
    assert len(images) > 20


def log_with_all(log: SqliteLog) -> Log:
    whole = MemoryLog(partitions=len(log.partitions(WINDOWS)))
    for partition in log.partitions(WINDOWS):
        whole.commit(GROUP, partition, log.end_offset(partition))
    return whole


def an_account() -> CoverageTracker:
    began = (START - SECOND).timestamp()
    return CoverageTracker("dock", began, period=1.0, deadline=60.0)


def ingest(log: Log, numbers: range) -> None:
    claim_sender, tracker = ClaimSender(log), an_account()
    for number in numbers:
        window, before = tracker.cover_window(replace(a_window(number), after_gap=False))
        claim_sender.append(window, before, tracker.waiting_claims(window))


def claimed(log: Log) -> list[tuple[CoverageState, object]]:
    claims = [decode_claim(value) for _, value in entries_of(log, COVERAGE)]
    return [(claim.state, claim.end) for claim in claims]


def test_camera_that_dies_at_any_statement_leaves_no_window_without_its_claim(
    tmp_path: Path,
) -> None:
    oracle = MemoryLog()
    ingest(oracle, range(3))
    log = SqliteLog(tmp_path / "log.db")
    with crashing(log, tmp_path) as images:
        ingest(log, range(3))
    assert entries_of(log, WINDOWS) == entries_of(oracle, WINDOWS)
    assert entries_of(log, COVERAGE) == entries_of(oracle, COVERAGE)
    log.close()
    states = set[tuple[int, int]]()
    for image in images:
        with opened(image) as again:
            windows, claims = entries_of(again, WINDOWS), claimed(again)
            waiting = [state for state, _ in claims if state is CoverageState.WAITING]
            assert len(waiting) == len(windows)
            assert (CoverageState.INGEST_DOWN in dict(claims)) == bool(windows)
            states.add((len(windows), len(claims)))
    assert [windows for windows, _ in sorted(states)] == [0, 1, 2, 3]


def messages(*topics: str) -> list[LogMessage]:
    return [LogMessage(topic=topic, key="dock", value=topic.encode()) for topic in topics]


def test_messages_of_several_topics_come_in_order_with_positions_kept(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", partitions=4)
    membership, partition = log.join_group(GROUP, WINDOWS), log.partition_for(WINDOWS, "dock")
    commit = OffsetCommit(5, membership.generation(partition))
    assert membership.append(messages(FINDINGS, COVERAGE, FINDINGS), {partition: commit})
    assert [value for _, value in entries_of(log, FINDINGS)] == [b"findings"] * 2
    assert [value for _, value in entries_of(log, COVERAGE)] == [b"coverage"]
    assert log.committed(GROUP, partition) == 5
    log.close()


def test_who_owns_the_part_no_more_writes_nothing(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    membership = log.join_group(GROUP, WINDOWS)
    commit = OffsetCommit(1, membership.generation(WINDOWS))
    membership.close()
    with pytest.raises(OffsetMoved) as moved:
        membership.append(messages(FINDINGS), {WINDOWS: commit})
    assert moved.value.partition == WINDOWS
    assert (entries_of(log, FINDINGS), log.committed(GROUP, WINDOWS)) == ([], 0)
    log.close()


def test_analyzer_that_loses_one_part_of_a_batch_writes_the_rest(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", partitions=4)
    put_windows(log, range(1))
    worker = AnalyzerWorker(log, NegativeWatcher(), lambda _: None)  # type: ignore[arg-type]
    worker.rebalance()
    lost = log.partition_for(WINDOWS, "dock")
    others = {camera for camera in CAMERAS if log.partition_for(WINDOWS, camera) != lost}
    assert others
    worker._fetch()
    batch = [each for queue in worker._queues.values() for each in queue.pending()]
    with log.transaction() as db:
        db.execute("UPDATE owners SET member = 'other', tenure = 9 WHERE part = ?", (lost,))
    assert worker._step(threading.Event(), batch)
    assert {key for key, _ in entries_of(log, FINDINGS)} == others
    assert {key for key, _ in entries_of(log, COVERAGE)} == others
    assert lost not in worker._queues
    assert log.committed(GROUP, lost) == 0
    log.close()


class RefusingLog(MemoryLog):
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
    log = RefusingLog(1)
    claim_sender, tracker = ClaimSender(log), an_account()
    for number in range(2):
        window, before = tracker.cover_window(a_window(number))
        try:
            claim_sender.append(window, before, tracker.waiting_claims(window))
        except StorageFull:
            claim_sender.send(tracker.lost_claims(window, "the log is full"))
    states = [state for state, _ in claimed(log)]
    assert set(states) == {"ingest_down", "waiting"}
    assert any(b"the log is full" in value for _, value in entries_of(log, COVERAGE))
    assert len(entries_of(log, WINDOWS)) == 1


def test_broker_is_sent_nothing_where_one_message_is_too_large(kafka: object) -> None:
    log = KafkaLog(kafka.place())  # type: ignore[attr-defined]
    huge = LogMessage(topic=WINDOWS, key="dock", value=bytes(log._config.largest_value + 1))
    with pytest.raises(TooLarge):
        log.append_messages([*messages(COVERAGE), huge])
    assert entries_of(log, COVERAGE) == []
    log.append_messages(messages(COVERAGE, WINDOWS, COVERAGE))
    assert [len(entries_of(log, topic)) for topic in (COVERAGE, WINDOWS)] == [2, 1]
    log.close()
