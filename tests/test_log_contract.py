"""What every log holds: in memory, in SQLite, and on Apache Kafka."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition

from kit.kafka.broker import Broker
from storage.errors import OffsetMoved, OffsetOutOfRange, StorageBlocked
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import KafkaLog
from storage.log.log import GroupMembership, Log, LogEntry, LogPage, ReadRequest, offset_after_loss
from storage.log.memory_log import MemoryLog
from storage.log.retention import DEFAULT_RETENTION
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import FINDINGS, WINDOWS

AGES = timedelta(days=1)
USED = (WINDOWS, FINDINGS)
LOGS = ["memory", "memory in parts", "sqlite", "sqlite in parts", "kafka"]


@pytest.fixture(params=LOGS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def broker(kind: str, request: pytest.FixtureRequest) -> Broker | None:
    return request.getfixturevalue(kind) if kind == "kafka" else None


@pytest.fixture
def log(kind: str, broker: Broker | None, tmp_path: Path) -> Iterator[Log]:
    opened: Log
    if broker is not None:
        opened = KafkaLog(a_place(broker))
    elif "sqlite" in kind:
        opened = SqliteLog(tmp_path / "log.db", partitions=4 if "parts" in kind else 1)
    else:
        opened = MemoryLog(partitions=4 if "parts" in kind else 1)
    yield opened
    opened.close()


@pytest.fixture
def forget(log: Log, broker: Broker | None) -> Callable[[str, int], None]:
    """Return what makes a part begin at a position; on a broker, as its own retention does."""

    def trim(partition: str, offset: int) -> None:
        kept = log.read(partition, offset)
        size = sum(len(entry.value) for entry in kept)
        log.trim(partition.split("-", maxsplit=1)[0], keep_bytes=size, keep_for=AGES)

    def delete(partition: str, offset: int) -> None:
        assert isinstance(log, KafkaLog) and broker is not None
        topic, _, number = partition.rpartition("-")
        admin = KafkaAdminClient(bootstrap_servers=broker.address)
        where = TopicPartition(log._config.prefix + topic, int(number))
        admin.delete_records({where: offset})
        admin.close()

    return trim if broker is None else delete


def a_place(broker: Broker) -> KafkaConfig:
    """Return a place with the topics alone that are used here: each takes a while to be made."""
    return broker.place(retention=tuple(each for each in DEFAULT_RETENTION if each.topic in USED))


@pytest.fixture
def dock(log: Log) -> str:
    return log.partition_for(WINDOWS, "dock")


def values(log: Log, partition: str, offset: int = 0, limit: int = 100) -> list[bytes]:
    return [entry.value for entry in log.read(partition, offset, limit)]


def test_entries_of_a_key_come_back_in_order_with_key_and_time(log: Log, dock: str) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    assert log.append(WINDOWS, "dock", b"a", b"b") == 1
    assert log.append(WINDOWS, "dock", b"c") == 2
    entries = log.read(dock, 0)
    found = [(entry.topic, entry.offset, entry.key, entry.value) for entry in entries]
    assert found == [
        (dock, 0, "dock", b"a"),
        (dock, 1, "dock", b"b"),
        (dock, 2, "dock", b"c"),
    ]
    assert all(before <= entry.at <= datetime.now(UTC) for entry in entries)


def test_identity_tells_a_log_from_another(log: Log, dock: str, broker: Broker | None) -> None:
    kafka_config = a_place(broker) if broker else None
    other: Log = KafkaLog(kafka_config) if kafka_config else MemoryLog()
    found = log.identity(dock)
    assert found
    assert log.identity(dock) == found != other.identity(other.partition_for(WINDOWS, "dock"))
    other.close()


def test_values_of_a_key_share_a_part_and_parts_of_two_topics_pair_off(log: Log) -> None:
    keys = [f"c{n}" for n in range(12)]
    for topic in (WINDOWS, FINDINGS):
        log.append_all(topic, [(key, key.encode()) for key in keys])
    seen = list[str]()
    for window, finding in zip(log.partitions(WINDOWS), log.partitions(FINDINGS), strict=True):
        here = [entry.key for entry in log.read(window, 0)]
        assert here == [entry.key for entry in log.read(finding, 0)]
        assert all(log.partition_for(WINDOWS, key) == window for key in here)
        seen += here
    assert sorted(seen) == sorted(keys)


def test_topics_count_their_positions_apart(log: Log, dock: str) -> None:
    log.append(WINDOWS, "dock", b"a", b"b")
    assert log.append(FINDINGS, "dock", b"c") == 0
    assert (log.end_offset(dock), log.end_offset(log.partition_for(FINDINGS, "dock"))) == (2, 1)


def test_reader_seeks_and_takes_no_more_than_it_asks_for(log: Log, dock: str) -> None:
    log.append(WINDOWS, "dock", *(b"%d" % n for n in range(10)))
    assert [entry.offset for entry in log.read(dock, 4, limit=3)] == [4, 5, 6]
    assert [entry.offset for entry in log.read(dock, 7, limit=2)] == [7, 8]
    assert [entry.offset for entry in log.read(dock, 1, limit=1)] == [1]
    assert log.read(dock, 10) == []


def test_reader_beyond_the_end_is_told(log: Log, dock: str) -> None:
    log.append(WINDOWS, "dock", b"a", b"b")
    assert log.read(dock, 2) == []
    with pytest.raises(OffsetOutOfRange, match="ends at 2, before 3") as raised:
        log.read(dock, 3)
    assert raised.value.end_offset == 2
    assert values(log, dock, offset_after_loss(log, dock, raised.value)) == [b"a", b"b"]


def test_reader_of_one_key_is_shown_no_other(log: Log, dock: str) -> None:
    others = [
        key for key in (f"c{n}" for n in range(40)) if log.partition_for(WINDOWS, key) == dock
    ]
    for n in range(6):
        log.append(WINDOWS, "dock", b"%d" % n)
        log.append(WINDOWS, others[0], b"other")
    found = log.read(dock, 2, limit=3, key="dock")
    assert [(entry.key, entry.value) for entry in found] == [
        ("dock", b"1"),
        ("dock", b"2"),
        ("dock", b"3"),
    ]


def test_page_tells_where_to_read_on(log: Log, dock: str) -> None:
    log.append(WINDOWS, "dock", b"a", b"b", b"c")
    page = log.read(dock, 0, limit=2)
    assert (page.partition, page.offset, page.next_offset, page.missed) == (dock, 0, 2, 0)
    rest = log.read(dock, page.next_offset)
    assert ([entry.value for entry in rest], rest.offset, rest.next_offset) == ([b"c"], 2, 3)
    end = log.read(dock, rest.next_offset)
    assert (end, end.offset, end.next_offset, end.missed) == ([], 3, 3, 0)


def test_pages_of_one_key_leave_none_of_its_entries_out(log: Log, dock: str) -> None:
    other = next(
        key for key in (f"c{n}" for n in range(40)) if log.partition_for(WINDOWS, key) == dock
    )
    for n in range(6):
        log.append(WINDOWS, "dock", *[b"%d" % n] * (1 + n % 3))
        log.append(WINDOWS, other, *[b"other"] * (1 + n % 2))
    found, offset = list[bytes](), 0
    while (page := log.read(dock, offset, limit=2, key="dock")).next_offset > offset:
        found += [entry.value for entry in page]
        offset = page.next_offset
    assert found == [b"%d" % n for n in range(6) for _ in range(1 + n % 3)]
    assert offset == log.end_offset(dock)


def test_values_of_any_size_come_back_whole(log: Log, dock: str) -> None:
    sent = [b"", b"x", b"\x00\xff" * 500, bytes(range(256)) * 4000]
    log.append(WINDOWS, "dock", *sent)
    assert values(log, dock) == sent


def test_reader_that_did_not_commit_reads_the_same_again(log: Log, dock: str) -> None:
    finding = log.partition_for(FINDINGS, "dock")
    log.append(WINDOWS, "dock", b"a", b"b")
    assert log.committed("analyzer", dock) == 0
    assert values(log, dock) == values(log, dock) == [b"a", b"b"]
    log.commit("analyzer", dock, 1)
    log.commit("analyzer", finding, 7)
    log.commit("other", dock, 2)
    assert values(log, dock, log.committed("analyzer", dock)) == [b"b"]
    log.commit("analyzer", dock, 0)
    assert (log.committed("analyzer", dock), log.committed("analyzer", finding)) == (0, 7)


def test_nothing_to_append_is_an_error(log: Log) -> None:
    with pytest.raises(ValueError, match="at least one"):
        log.append(WINDOWS, "dock")


def test_a_part_without_entries_is_empty(log: Log, dock: str) -> None:
    assert (log.start_offset(dock), log.end_offset(dock), values(log, dock)) == (0, 0, [])


def test_reader_that_fell_behind_can_tell_what_it_missed(
    log: Log, dock: str, forget: Callable[[str, int], None]
) -> None:
    log.append(WINDOWS, "dock", *(b"x" * 10 for _ in range(5)))
    log.commit("analyzer", dock, 1)
    forget(dock, 3)
    assert log.start_offset(dock) - log.committed("analyzer", dock) == 2
    page = log.read(dock, 1)
    assert [entry.offset for entry in page] == [3, 4]
    assert (page.next_offset, page.missed) == (5, 2)


def test_positions_go_on_after_everything_went(
    log: Log, dock: str, forget: Callable[[str, int], None]
) -> None:
    log.append(WINDOWS, "dock", b"a", b"b")
    forget(dock, 2)
    assert (log.start_offset(dock), log.end_offset(dock), values(log, dock)) == (2, 2, [])
    page = log.read(dock, 0)
    assert (page.next_offset, page.missed) == (2, 2)
    assert log.append(WINDOWS, "dock", b"c") == 2


def test_threads_append_without_hole_or_double(log: Log) -> None:
    def append(camera: str) -> None:
        for n in range(25):
            log.append(WINDOWS, camera, b"%d" % n)

    threads = [threading.Thread(target=append, args=(f"c{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = [
        entry for partition in log.partitions(WINDOWS) for entry in log.read(partition, 0, 1000)
    ]
    for camera in (f"c{n}" for n in range(4)):
        mine = [int(entry.value) for entry in entries if entry.key == camera]
        assert mine == list(range(25))


def test_one_reader_by_itself_has_all_parts(log: Log, dock: str) -> None:
    membership = log.join_group("analyzer", WINDOWS)
    membership.keepalive(60)
    until(lambda: membership.partitions() == frozenset(log.partitions(WINDOWS)))
    finding = log.partition_for(FINDINGS, "dock")
    until(lambda: committed(membership, dock, 3) and committed(membership, finding, 5))
    assert (membership.committed(dock), membership.committed(finding)) == (3, 5)
    membership.close()
    assert log.committed("analyzer", dock) == 3


def test_like_readers_share_the_parts_and_refuse_what_is_not_theirs(log: Log, kind: str) -> None:
    if kind in ("memory", "sqlite"):
        pytest.skip("one part, one machine: nobody shares")
    everything = frozenset(log.partitions(WINDOWS))
    first, second = log.join_group("analyzer", WINDOWS), log.join_group("analyzer", WINDOWS)
    until(
        lambda: (
            first.partitions()
            and second.partitions()
            and first.partitions() ^ second.partitions() == everything
        )
    )
    (lost, *_) = second.partitions()
    with pytest.raises(OffsetMoved):
        first.commit(lost, 3, second.generation(lost))
    until(lambda: committed(second, lost, 3))
    second.close()
    until(lambda: first.partitions() == everything)
    assert first.committed(lost) == 3
    first.close()


class FollowerHarness:
    """Who reads parts on from where the last pages ended."""

    def __init__(self, log: Log, *partitions: str) -> None:
        self.follower = log.follow()
        self.positions = dict.fromkeys(partitions, 0)
        self.found = list[LogEntry]()
        self.missed = 0

    def step(self, limit: int = 100, wait: float = 0.05) -> list[LogPage]:
        wanted = {
            partition: ReadRequest(offset, limit) for partition, offset in self.positions.items()
        }
        pages = self.follower.read(wanted)
        for page in pages:
            assert page.offset == self.positions[page.partition] < page.next_offset
            assert len(page) <= limit
            self.positions[page.partition] = page.next_offset
            self.found += page
            self.missed += page.missed
        if not pages:
            self.follower.wait(threading.Event(), wait)
        return pages

    def until(self, count: int, limit: int = 100) -> list[bytes]:
        deadline = time.monotonic() + 10
        while len(self.found) < count and time.monotonic() < deadline:
            self.step(limit)
        return [entry.value for entry in self.found]


@pytest.fixture
def following(log: Log) -> Iterator[FollowerHarness]:
    opened = FollowerHarness(log, *log.partitions(WINDOWS))
    yield opened
    opened.follower.close()


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_follower_reads_all_parts_in_order_and_goes_on(
    log: Log, following: FollowerHarness, limit: int
) -> None:
    keys = [f"c{n}" for n in range(6)]
    for number in range(3):
        log.append_all(WINDOWS, [(key, b"%s %d" % (key.encode(), number)) for key in keys])
        following.until(6 * (number + 1), limit)
    for key in keys:
        mine = [entry.value for entry in following.found if entry.key == key]
        assert mine == [b"%s %d" % (key.encode(), number) for number in range(3)]
    assert following.positions == {
        partition: log.end_offset(partition) for partition in log.partitions(WINDOWS)
    }
    assert (len(following.found), following.missed) == (18, 0)
    assert [following.step() for _ in range(3)] == [[], [], []]


def test_follower_leaves_out_what_is_not_wanted_until_it_is(log: Log, dock: str) -> None:
    findings = log.partition_for(FINDINGS, "dock")
    following = FollowerHarness(log, dock)
    log.append(WINDOWS, "dock", b"a")
    log.append(FINDINGS, "dock", b"b")
    assert following.until(1) == [b"a"]
    following.positions = {findings: 0}
    log.append(WINDOWS, "dock", b"c")
    assert following.until(2) == [b"a", b"b"]
    assert following.step() == []
    following.positions = {dock: 1, findings: 1}
    assert following.until(3) == [b"a", b"b", b"c"]
    following.follower.close()


def test_follower_reads_again_from_where_it_is_asked_to(log: Log, dock: str) -> None:
    following = FollowerHarness(log, dock)
    log.append(WINDOWS, "dock", b"a", b"b", b"c")
    assert following.until(3) == [b"a", b"b", b"c"]
    for offset in (1, 0, 2):
        following.found.clear()
        following.positions[dock] = offset
        assert following.until(3 - offset) == [b"a", b"b", b"c"][offset:]
    following.follower.close()


def test_follower_tells_what_the_log_kept_no_longer(
    log: Log, dock: str, forget: Callable[[str, int], None], following: FollowerHarness
) -> None:
    log.append(WINDOWS, "dock", *(b"x" * 10 for _ in range(5)))
    forget(dock, 3)
    following.positions = {dock: 1}
    following.until(2)
    assert [entry.offset for entry in following.found] == [3, 4]
    assert (following.positions, following.missed) == ({dock: 5}, 2)


def test_follower_beyond_the_end_of_one_part_loses_nothing_of_the_others(
    log: Log, dock: str, following: FollowerHarness
) -> None:
    findings = log.partition_for(FINDINGS, "dock")
    log.append(WINDOWS, "dock", b"a")
    log.append(FINDINGS, "dock", b"b", b"c")
    following.positions = {dock: 4, findings: 0}
    deadline, told = time.monotonic() + 10, None
    while told is None and time.monotonic() < deadline:
        try:
            following.step()
        except OffsetOutOfRange as error:
            told = error
    assert told is not None
    assert (told.partition, told.end_offset) == (dock, 1)
    following.positions[dock] = 0
    assert sorted(following.until(3)) == [b"a", b"b", b"c"]


def test_follower_that_waits_goes_on_with_what_comes_or_with_the_stop(
    log: Log, dock: str, following: FollowerHarness
) -> None:
    following.positions = {dock: 0}
    assert following.step() == []
    later = threading.Timer(0.3, log.append, (WINDOWS, "dock", b"a"))
    later.start()
    began = time.monotonic()
    while not following.found and time.monotonic() < began + 10:
        following.step(wait=10.0)
    later.join()
    assert time.monotonic() - began < 2.0
    stop = threading.Event()
    stop.set()
    following.follower.wait(stop, 10.0)
    assert time.monotonic() - began < 3.0


def committed(share: GroupMembership, partition: str, offset: int) -> bool:
    """Tell whether it could be done: not while it is settled who owns what."""
    try:
        own = f"{WINDOWS}-{partition.rpartition('-')[2]}" if "-" in partition else WINDOWS
        share.commit(partition, offset, share.generation(own))
    except StorageBlocked:
        return False
    return True


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    done = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if true():
            return
        done.wait(0.05)
    raise AssertionError("it did not happen")
