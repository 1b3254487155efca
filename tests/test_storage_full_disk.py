import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alerts_fixtures import a_webhook, receiving
from storage_fixtures import a_delivery, a_finding, an_incident, by_rule, fill, small_disk, wait_for
from structlog.testing import capture_logs

from alerts import courier as alerts_courier
from alerts import loop as alerts_loop
from alerts.courier import Courier
from alerts.reading import READER
from alerts.rules import Rule
from alerts.worker import AlertsWorker
from storage import wire
from storage.database import open_database
from storage.errors import StorageFull
from storage.incidents import IncidentStore
from storage.log import FINDINGS, INCIDENTS, WINDOWS
from storage.records import DeliveryState
from storage.sqlite_log import SqliteLog

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
    assert log.next(WINDOWS) == 2 * kept
    ballast.unlink()
    assert log.append(WINDOWS, "dock", *pair) == 2 * kept + 1
    log.close()


def test_log_opened_on_a_full_disk_says_so(disk: Path) -> None:
    ballast = fill(disk)
    with pytest.raises(StorageFull, match=ONE_LINE):
        SqliteLog(disk / "log.db")
    ballast.unlink()
    log = SqliteLog(disk / "log.db")
    assert log.append(WINDOWS, "dock", b"a") == 0
    log.close()


def test_database_opened_on_a_full_disk_says_so(disk: Path) -> None:
    url = f"sqlite:///{disk / 'longwatch.db'}"
    ballast = fill(disk)
    with pytest.raises(StorageFull, match=ONE_LINE):
        open_database(url)
    ballast.unlink()
    engine = open_database(url)
    assert IncidentStore(engine).counts().findings == 0
    engine.dispose()


def test_database_on_a_full_disk_keeps_what_it_has_and_goes_on_with_space(disk: Path) -> None:
    engine = open_database(f"sqlite:///{disk / 'longwatch.db'}")
    store = IncidentStore(engine)
    ballast = fill(disk)
    written = 0

    def write() -> None:
        with store.transaction() as ledger:
            ledger.insert_findings([a_finding(written)])
            ledger.advance(READER, FINDINGS, written, written + 1)

    with pytest.raises(StorageFull, match=ONE_LINE):
        while written < 10_000:
            write()
            written += 1
    assert store.counts().findings == written
    assert store.position(READER, FINDINGS) == written
    ballast.unlink()
    write()
    assert store.counts().findings == written + 1
    engine.dispose()


def errors(said: Sequence[Mapping[str, object]]) -> int:
    return sum(line["log_level"] == "error" for line in said)


@pytest.mark.parametrize("full", ["database", "log"])
def test_alerts_on_a_full_disk_say_it_once_and_lose_nothing(
    full: str, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts_loop, "BLOCKED_SECONDS", 0.05)
    here = {"database": tmp_path, "log": tmp_path} | {full: disk}
    log = SqliteLog(here["log"] / "log.db")
    engine = open_database(f"sqlite:///{here['database'] / 'longwatch.db'}")
    store = IncidentStore(engine)
    findings = [wire.encode_finding(a_finding(n)) for n in range(150)]
    log.append(FINDINGS, "dock", *findings)
    ballast = fill(disk)
    stop = threading.Event()
    judging = AlertsWorker(log, store, (RULE,), promise=lambda seconds: None)
    with capture_logs() as said, ThreadPoolExecutor() as threads:
        judged = threads.submit(judging.run, stop)
        try:
            wait_for(lambda: errors(said) > 0)
            lost = len(findings) - store.position(READER, FINDINGS)
            stop.wait(0.5)
            ballast.unlink()
            wait_for(lambda: store.position(READER, FINDINGS) == len(findings))
            wait_for(lambda: log.next(INCIDENTS) == len(findings))
        finally:
            stop.set()
        judged.result(10)
    assert (lost > 0) == (full == "database"), "a full log delays no incident"
    assert errors(said) == 1
    assert store.counts().findings == len(findings)
    (incident,) = store.incidents()
    assert incident.revision == len(findings)
    entries = log.read(INCIDENTS, 0, limit=10_000)
    told = {wire.decode_incident(entry.value).revision for entry in entries}
    assert told == set(range(1, len(findings) + 1))
    log.close()
    engine.dispose()


def test_courier_on_a_full_disk_posts_once_and_marks_it_with_space(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts_courier, "BLOCKED_SECONDS", 0.05)
    engine = open_database(f"sqlite:///{disk / 'longwatch.db'}")
    store = IncidentStore(engine)
    with store.transaction() as ledger:
        ledger.save([by_rule(an_incident())])
        ledger.deliveries.add(a_delivery(), b"{}", {})
    ballast = fill(disk)
    stop = threading.Event()
    with receiving() as receiver, capture_logs() as said, ThreadPoolExecutor() as threads:
        webhook = a_webhook(receiver.url)
        posting = threads.submit(Courier(store, [webhook]).run, stop)
        try:
            wait_for(lambda: errors(said) > 0)
            stop.wait(0.5)
            assert store.counts().deliveries[DeliveryState.WAITING] == 1
            ballast.unlink()
            wait_for(lambda: store.counts().deliveries[DeliveryState.DELIVERED] == 1)
        finally:
            stop.set()
        posting.result(20)
    assert len(receiver.posts) == 1
    assert errors(said) == 1
    engine.dispose()
