"""A dead letter fits into every log, whatever it is of."""

import hashlib
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from alerts.worker import AlertsWorker
from deploy.cli.app import app
from kit.storage.fixtures import a_finding
from storage.db.alert_store import AlertStore
from storage.errors import Unreadable
from storage.log.dead_letters import (
    MAX_WHOLE_BYTES,
    PREFIX_BYTES,
    build_dead_letter,
    read_dead_letters,
    requeue,
)
from storage.log.entry_keys import UNKNOWN_KEY
from storage.log.log import LogEntry
from storage.log.memory_log import MemoryLog
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import COVERAGE, DEAD_LETTERS, FINDINGS
from storage.records.wire import decode_dead_letter, encode_dead_letter, encode_finding


@settings(deadline=None)
@given(
    topic=st.text(max_size=300),
    position=st.integers(-(2**63), 2**64),
    key=st.text(max_size=20) | st.just("\U0001f600" * 2000),
    fault=st.text(max_size=20) | st.just("why\n" * 2000),
    reason=st.text(max_size=20) | st.just("\U0001f600" * 2000),
    size=st.integers(0, 20) | st.sampled_from([MAX_WHOLE_BYTES, MAX_WHOLE_BYTES + 1, 2**22]),
)
def test_whatever_was_in_the_log_its_dead_letter_is_small_and_comes_back(
    topic: str, position: int, key: str, fault: str, reason: str, size: int
) -> None:
    value = b"\xff" * size
    entry = LogEntry(topic, position, key, 0, value, fault)
    dead = build_dead_letter(entry, Unreadable(reason))
    written = encode_dead_letter(dead)
    assert decode_dead_letter(written) == dead
    assert len(written) < MAX_WHOLE_BYTES + 2**14
    assert dead.is_whole == (size <= MAX_WHOLE_BYTES)
    if not dead.is_whole:
        assert (dead.size, dead.sha256) == (size, hashlib.sha256(value).hexdigest())
        assert dead.value == value[:PREFIX_BYTES]


def test_what_is_too_large_is_listed_and_left_by_a_replay(
    tmp_path: Path, store: AlertStore
) -> None:
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        log.append(FINDINGS, "dock", b"\xff" * 2**22, encode_finding(a_finding()))
        log.append(COVERAGE, "dock", b"{" * 2**22)
        judge = AlertsWorker(log, store, (), keepalive=lambda seconds: None)
        while judge.run_once():
            pass
        assert len(store.findings([a_finding().id])) == 1
        found = [dead for _, dead in read_dead_letters(log)]
        assert sorted(dead.topic for dead in found) == [COVERAGE, FINDINGS]
        assert all(dead.size == 2**22 and len(dead.value) == PREFIX_BYTES for dead in found)
        assert requeue(log) == (0, 2)
    told = CliRunner().invoke(app, ["dead", "list", "--data", str(tmp_path), "--json"]).output
    assert told.count(f'"bytes": {2**22}') == 2
    assert found[0].sha256 in told


def test_the_first_bytes_of_a_finding_are_not_taken_for_it() -> None:
    log = MemoryLog()
    whole = encode_finding(a_finding())
    padded = whole + b" " * MAX_WHOLE_BYTES
    entry = LogEntry(FINDINGS, 0, "dock", 0, padded)
    log.append(
        DEAD_LETTERS, "dock", encode_dead_letter(build_dead_letter(entry, Unreadable("too large")))
    )
    assert requeue(log) == (0, 1)
    assert log.read(FINDINGS, 0) == []


@pytest.mark.parametrize("key", ["", "\n", "\ud800"])
def test_a_key_that_no_camera_has_is_kept_as_a_stranger(key: str) -> None:
    dead = build_dead_letter(LogEntry("findings-3", 7, key, 0, b""), Unreadable("0 bytes"))
    assert (dead.key, dead.topic, dead.offset) == (UNKNOWN_KEY, "findings-3", 7)


def test_the_reason_of_the_log_is_preferred() -> None:
    entry = LogEntry(FINDINGS, 0, "dock", 0, b"", "a record of 9 bytes: offset delta 4")
    assert (
        build_dead_letter(entry, Unreadable("0 bytes")).reason
        == "a record of 9 bytes: offset delta 4"
    )
