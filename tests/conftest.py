"""Fixtures that more than one test file uses; each stands beside what it is about."""

import os
import threading
import time
from collections.abc import Iterator
from multiprocessing import active_children, forkserver
from multiprocessing.context import ForkServerProcess

import pytest
import structlog

from deploy.runtime.forked import ForkedProcess

# Two threads of torch that wait for each other beside other work are ten times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = [
    "kit.ingest.fixtures",
    "kit.deploy.command",
    "kit.kafka.broker",
    "kit.postgres.server",
    "kit.storage.fixtures",
]


@pytest.fixture(autouse=True)
def no_log_is_configured() -> Iterator[None]:
    """Forget how lines are written: a command that ran in this process wrote into a test's own."""
    yield
    structlog.reset_defaults()


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
    """End the fork server: the processes of the next test have the stderr and environment of that.

    A server ends once its processes have: those that a failed test left are killed.
    """
    yield
    for child in active_children():
        if isinstance(child, ForkedProcess):
            child.kill()
            child.join()
    if not any(isinstance(child, ForkServerProcess) for child in active_children()):
        forkserver._forkserver._stop()  # type: ignore[attr-defined]  # no public way


def _clients() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("kafka-io-")}
