"""A cluster of three: its first start, a leader that moves, and a rolling restart under load."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from kit.chaos.broker_stops import run_rolling_restart
from kit.kafka.broker import Broker
from kit.kafka.cluster import first_start, move_leader, place_on
from kit.waiting import wait_for
from storage.errors import StorageBlocked
from storage.log.kafka.client.network import to_topic_partition
from storage.log.kafka.log import KafkaLog
from storage.log.log import LogEntry
from storage.records.topics import FINDINGS
from test_log_contract import FollowerHarness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("number", [1, 2])
def test_first_start_on_three_cold_brokers_makes_all_topics(number: int) -> None:
    assert first_start() < 60


Reading = Callable[[KafkaLog, str], Callable[[], list[LogEntry]]]


def positional(log: KafkaLog, partition: str) -> Callable[[], list[LogEntry]]:
    """Return what reads on in a part, from any position."""
    offset = 0

    def read() -> list[LogEntry]:
        nonlocal offset
        page = log.read(partition, offset)
        offset = page.next_offset
        return page

    return read


def following(log: KafkaLog, partition: str) -> Callable[[], list[LogEntry]]:
    """Return what follows a part."""
    follower = FollowerHarness(log, partition)
    return lambda: [entry for page in follower.step() for entry in page]


@contextmanager
def reading(read: Callable[[], list[LogEntry]]) -> Iterator[list[bytes]]:
    """Read again and again in a thread, as a role does, whatever blocks the log for a while."""
    found, stop = list[bytes](), threading.Event()

    def run() -> None:
        while not stop.wait(0.05):
            with suppress(StorageBlocked):
                found.extend(entry.value for entry in read())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("kind", [positional, following])
def test_reader_at_the_end_reads_on_within_seconds_where_the_leader_moves(
    three_brokers: list[Broker], kind: Reading
) -> None:
    kafka_config = place_on(three_brokers, partitions=1)
    with closing(KafkaLog(kafka_config)) as writer, closing(KafkaLog(kafka_config)) as log:
        partition = log.partition_for(FINDINGS, "dock")
        with reading(kind(log, partition)) as found:
            for number in range(3):
                writer.append(FINDINGS, "dock", b"before %d" % number)
                wait_for(lambda: len(found) % 2 == 1, 5)
                time.sleep(0.5)  # it stands at the end, and fetches from the leader that there was
                move_leader(three_brokers, to_topic_partition(kafka_config, partition))
                writer.append(FINDINGS, "dock", b"after %d" % number)
                wait_for(lambda: len(found) % 2 == 0, 5)
    assert found == [b"%s %d" % (w, n) for n in range(3) for w in (b"before", b"after")]


def test_rolling_restart_loses_nothing_and_stops_nothing_for_long(
    tmp_path: Path, three_brokers: list[Broker]
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    result = run_rolling_restart(tmp_path, three_brokers, 3, random.Random(seed))
    print(result)
    assert result.findings > 300
    assert result.longest < 15
