"""Apache Kafka in tests: brokers from the jars that `make kafka` fetched, on ports of their own."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from storage.log.kafka.client.config import KafkaConfig
from storage.log.retention import DEFAULT_RETENTION

JARS = Path(__file__).parents[3] / ".kafka"
_CLUSTER = "MkU3OEVBNTcwNTJENDM2Qk"
_JAVA = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_START_SECONDS = 60.0
_BASE = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,CLIENT:PLAINTEXT,INTER:PLAINTEXT",
    "inter.broker.listener.name": "INTER",
    "offsets.topic.num.partitions": "5",
    "transaction.state.log.num.partitions": "5",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(64 * 2**20),
    "replica.fetch.max.bytes": str(64 * 2**20),
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.enable": "false",
}


def require_kafka() -> None:
    """Skip where there is no Java or `make kafka` has not run; in CI that is a failure."""
    java = shutil.which("java")
    if java and any(JARS.glob("kafka_2.13-*.jar")):
        return
    missing = "run `make kafka`" if java else "install Java 17"
    if os.environ.get("CI"):
        pytest.fail(f"there is no Kafka: {missing}")
    pytest.skip(f"there is no Kafka: {missing}")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


class Broker:
    """One broker of Kafka, which is its own controller, too.

    `settings` are those of server.properties beyond the ones that tests need. `advertised` is the
    port that clients are told of, where something stands before it; `inner` is the one that the
    brokers use among themselves, in plaintext whatever clients have to speak.
    """

    def __init__(
        self,
        *,
        node: int = 1,
        controllers: Mapping[int, int] | None = None,
        advertised: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        require_kafka()
        self.node = node
        self.port, self.inter_broker_port, controller = free_ports(3)
        self.folder = Path(tempfile.mkdtemp(prefix="kafka-", dir="/dev/shm"))
        self._process: subprocess.Popen[bytes] | None = None
        voters = controllers or {node: controller}
        copies = str(min(3, len(voters)))
        host = "127.0.0.1"
        listeners = {
            "CLIENT": self.port,
            "INTER": self.inter_broker_port,
            "CONTROLLER": voters[node],
        }
        advertised_ports = {"CLIENT": advertised or self.port, "INTER": self.inter_broker_port}
        self.settings = _BASE | {
            "node.id": str(node),
            "log.dirs": str(self.folder / "data"),
            "listeners": ",".join(f"{name}://{host}:{port}" for name, port in listeners.items()),
            "advertised.listeners": ",".join(
                f"{k}://{host}:{port}" for k, port in advertised_ports.items()
            ),
            "controller.quorum.voters": ",".join(f"{n}@{host}:{p}" for n, p in voters.items()),
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": "2" if copies == "3" else "1",
            **(settings or {}),
        }

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log_file(self) -> Path:
        """Return the file with what the broker said."""
        return self.folder / "broker.log"

    def start(self, *, wait: bool = True) -> None:
        file = self.folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))
        if not (self.folder / "data").exists():
            self.run("kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(file))
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                ["java", *_JAVA, "-cp", f"{JARS}/*", "kafka.Kafka", str(file)],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if wait:
            self.wait_until_up()

    def run(self, main: str, *words: str) -> str:
        """Run one of Kafka's own programs, e.g. `org.apache.kafka.tools.TopicCommand`."""
        command = ["java", *_JAVA, "-cp", f"{JARS}/*", main, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{main} {words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.1)
        raise AssertionError(f"Kafka does not come up: {self.log_file.read_text()[-3000:]}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the process; what it holds stays in its folder for the next start."""
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self.signal(number)
            self._process.wait(60)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def place(self, partitions: int = 4, **other: object) -> KafkaConfig:
        """Return topics of their own on it."""
        settings: dict[str, object] = {
            "bootstrap": (self.address,),
            "prefix": f"t{uuid4().hex[:8]}.",
            "partitions": partitions,
            "timeout": 10.0,
            "session": 6.0,
            "retention": DEFAULT_RETENTION,
        }
        return KafkaConfig(**(settings | other))  # type: ignore[arg-type]


@contextmanager
def run_broker(**words: object) -> Iterator[Broker]:
    """Run one broker."""
    broker = Broker(**words)  # type: ignore[arg-type]
    try:
        broker.start()
        wait_for_brokers([broker])
        yield broker
    finally:
        remove_broker(broker)


@contextmanager
def run_cluster(
    count: int = 3, *, wait: bool = True, settings: Mapping[str, str] | None = None
) -> Iterator[list[Broker]]:
    """Run several brokers as one cluster; with `wait` all of them are there."""
    nodes = range(1, count + 1)
    controllers = dict(zip(nodes, free_ports(count), strict=True))
    brokers = [Broker(node=n, controllers=controllers, settings=settings) for n in nodes]
    try:
        for each in brokers:
            each.start(wait=False)
        if wait:
            wait_for_brokers(brokers)
        yield brokers
    finally:
        for each in brokers:
            remove_broker(each)


def wait_for_brokers(brokers: list[Broker]) -> None:
    """Return once each of them knows all of them."""
    deadline = time.monotonic() + _START_SECONDS
    for each in brokers:
        each.wait_until_up()
        while True:
            try:
                admin = KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{each.inter_broker_port}")
                try:
                    if len(admin.describe_cluster()["brokers"]) == len(brokers):
                        break
                finally:
                    admin.close()
            except KafkaError:
                pass
            assert time.monotonic() < deadline, "the brokers do not find each other"
            time.sleep(0.2)


def remove_broker(broker: Broker) -> None:
    broker.stop(signal.SIGKILL)
    shutil.rmtree(broker.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    with run_broker() as broker:
        yield broker


@pytest.fixture(scope="module")
def three_brokers() -> Iterator[list[Broker]]:
    with run_cluster() as brokers:
        yield brokers
