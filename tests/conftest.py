"""Fixtures that more than one test file uses; each stands beside what it is about."""

import os
import threading
import time
from collections.abc import Iterator
from multiprocessing import forkserver

import pytest

# Two threads of torch that wait for each other beside other work are ten times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = [
    "ingest_fixtures",
    "deploy_fixtures",
    "kafka_broker",
    "postgres_fixtures",
    "storage_fixtures",
]


@pytest.fixture(autouse=True)
def no_kafka_client_is_left() -> Iterator[None]:
    """Find who leaves a client open: its thread goes on under the tests that come next.

    A look at the topics of a broker that is away ends by itself, later than its log is closed.
    """
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 45
    while (left := _clients() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


@pytest.fixture(autouse=True)
def no_fork_server_is_left() -> Iterator[None]:
    """End the fork server: that of the next test has the stderr and the environment of that."""
    yield
    forkserver._forkserver._stop()  # it ends once all of its processes have


def _clients() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("kafka-io-")}
