"""A cluster of three: its first start, a leader that moves, and a rolling restart under load."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from broker_cluster import first_start, move_leader, place_on
from broker_stops import roll
from kafka_broker import Broker
from storage_fixtures import wait_for
from test_log_contract import Following

from storage.kafka_log import KafkaLog
from storage.kafka_reader import partition_of
from storage.log import FINDINGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("number", [1, 2])
def test_first_start_on_three_cold_brokers_makes_all_topics(number: int) -> None:
    assert first_start() < 60


@contextmanager
def reading(log: KafkaLog, part: str) -> Iterator[list[bytes]]:
    """Read a part from any position, again and again, in a thread."""
    found, stop = list[bytes](), threading.Event()

    def run() -> None:
        position = 0
        while not stop.is_set():
            page = log.read(part, position)
            found.extend(entry.value for entry in page)
            position = page.next
            log.wait(stop, 0.1)

    yield from _in_a_thread(run, found, stop)


@contextmanager
def following(log: KafkaLog, part: str) -> Iterator[list[bytes]]:
    """Follow a part in a thread."""
    found, stop = list[bytes](), threading.Event()

    def run() -> None:
        follower = Following(log, part)
        while not stop.is_set():
            for page in follower.step(wait=0.1):
                found.extend(entry.value for entry in page)
        follower.follower.close()

    yield from _in_a_thread(run, found, stop)


def _in_a_thread(run: object, found: list[bytes], stop: threading.Event) -> Iterator[list[bytes]]:
    thread = threading.Thread(target=run, daemon=True)  # type: ignore[arg-type]
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("reader", [reading, following])
def test_reader_at_the_end_reads_on_within_seconds_where_the_leader_moves(
    three_brokers: list[Broker], reader: object
) -> None:
    place = place_on(three_brokers, partitions=1)
    with closing(KafkaLog(place)) as writer, closing(KafkaLog(place)) as log:
        part = log.part_of(FINDINGS, "dock")
        with reader(log, part) as found:  # type: ignore[operator]
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
    toll = roll(tmp_path, three_brokers, random.Random(seed))
    print(toll)
    assert toll.findings > 300
    assert toll.longest < 15
