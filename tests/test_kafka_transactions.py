"""Records of others' transactions: what was committed is read, what was not leaves no trace."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from kafka import KafkaProducer

from kit.kafka.broker import Broker
from kit.waiting import wait_for
from storage.log.kafka.log import KafkaLog
from storage.log.log import read_range
from storage.records.topics import WINDOWS
from test_log_contract import FollowerHarness, a_place

Send = Callable[..., None]


@pytest.fixture
def log(kafka: Broker) -> Iterator[KafkaLog]:
    with closing(KafkaLog(a_place(kafka))) as opened:
        yield opened


@pytest.fixture
def dock(log: KafkaLog) -> str:
    return log.partition_for(WINDOWS, "dock")


@pytest.fixture
def producer(log: KafkaLog) -> Iterator[KafkaProducer]:
    servers = log._config.bootstrap[0]
    producer = KafkaProducer(bootstrap_servers=servers, transactional_id=log._config.prefix)
    producer.init_transactions()
    yield producer
    producer.close()


@pytest.fixture
def send(log: KafkaLog, producer: KafkaProducer) -> Send:
    """Return what sends values within the transaction that is begun."""

    def sent(*values: bytes) -> None:
        for value in values:
            producer.send(log._config.prefix + WINDOWS, value, key=b"dock").get(10)

    return sent


@pytest.fixture(params=["read", "follow"])
def read_all(log: KafkaLog, dock: str, request: pytest.FixtureRequest) -> Callable[..., object]:
    """Return what reads on to the end: the values, what was missed, and where it is then."""

    def by_reading(limit: int = 100) -> tuple[list[bytes], int, int]:
        offset, missed, found = 0, 0, list[bytes]()
        while (page := log.read(dock, offset, limit)).next_offset > offset:
            assert len(page) <= limit
            offset, missed = page.next_offset, missed + page.missed
            found += [entry.value for entry in page]
        return found, missed, offset

    def by_following(limit: int = 100) -> tuple[list[bytes], int, int]:
        following = FollowerHarness(log, dock)
        deadline, end = time.monotonic() + 5, log.end_offset(dock)
        while following.positions[dock] < end and time.monotonic() < deadline:
            following.step(limit)
        following.follower.close()
        values = [entry.value for entry in following.found]
        return values, following.missed, following.positions[dock]

    return by_reading if request.param == "read" else by_following


def test_markers_are_passed_over_and_nothing_is_missed(
    log: KafkaLog, dock: str, producer: KafkaProducer, send: Send, read_all: Callable[..., object]
) -> None:
    log.append(WINDOWS, "dock", b"a")
    producer.begin_transaction()
    send(b"b", b"c")
    producer.commit_transaction()
    wait_for(
        lambda: log.end_offset(dock) == 4
    )  # the marker has a position, too; it is written later
    assert read_all() == ([b"a", b"b", b"c"], 0, 4)
    log.append(WINDOWS, "dock", b"d")
    for limit in (1, 3, 100):
        assert read_all(limit) == ([b"a", b"b", b"c", b"d"], 0, 5)


def test_what_was_aborted_is_not_read_and_not_missed(
    log: KafkaLog, dock: str, producer: KafkaProducer, send: Send, read_all: Callable[..., object]
) -> None:
    log.append(WINDOWS, "dock", b"a")
    producer.begin_transaction()
    send(b"b", b"c")
    producer.abort_transaction()
    wait_for(lambda: log.end_offset(dock) == 4)
    assert read_all() == ([b"a"], 0, 4)
    log.append(WINDOWS, "dock", b"d")
    for limit in (1, 100):
        assert read_all(limit) == ([b"a", b"d"], 0, 5)


def test_open_transaction_is_read_once_it_is_committed(
    log: KafkaLog, dock: str, producer: KafkaProducer, send: Send
) -> None:
    following = FollowerHarness(log, dock)
    log.append(WINDOWS, "dock", b"a")
    producer.begin_transaction()
    send(b"b")
    assert following.until(1) == [b"a"]
    for _ in range(5):
        assert following.step() == []
    assert [entry.value for entry in log.read(dock, 0)] == [b"a"]
    producer.commit_transaction()
    assert following.until(2) == [b"a", b"b"]
    assert [entry.value for entry in read_range(log, dock, 0, 3)] == [b"a", b"b"]
    following.follower.close()
