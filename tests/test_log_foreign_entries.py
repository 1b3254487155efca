"""A log is a file that anybody may write to: no entry of theirs ends a reader."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from alerts.worker import AlertsWorker
from analyzer.kv.budget import MemoryPlan
from analyzer.watcher import Watcher
from analyzer.worker import AnalyzerWorker
from kit.model.small_model import small_runner
from kit.storage.fixtures import a_finding
from storage.db.alert_store import AlertStore
from storage.log.dead_letters import read_dead_letters
from storage.log.entry_keys import UNKNOWN_KEY
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import FINDINGS, WINDOWS
from storage.records.wire import encode_finding

KEYS = [
    "CAST(X'EDA080' AS TEXT)", "CAST(X'FF' AS TEXT)", "X'00FF'", "''", "'a' || char(10) || 'b'",
    "'a' || char(0) || 'b'", "char(27) || '[31m'", "replace(hex(zeroblob(9999)), '0', 'k')", "7",
]  # fmt: skip
VALUES = ["X''", "X'00'", "'text'", "1.5", "X'4C57'"]


@pytest.fixture(name="log")
def with_foreign_entries(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteLog]:
    """Write every odd key with every odd value, and one good entry behind them."""
    topic, good = request.param
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        rows = [(key, value) for key in KEYS for value in VALUES]
        with closing(sqlite3.connect(tmp_path / "log.db")) as foreign, foreign:
            for nth, (key, value) in enumerate(rows):
                at = "'noon'" if nth == 0 else "0"
                foreign.execute(
                    f"INSERT INTO entries VALUES (?, {nth}, {key}, {at}, {value})", (topic,)
                )
            foreign.execute("INSERT INTO topics VALUES (?, 0, ?, 0)", (topic, len(rows)))
        log.append(topic, "dock", good)
        yield log


@pytest.mark.parametrize("log", [(FINDINGS, encode_finding(a_finding()))], indirect=True)
def test_alerts_set_foreign_entries_aside(log: SqliteLog, store: AlertStore) -> None:
    judge = AlertsWorker(log, store, (), keepalive=lambda seconds: None)
    while judge.run_once():
        pass
    dead = [each for _, each in read_dead_letters(log)]
    assert len(dead) == len(KEYS) * len(VALUES)
    assert {each.key for each in dead} >= {UNKNOWN_KEY, "7"}
    assert all(each.key.isprintable() and each.reason for each in dead)
    assert len(store.findings([a_finding().id])) == 1


@pytest.mark.parametrize("log", [(WINDOWS, b"none either")], indirect=True)
def test_analyzer_sets_foreign_entries_aside(log: SqliteLog) -> None:
    worker = AnalyzerWorker(
        log, Watcher(small_runner(), [], MemoryPlan()), keepalive=lambda seconds: None
    )
    while worker.run_once(threading.Event()):
        pass
    assert len(list(read_dead_letters(log))) == len(KEYS) * len(VALUES) + 1
