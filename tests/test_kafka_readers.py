"""Two readers of Kafka: transactions, retention, topics made again, and parts that are refused."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from statistics import median
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaTimeoutError, UnknownTopicOrPartitionError

from kit.kafka.broker import Broker, run_broker
from kit.waiting import wait_for
from storage.errors import OffsetOutOfRange, StorageDown
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.network import to_topic_partition
from storage.log.kafka.fetch import tail_reader
from storage.log.kafka.fetch.buffer import FetchBuffer
from storage.log.kafka.fetch.records import RecordFault
from storage.log.kafka.fetch.tail_reader import KafkaTailReader
from storage.log.kafka.log import KafkaLog
from storage.log.log import LogEntry, LogPage, ReadRequest
from storage.log.retention import DEFAULT_RETENTION
from storage.records.topics import COVERAGE, FINDINGS, WINDOWS

NEVER = threading.Event()


def a_place(broker: Broker, **other: Any) -> KafkaConfig:
    """Return a place with the topics alone that are used here: each takes a while to be made."""
    used = tuple(each for each in DEFAULT_RETENTION if each.topic in (FINDINGS, COVERAGE, WINDOWS))
    return broker.place(**({"retention": used} | other))


@pytest.fixture
def log(kafka: Broker) -> Iterator[KafkaLog]:
    with closing(KafkaLog(a_place(kafka))) as opened:
        yield opened


@pytest.fixture
def part(log: KafkaLog) -> str:
    return log.partition_for(FINDINGS, "dock")


class FollowerHarness:
    """A reader that follows parts, and keeps where it is in each."""

    def __init__(self, log: KafkaLog, *partitions: str) -> None:
        self.follower = log.follow()
        assert isinstance(self.follower, KafkaTailReader)
        self.positions = dict.fromkeys(partitions, 0)
        self.pages = list[LogPage]()

    def read(self, *left_out: str, limit: int = 100) -> list[LogPage]:
        wanted = {
            p: ReadRequest(at, limit) for p, at in self.positions.items() if p not in left_out
        }
        pages = self.follower.read(wanted)
        self.positions |= {page.partition: page.next_offset for page in pages}
        self.pages += pages
        return pages

    def until(self, count: int, seconds: float = 10.0) -> list[LogEntry]:
        deadline = time.monotonic() + seconds
        while len(self.entries) < count and time.monotonic() < deadline:
            if not self.read():
                self.follower.wait(NEVER, 0.5)
        return self.entries

    @property
    def entries(self) -> list[LogEntry]:
        return [entry for page in self.pages for entry in page]


@pytest.fixture
def following(log: KafkaLog, part: str) -> Iterator[FollowerHarness]:
    opened = FollowerHarness(log, part)
    with closing(opened.follower):
        yield opened


@contextmanager
def transactions(log: KafkaLog, name: str) -> Iterator[Any]:
    """Yield a producer that writes to where `log` keeps what the camera `dock` has."""
    place = log._config
    producer = KafkaProducer(bootstrap_servers=place.bootstrap[0], transactional_id=name)
    producer.init_transactions()
    with closing(producer):
        yield producer


def send(producer: Any, log: KafkaLog, partition: str, value: bytes) -> None:
    where = to_topic_partition(log._config, partition)
    producer.send(where.topic, value, key=b"dock", partition=where.partition).get(10)


def values(entries: list[LogEntry]) -> list[bytes]:
    return [entry.value for entry in entries]


def test_only_what_is_committed_is_read_and_markers_are_passed(
    log: KafkaLog, part: str, following: FollowerHarness
) -> None:
    with transactions(log, part) as producer:
        for value, end in (
            (b"committed", producer.commit_transaction),  # 0, and its marker 1
            (b"aborted", producer.abort_transaction),  # 2, 3
        ):
            producer.begin_transaction()
            send(producer, log, part, value)
            end()
        log.append(FINDINGS, "dock", b"plain")  # 4
        producer.begin_transaction()
        send(producer, log, part, b"open")  # 5
        page = log.read(part, 0)
        assert (values(page), page.next_offset, page.missed) == ([b"committed", b"plain"], 5, 0)
        assert (log.read(part, 5), log.read(part, 5).next_offset, log.end_offset(part)) == (
            [],
            5,
            6,
        )
        assert values(following.until(2)) == [b"committed", b"plain"]
        assert not following.read()
        producer.commit_transaction()
    wait_for(lambda: log.read(part, 5).next_offset == 7)
    assert values(following.until(3)) == [b"committed", b"plain", b"open"]
    wait_for(lambda: following.read() != [] or following.positions[part] == 7)
    assert sum(page.missed for page in following.pages) == 0


def test_position_passes_what_is_no_entry_at_the_end(
    log: KafkaLog, part: str, following: FollowerHarness
) -> None:
    assert following.read() == []
    with transactions(log, part) as producer:
        producer.begin_transaction()
        send(producer, log, part, b"aborted")
        producer.abort_transaction()
    wait_for(lambda: log.read(part, 0).next_offset == 2)
    assert log.read(part, 0) == []
    wait_for(lambda: bool(following.read()))
    assert (following.entries, following.positions[part], log.end_offset(part)) == ([], 2, 2)


def forget(log: KafkaLog, partition: str, offset: int) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=log._config.bootstrap[0])) as admin:
        admin.delete_records({to_topic_partition(log._config, partition): offset})


def test_missed_is_what_the_log_no_longer_keeps(
    log: KafkaLog, part: str, following: FollowerHarness
) -> None:
    log.append(FINDINGS, "dock", *(b"%d" % n for n in range(6)))
    assert len(following.until(6)) == 6
    forget(log, part, 4)
    page = log.read(part, 1)
    assert (values(page), page.offset, page.next_offset, page.missed) == ([b"4", b"5"], 1, 6, 3)
    following.positions[part] = 0
    assert len(following.until(6)) == 6, "what it still holds it gives"
    with closing(log.follow()) as follower:
        (found,) = follower.read({part: ReadRequest(1, 100)})
        (again,) = follower.read({part: ReadRequest(1, 100)})  # it was not used
    assert (found.offset, found.missed) == (again.offset, again.missed) == (1, 3)
    behind = FollowerHarness(log, part)
    behind.positions[part] = 1
    with closing(behind.follower):
        assert values(behind.until(2)) == [b"4", b"5"]
    assert sum(page.missed for page in behind.pages) == 3


def test_all_of_a_part_may_be_gone(log: KafkaLog, part: str) -> None:
    log.append(FINDINGS, "dock", b"a", b"b")
    forget(log, part, 2)
    page = log.read(part, 0)
    assert (page, page.next_offset, page.missed) == ([], 2, 2)
    assert (log.start_offset(part), log.end_offset(part)) == (2, 2)
    with closing(log.follow()) as follower:
        (page,) = follower.read({part: ReadRequest(0, 10)})
    assert (page, page.next_offset, page.missed) == ([], 2, 2)


def test_page_is_empty_only_where_nothing_is_there(log: KafkaLog, part: str) -> None:
    """Also at once after an append, and after a look elsewhere."""
    other = next(each for each in log.partitions(FINDINGS) if each != part)
    took = list[float]()
    for number in range(20):
        began = time.monotonic()
        assert log.read(part, number) == log.read(other, 0) == []
        took.append(time.monotonic() - began)
        log.append(FINDINGS, "dock", b"%d" % number)
        assert values(log.read(part, number)) == [b"%d" % number]
        assert len(log.read(part, 0)) == number + 1
    assert median(took) < 0.2


def test_a_part_that_is_beyond_its_end_holds_up_no_other(log: KafkaLog) -> None:
    """Also where its reader insists on the position."""
    partitions = log.partitions(FINDINGS)
    following = FollowerHarness(log, *partitions)
    following.positions[partitions[0]] = 10_000
    told, count = 0, 0
    deadline = time.monotonic() + 2.5
    with closing(following.follower):
        while time.monotonic() < deadline:
            log.append_all(FINDINGS, [(f"camera-{count}", b"x"), (f"camera-{count + 1}", b"x")])
            count += 2
            for _ in range(5):
                try:
                    following.read()
                    following.follower.wait(NEVER, 0.01)
                except OffsetOutOfRange as error:
                    assert (error.partition, error.end_offset) == (
                        partitions[0],
                        log.end_offset(partitions[0]),
                    )
                    told += 1
        following.positions[partitions[0]] = 0
        assert len(following.until(count)) == count
    assert 2 <= told <= 5


def test_topic_that_is_made_again_ends_before_the_position(
    log: KafkaLog, part: str, following: FollowerHarness
) -> None:
    log.append(FINDINGS, "dock", b"a", b"b")
    assert len(following.until(2)) == 2
    assert len(log.read(part, 0)) == 2
    with closing(KafkaAdminClient(bootstrap_servers=log._config.bootstrap[0])) as admin:
        admin.delete_topics([log._config.prefix + FINDINGS])
    with closing(KafkaLog(log._config)) as again:
        again.append(FINDINGS, "dock", b"new")

    def told() -> bool:
        try:
            following.read()
        except OffsetOutOfRange as error:
            return (error.partition, error.end_offset) == (part, 1)
        following.follower.wait(NEVER, 0.1)
        return False

    wait_for(told)
    with pytest.raises(OffsetOutOfRange, match="ends at 1, before 2"):
        log.read(part, 2)
    following.positions[part] = 0
    assert values(following.until(3))[2:] == [b"new"]


def test_part_that_was_left_out_delivers_at_once(log: KafkaLog) -> None:
    mine = log.partition_for(FINDINGS, "dock")
    following = FollowerHarness(log, *log.partitions(FINDINGS), *log.partitions(COVERAGE))
    took = list[float]()

    def leave_out(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert following.read(mine) == []
            following.follower.wait(NEVER, 0.05)

    with closing(following.follower):
        for number in range(4):
            leave_out(0.6)  # what was asked for before it was left out is answered
            log.append(FINDINGS, "dock", b"%d" % number)
            leave_out(0.1)
            began = time.monotonic()
            following.until(number + 1)
            took.append(time.monotonic() - began)
    assert values(following.entries) == [b"%d" % n for n in range(4)]
    assert median(took) < 0.1


def test_topics_are_followed_together(log: KafkaLog) -> None:
    following = FollowerHarness(log, *log.partitions(FINDINGS), *log.partitions(COVERAGE))
    keys = [f"camera-{number}" for number in range(8)]
    with closing(following.follower):
        for topic in (COVERAGE, FINDINGS):
            log.append_all(topic, [(key, topic.encode()) for key in keys])
        found = following.until(16)
    assert sorted((entry.key, entry.value) for entry in found) == sorted(
        (key, topic.encode()) for key in keys for topic in (COVERAGE, FINDINGS)
    )
    assert all(entry.topic.startswith(entry.value.decode()) for entry in found)


def test_what_comes_ends_a_wait_at_once_and_so_does_the_stop(
    log: KafkaLog, following: FollowerHarness
) -> None:
    took = list[float]()
    following.read()
    for _ in range(5):
        at = list[float]()

        def append(at: list[float] = at) -> None:
            log.append(FINDINGS, "dock", b"a")
            at.append(time.monotonic())

        later = threading.Timer(0.2, append)
        later.start()
        while not following.read():
            following.follower.wait(NEVER, 10.0)
        found_at = time.monotonic()
        later.join()
        took.append(found_at - at[0])
    assert median(took) < 0.1
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    following.follower.wait(stop, 10.0)
    assert time.monotonic() - began < 2.0


def test_what_is_fetched_ahead_is_bounded(kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    megabyte = 2**20
    monkeypatch.setattr(tail_reader, "_MAX_BUFFERED_BYTES", 3 * megabyte)
    with closing(KafkaLog(a_place(kafka, largest=megabyte))) as log:
        keys = [f"camera-{number}" for number in range(12)]
        for _ in range(8):
            log.append_all(WINDOWS, [(key, os.urandom(megabyte // 4)) for key in keys])
        following = FollowerHarness(log, *log.partitions(WINDOWS))
        assert isinstance(following.follower, KafkaTailReader)
        feeds = following.follower._feeds
        with closing(following.follower):
            for _ in range(20):  # a reader that stays where it is
                following.follower.read(
                    {partition: ReadRequest(0, 100) for partition in following.positions}
                )
                following.follower.wait(NEVER, 0.02)
            assert sum(feed.buffer.size for feed in feeds.values()) < 10 * megabyte
            assert len(following.until(96)) == 96


@pytest.mark.parametrize("limit", [1, 7])
def test_backlog_is_read_without_a_pause(
    log: KafkaLog, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_reader, "_MAX_POLL_RECORDS", 10)
    keys = [f"camera-{number}" for number in range(12)]
    for _ in range(20):
        log.append_all(FINDINGS, [(key, key.encode()) for key in keys])
    following = FollowerHarness(log, *log.partitions(FINDINGS))
    began = time.monotonic()
    with closing(following.follower):
        following.read(limit=limit)
        while len(following.entries) < 240 and time.monotonic() < began + 20:
            following.follower.wait(NEVER, 5.0)  # there is more, and room for it at the next read
            following.read(limit=limit)
    assert time.monotonic() - began < 5
    assert following.positions == {
        partition: log.end_offset(partition) for partition in log.partitions(FINDINGS)
    }
    assert sorted(values(following.entries)) == sorted(key.encode() for key in keys * 20)


def test_closing_leaves_no_thread_and_no_socket(kafka: Broker) -> None:
    def sockets() -> int:
        return sum(Path(each).is_socket() for each in Path("/proc/self/fd").iterdir())

    kafka_config = a_place(kafka)
    KafkaLog(kafka_config).close()
    before = (set(threading.enumerate()), sockets())
    with closing(KafkaLog(kafka_config)) as log:
        following = FollowerHarness(log, *log.partitions(FINDINGS))
        log.append(FINDINGS, "dock", b"a")
        following.until(1)
        log.read(log.partition_for(FINDINGS, "dock"), 0)
        following.follower.close()
    wait_for(lambda: (set(threading.enumerate()), sockets()) == before)


def test_why_brokers_did_not_take_a_message_is_told(kafka: Broker) -> None:
    kafka_config = a_place(kafka, timeout=2.0)
    with closing(KafkaLog(kafka_config)) as log:
        threads = threading.active_count()
        log.append(FINDINGS, "dock", b"a")
        with closing(KafkaAdminClient(bootstrap_servers=kafka_config.bootstrap[0])) as admin:
            admin.delete_topics([kafka_config.prefix + FINDINGS])
        with pytest.raises(StorageDown) as raised:
            log.append(FINDINGS, "dock", b"a")
        wait_for(lambda: threading.active_count() == threads)  # what failed sends no more
    timeout = raised.value.__context__
    assert isinstance(timeout, KafkaTimeoutError)
    assert isinstance(timeout.__cause__, UnknownTopicOrPartitionError)


def test_entry_says_why_it_could_not_be_decoded() -> None:
    fetched = FetchBuffer("findings-0", 3)
    record = ConsumerRecord(
        "t.findings",
        0,
        0,
        4,
        10,
        0,
        b"dock",
        None,
        RecordFault("a header is not UTF-8"),
        None,
        4,
        0,
        -1,
    )
    fetched.append([record], 9)
    page = fetched.take_page(3, 100)
    assert page == [LogEntry("findings-0", 4, "dock", 10_000, b"", "a header is not UTF-8")]
    assert (page.next_offset, page.missed) == (9, 0)


@pytest.mark.slow
def test_broker_that_hangs_is_told_and_read_on_after() -> None:
    with run_broker() as broker, closing(KafkaLog(a_place(broker, timeout=2.0))) as log:
        following = FollowerHarness(log, *log.partitions(FINDINGS))
        log.append(FINDINGS, "dock", b"a")
        following.until(1)
        broker.signal(SIGSTOP)
        try:
            with pytest.raises(StorageDown):
                following.until(2, 15.0)
        finally:
            broker.signal(SIGCONT)

        def on() -> bool:
            try:
                return len(following.until(2, 1.0)) == 2
            except StorageDown:
                return False

        wait_for(lambda: _appended(log))
        wait_for(on)
        following.follower.close()


def _appended(log: KafkaLog) -> bool:
    try:
        log.append(FINDINGS, "dock", b"b")
    except StorageDown:
        return False
    return True


@pytest.mark.slow
def test_moved_leader_costs_seconds(three_brokers: list[Broker]) -> None:
    addresses = tuple(each.address for each in three_brokers)
    kafka_config = a_place(three_brokers[0], bootstrap=addresses, replication=3, partitions=1)
    with closing(KafkaLog(kafka_config)) as writer, closing(KafkaLog(kafka_config)) as log:
        partition = log.partition_for(FINDINGS, "dock")
        following = FollowerHarness(log, partition)
        writer.append(FINDINGS, "dock", b"before")
        for number in range(1, 4):
            assert len(following.until(number)) == number
            assert log.read(partition, number) == []
            _move_leader(addresses, to_topic_partition(kafka_config, partition))
            began = time.monotonic()
            assert (log.end_offset(partition), log.start_offset(partition)) == (number, 0)
            asked = time.monotonic() - began
            writer.append(FINDINGS, "dock", b"after")
            began = time.monotonic()
            assert values(log.read(partition, number)) == [b"after"]
            read = time.monotonic() - began
            assert len(following.until(number + 1)) == number + 1
            followed = time.monotonic() - began
            print(f"asked {asked:.2f} s, read {read:.2f} s, followed {followed:.2f} s")
            assert max(asked, read, followed) < 5
        following.follower.close()


def _move_leader(addresses: tuple[str, ...], where: TopicPartition) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=list(addresses))) as admin:

        def found() -> Any:
            return admin.describe_topics([where.topic])[0]["partitions"][where.partition]

        before = found()
        replicas = [*(n for n in before["replica_nodes"] if n != before["leader_id"])]
        admin.alter_partition_reassignments({where: [*replicas, before["leader_id"]]})
        wait_for(lambda: not admin.list_partition_reassignments())
        admin.elect_leaders(0, {where.topic: [where.partition]})
        wait_for(lambda: found()["leader_id"] == replicas[0])
