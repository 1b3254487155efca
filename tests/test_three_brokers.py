"""A cluster of three: its first start, a leader that moves, and a rolling restart under load."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from broker_cluster import first_start, move_leader, place_on
from broker_stops import roll
from kafka_broker import Broker
from storage_fixtures import wait_for
from test_log_contract import Following

from storage.errors import StorageBlocked
from storage.kafka_log import KafkaLog
from storage.kafka_reader import partition_of
from storage.log import FINDINGS, Entry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("number", [1, 2])
def test_first_start_on_three_cold_brokers_makes_all_topics(number: int) -> None:
    assert first_start() < 60


Reading = Callable[[KafkaLog, str], Callable[[], list[Entry]]]


def positional(log: KafkaLog, part: str) -> Callable[[], list[Entry]]:
    """Return what reads on in a part, from any position."""
    position = 0

    def read() -> list[Entry]:
        nonlocal position
        page = log.read(part, position)
        position = page.next
        return page

    return read


def following(log: KafkaLog, part: str) -> Callable[[], list[Entry]]:
    """Return what follows a part."""
    follower = Following(log, part)
    return lambda: [entry for page in follower.step() for entry in page]


@contextmanager
def reading(read: Callable[[], list[Entry]]) -> Iterator[list[bytes]]:
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
    place = place_on(three_brokers, partitions=1)
    with closing(KafkaLog(place)) as writer, closing(KafkaLog(place)) as log:
        part = log.part_of(FINDINGS, "dock")
        with reading(kind(log, part)) as found:
            for number in range(3):
                writer.append(FINDINGS, "dock", b"before %d" % number)
                wait_for(lambda: len(found) % 2 == 1, 5)
                time.sleep(0.5)  # it stands at the end, and fetches from the leader that there was
                move_leader(three_brokers, partition_of(place, part))
                writer.append(FINDINGS, "dock", b"after %d" % number)
                wait_for(lambda: len(found) % 2 == 0, 5)
    assert found == [b"%s %d" % (w, n) for n in range(3) for w in (b"before", b"after")]


def test_rolling_restart_loses_nothing_and_stops_nothing_for_long(
    tmp_path: Path, three_brokers: list[Broker]
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    toll = roll(tmp_path, three_brokers, 3, random.Random(seed))
    print(toll)
    assert toll.findings > 300
    assert toll.longest < 15
