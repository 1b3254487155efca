"""Several readers of one SQLite log: who owns which part, and what a zombie cannot do."""

import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from analyzer.worker import GROUP, AnalyzerWorker
from kit.deploy.command import ROOT
from kit.model.small_model import small_runner, window
from storage.errors import OffsetMoved
from storage.log.log import Log, OffsetCommit
from storage.log.sqlite.log import SqliteLog
from storage.log.sqlite.membership import SqliteGroupMembership, plan_rebalance
from storage.records.topics import FINDINGS, REQUESTS, WINDOWS
from storage.records.wire import decode_finding, encode_window
from test_log_contract import until
from test_watcher import watcher

SHORT = 1.0
CAMERAS = [f"c{n}" for n in range(6)]
STOP = threading.Event()


@pytest.fixture(name="path")
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture(name="open_log")
def opener(path: Path) -> Iterator[Callable[[], SqliteLog]]:
    """Open the log once more, as another process would."""
    opened = list[SqliteLog]()

    def open_it() -> SqliteLog:
        opened.append(SqliteLog(path, partitions=4))
        return opened[-1]

    yield open_it
    for log in opened:
        log.close()


HOLD = """
import sys
from pathlib import Path
from threading import Event
from storage.log.sqlite.log import SqliteLog
from storage.log.sqlite.membership import SqliteGroupMembership

share = SqliteGroupMembership(SqliteLog(Path(sys.argv[1])), "analyzer", "windows", 1.0)
while len(share.partitions()) < 2:
    Event().wait(0.05)
print("ready", flush=True)
Event().wait()
"""


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 13))
def test_whoever_comes_or_goes_every_part_ends_with_one_owner_and_all_own_as_many(
    moves: list[int], number: int
) -> None:
    parts = [f"windows-{n}" for n in range(number)]
    owners, members = dict[str, str](), list[str]()
    for move in moves:
        member = f"m{move}"
        if member in members:
            members.remove(member)
        else:
            members.append(member)
        for each in members:
            step(parts, owners, members, each)
    for _ in range(2):
        for each in members:
            step(parts, owners, members, each)
    if members:
        held = Counter(owners[part] for part in parts)
        assert held.keys() <= set(members)
        assert max(held.values()) - min(held.get(each, 0) for each in members) <= 1
        assert all(plan_rebalance(parts, owners, members, each).is_balanced for each in members), (
            "nobody waits for more"
        )


def step(parts: list[str], owners: dict[str, str], members: list[str], member: str) -> None:
    change = plan_rebalance(parts, owners, members, member)
    for part in change.release:
        assert owners.pop(part) == member
    for part in change.acquire:
        assert owners.get(part) not in members, "nothing is taken from a living member"
        owners[part] = member


def test_a_member_killed_is_noticed_when_its_lease_ends(path: Path) -> None:
    with closing(SqliteLog(path, partitions=4)) as log:
        share = SqliteGroupMembership(log, GROUP, WINDOWS, SHORT)
        command = [sys.executable, "-c", HOLD, str(path)]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert other.stdout is not None
        assert b"ready\n" in other.stdout  # behind lines of the log
        until(lambda: len(share.partitions()) == 2)
        tenures = {partition: share.generation(partition) for partition in share.partitions()}
        taken = set(log.partitions(WINDOWS)) - share.partitions()
        other.kill()
        other.communicate()
        until(lambda: len(share.partitions()) == 4, 10)
        assert {partition: share.generation(partition) for partition in tenures} == tenures
        assert all(share.generation(partition) == 3 for partition in taken)
        share.close()


def test_a_zombie_commits_nothing_that_another_owns_even_where_it_never_hears_of_it(
    open_log: Callable[[], SqliteLog],
) -> None:
    log = open_log()
    zombie = SqliteGroupMembership(log, GROUP, WINDOWS, SHORT)
    partition, requests = log.partitions(WINDOWS)[0], log.partitions(REQUESTS)[0]
    tenure = zombie.generation(partition)
    zombie.commit(partition, 3, tenure)
    zombie.commit(requests, 5, tenure)
    zombie._stop.set()  # as a process that is stopped: it renews nothing, and knows nothing
    zombie._thread.join()
    other = SqliteGroupMembership(open_log(), GROUP, WINDOWS, SHORT)
    until(lambda: len(other.partitions()) == 4, 10)
    assert partition in zombie.partitions()
    assert (other.committed(partition), other.committed(requests)) == (3, 5)
    for each in (partition, requests):
        with pytest.raises(OffsetMoved):
            zombie.commit(each, 9, tenure)
    other.commit(partition, 4, other.generation(partition))
    assert log.committed(GROUP, partition) == 4
    other.close()
    with pytest.raises(OffsetMoved):  # nobody owns it now, but somebody did
        zombie.commit(partition, 9, tenure)


def test_a_reader_that_breaks_its_promise_gives_its_parts_and_gets_some_back(
    open_log: Callable[[], SqliteLog],
) -> None:
    first = SqliteGroupMembership(open_log(), GROUP, WINDOWS, SHORT)
    second = SqliteGroupMembership(open_log(), GROUP, WINDOWS, SHORT)
    until(lambda: len(first.partitions()) == len(second.partitions()) == 2)
    tenures = {partition: first.generation(partition) for partition in first.partitions()}
    with capture_logs() as log_lines:
        first.keepalive(0)
        until(lambda: len(second.partitions()) == 4, 10)
    assert [each["reader"] for each in log_lines if "no keepalive" in each["event"]] == [GROUP]
    assert first.partitions() == frozenset()
    first.keepalive(60)
    until(lambda: len(first.partitions()) == 2, 10)
    assert all(
        first.generation(partition) > tenures.get(partition, 0) for partition in first.partitions()
    )
    first.close()
    second.close()


def test_a_part_that_is_owned_again_takes_no_commit_of_an_earlier_tenure(
    open_log: Callable[[], SqliteLog],
) -> None:
    zombie = SqliteGroupMembership(open_log(), GROUP, WINDOWS, SHORT)
    partition = next(iter(zombie.partitions()))
    old = zombie.generation(partition)
    zombie.keepalive(0)
    until(lambda: not zombie.partitions(), 10)
    heir = SqliteGroupMembership(open_log(), GROUP, WINDOWS, SHORT)
    until(lambda: partition in heir.partitions(), 10)
    heir.commit(partition, 14, heir.generation(partition))
    heir.close()
    zombie.keepalive(60)
    until(lambda: partition in zombie.partitions(), 10)
    with pytest.raises(OffsetMoved):
        zombie.commit(partition, 12, old)
    with pytest.raises(OffsetMoved):
        zombie.append([], {partition: OffsetCommit(12, old)})
    assert zombie.committed(partition) == 14
    zombie.append([], {partition: OffsetCommit(15, zombie.generation(partition))})
    assert zombie.committed(partition) == 15
    zombie.close()


def test_renewing_a_lease_waits_for_no_disk_and_all_else_does(path: Path) -> None:
    statements = list[str]()
    with closing(SqliteLog(path)) as log:
        log._db.set_trace_callback(statements.append)
        membership = log.join_group(GROUP, WINDOWS)
        until(lambda: bool(membership.partitions()))
        membership.commit(WINDOWS, 0, membership.generation(WINDOWS))
        log.append(WINDOWS, "dock", b"a window")
        log._db.set_trace_callback(None)
    levels = dict[str, set[str]]()
    for statement in statements:
        if statement.startswith("PRAGMA synchronous"):
            level = statement.rpartition("=")[2]
        levels.setdefault(statement.partition(" VALUES")[0], set()).add(level)
    assert levels["INSERT INTO members"] == {"NORMAL"}
    assert levels["INSERT INTO readers"] == levels["INSERT INTO entries"] == {"FULL"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_membership_whose_thread_has_ended_raises(
    open_log: Callable[[], SqliteLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    share = SqliteGroupMembership(log, GROUP, WINDOWS, SHORT)
    monkeypatch.setattr(log, "members", lambda *_: 1 / 0)
    share._thread.join(10)
    with pytest.raises(RuntimeError, match="the thread that renews the lease has ended"):
        share.partitions()
    monkeypatch.undo()
    share.close()


def test_a_lease_of_a_clock_that_was_set_back_is_no_lease(
    open_log: Callable[[], SqliteLog],
) -> None:
    log = open_log()
    with log.transaction() as db:
        db.execute("INSERT INTO members VALUES (?, ?, 'future', ?)", (GROUP, WINDOWS, 2**62))
    share = SqliteGroupMembership(log, GROUP, WINDOWS, SHORT)
    assert share.partitions() == frozenset(log.partitions(WINDOWS))
    share.close()


def test_a_file_of_one_part_is_read_as_it_is_and_the_second_reader_waits(path: Path) -> None:
    older = sqlite3.connect(path)
    older.executescript("""
        CREATE TABLE topics (topic TEXT PRIMARY KEY, oldest INTEGER NOT NULL,
            next INTEGER NOT NULL, bytes INTEGER NOT NULL);
        CREATE TABLE entries (topic TEXT NOT NULL, position INTEGER NOT NULL, key TEXT NOT NULL,
            at INTEGER NOT NULL, value BLOB NOT NULL, UNIQUE (topic, position));
        CREATE TABLE readers (reader TEXT NOT NULL, topic TEXT NOT NULL,
            position INTEGER NOT NULL, PRIMARY KEY (reader, topic));
        INSERT INTO topics VALUES ('windows', 4, 6, 2);
        INSERT INTO entries VALUES ('windows', 4, 'dock', 7, 'a'), ('windows', 5, 'gate', 8, 'b');
        INSERT INTO readers VALUES ('analyzer', 'windows', 5);
        PRAGMA user_version = 1;
    """)
    older.close()
    with (
        closing(SqliteLog(path, partitions=12)) as log,
        closing(SqliteLog(path, partitions=12)) as again,
    ):
        assert log.partitions(WINDOWS) == again.partitions(WINDOWS) == (WINDOWS,)
        assert [(e.offset, e.key) for e in log.read(WINDOWS, 0)] == [(4, "dock"), (5, "gate")]
        first = log.join_group(GROUP, WINDOWS)
        with capture_logs() as log_lines:
            second = again.join_group(GROUP, WINDOWS)
        assert [each["event"] for each in log_lines] == [
            "the other members own every partition: this one is on standby"
        ]
        assert first.partitions() == {WINDOWS}
        assert first.committed(WINDOWS) == 5
        assert second.partitions() == frozenset()
        first.close()
        until(lambda: second.partitions() == {WINDOWS}, 10)


def test_retention_drops_the_oldest_of_all_parts_together(
    open_log: Callable[[], SqliteLog],
) -> None:
    log = open_log()
    for n in range(40):
        log.append(WINDOWS, f"c{n % 8}", b"%02d" % n)
    assert log.trim(WINDOWS, keep_bytes=31, keep_for=timedelta(days=1)) == 25
    left = [entry for partition in log.partitions(WINDOWS) for entry in log.read(partition, 0)]
    assert sorted(int(entry.value) for entry in left) == list(range(25, 40))
    for partition in log.partitions(WINDOWS):
        first = log.read(partition, 0, limit=1)
        assert log.start_offset(partition) == (
            first[0].offset if first else log.end_offset(partition)
        )


def cut(log: Log, numbers: range) -> None:
    for number in numbers:
        for camera in CAMERAS:
            log.append(WINDOWS, camera, encode_window(window(number, camera=camera)))


def test_two_analyzers_on_one_file_share_the_cameras_and_take_over(
    open_log: Callable[[], SqliteLog],
) -> None:
    runner, log = small_runner(), open_log()
    first = AnalyzerWorker(log, watcher(runner), lambda _: None)
    second = AnalyzerWorker(open_log(), watcher(runner), lambda _: None)
    until(lambda: len(first._membership.partitions()) == len(second._membership.partitions()) == 2)

    def work(number: int, *workers: AnalyzerWorker) -> None:
        cut(log, range(number, number + 1))
        ends = {partition: log.end_offset(partition) for partition in log.partitions(WINDOWS)}
        until(
            lambda: (
                sum(each.run_once(STOP) for each in workers) == 0
                and all(log.committed(GROUP, partition) == end for partition, end in ends.items())
            )
        )

    work(0, first, second)
    assert first.watcher.cameras | second.watcher.cameras == set(CAMERAS)
    assert not first.watcher.cameras & second.watcher.cameras
    first._membership.close()
    work(1, second)
    assert second.watcher.cameras == set(CAMERAS)
    found = Counter(
        decode_finding(entry.value).id
        for partition in log.partitions(FINDINGS)
        for entry in log.read(partition, 0)
    )
    assert len(found) == 2 * len(CAMERAS)
    assert set(found.values()) == {1}
