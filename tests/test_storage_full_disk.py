import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from alerts.intake.cursor import READER
from alerts.notify import courier as alerts_courier
from alerts.notify.courier import Courier
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from kit.alerts.webhook_receiver import a_webhook, run_receiver
from kit.storage.fixtures import a_delivery, a_finding, an_incident, by_rule, fill_disk, small_disk
from kit.waiting import wait_for
from storage import loop as storage_loop
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.errors import StorageFull
from storage.log.sqlite.log import SqliteLog
from storage.records import wire
from storage.records.deliveries import DeliveryState
from storage.records.topics import FINDINGS, INCIDENTS, WINDOWS

RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5, notify=("soc",))
ONE_LINE = r"^disk full: .*\.db: free some space; nothing already written is lost$"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "16m") as folder:
        yield folder


def append_until_full(log: SqliteLog, *values: bytes) -> int:
    for count in range(1000):
        try:
            log.append(WINDOWS, "dock", *values)
        except StorageFull:
            return count
    raise AssertionError("the disk never filled")


def test_log_on_a_full_disk_keeps_what_it_has_and_goes_on_with_space(disk: Path) -> None:
    log = SqliteLog(disk / "log.db")
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(8 * 2**20))
    pair = os.urandom(30_000), os.urandom(200_000)
    kept = append_until_full(log, *pair)
    assert kept > 0
    with pytest.raises(StorageFull, match=ONE_LINE):
        log.append(WINDOWS, "dock", *pair)
    entries = log.read(WINDOWS, 0, limit=1000)
    assert [entry.value for entry in entries] == list(pair) * kept
    assert log.end_offset(WINDOWS) == 2 * kept
    ballast.unlink()
    assert log.append(WINDOWS, "dock", *pair) == 2 * kept + 1
    log.close()


def test_log_opened_on_a_full_disk_says_so(disk: Path) -> None:
    ballast = fill_disk(disk)
    with pytest.raises(StorageFull, match=ONE_LINE):
        SqliteLog(disk / "log.db")
    ballast.unlink()
    log = SqliteLog(disk / "log.db")
    assert log.append(WINDOWS, "dock", b"a") == 0
    log.close()


def test_database_opened_on_a_full_disk_says_so(disk: Path) -> None:
    url = f"sqlite:///{disk / 'longwatch.db'}"
    ballast = fill_disk(disk)
    with pytest.raises(StorageFull, match=ONE_LINE):
        open_database(url)
    ballast.unlink()
    engine = open_database(url)
    assert AlertStore(engine).counts().findings == 0
    engine.dispose()


def test_database_on_a_full_disk_keeps_what_it_has_and_goes_on_with_space(disk: Path) -> None:
    engine = open_database(f"sqlite:///{disk / 'longwatch.db'}")
    store = AlertStore(engine)
    ballast = fill_disk(disk)
    written = 0

    def write() -> None:
        with store.transaction() as transaction:
            transaction.insert_findings([a_finding(written)])
            transaction.advance_offset(READER, FINDINGS, written, written + 1)

    with pytest.raises(StorageFull, match=ONE_LINE):
        while written < 10_000:
            write()
            written += 1
    assert store.counts().findings == written
    assert store.committed_offset(READER, FINDINGS) == written
    ballast.unlink()
    write()
    assert store.counts().findings == written + 1
    engine.dispose()


def errors(log_lines: Sequence[Mapping[str, object]]) -> int:
    return sum(line["log_level"] == "error" for line in log_lines)


@pytest.mark.parametrize("full", ["database", "log"])
def test_alerts_on_a_full_disk_say_it_once_and_lose_nothing(
    full: str, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_loop, "BLOCKED_SECONDS", 0.05)
    here = {"database": tmp_path, "log": tmp_path} | {full: disk}
    log = SqliteLog(here["log"] / "log.db")
    engine = open_database(f"sqlite:///{here['database'] / 'longwatch.db'}")
    store = AlertStore(engine)
    findings = [wire.encode_finding(a_finding(n)) for n in range(150)]
    log.append(FINDINGS, "dock", *findings)
    ballast = fill_disk(disk)
    stop = threading.Event()
    judging = AlertsWorker(log, store, (RULE,), keepalive=lambda seconds: None)
    with capture_logs() as log_lines, ThreadPoolExecutor() as threads:
        judged = threads.submit(judging.run, stop)
        try:
            wait_for(lambda: errors(log_lines) > 0)
            lost = len(findings) - store.committed_offset(READER, FINDINGS)
            stop.wait(0.5)
            ballast.unlink()
            wait_for(lambda: store.committed_offset(READER, FINDINGS) == len(findings))
            wait_for(lambda: log.end_offset(INCIDENTS) == len(findings))
        finally:
            stop.set()
        judged.result(10)
    assert (lost > 0) == (full == "database"), "a full log delays no incident"
    assert errors(log_lines) == 1
    assert store.counts().findings == len(findings)
    (incident,) = store.incidents()
    assert incident.revision == len(findings)
    entries = log.read(INCIDENTS, 0, limit=10_000)
    published = {wire.decode_incident(entry.value).revision for entry in entries}
    assert published == set(range(1, len(findings) + 1))
    log.close()
    engine.dispose()


def test_courier_on_a_full_disk_posts_once_and_marks_it_with_space(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts_courier, "BLOCKED_SECONDS", 0.05)
    engine = open_database(f"sqlite:///{disk / 'longwatch.db'}")
    store = AlertStore(engine)
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(an_incident())])
        transaction.deliveries.add(a_delivery(), b"{}", {})
    ballast = fill_disk(disk)
    stop = threading.Event()
    with run_receiver() as receiver, capture_logs() as log_lines, ThreadPoolExecutor() as threads:
        webhook = a_webhook(receiver.url)
        posting = threads.submit(Courier(store, [webhook]).run, stop)
        try:
            wait_for(lambda: errors(log_lines) > 0)
            stop.wait(0.5)
            assert store.counts().deliveries[DeliveryState.WAITING] == 1
            ballast.unlink()
            wait_for(lambda: store.counts().deliveries[DeliveryState.DELIVERED] == 1)
        finally:
            stop.set()
        posting.result(20)
    assert len(receiver.posts) == 1
    assert errors(log_lines) == 1
    engine.dispose()
