"""Brokers that refuse what is written to the topic `incidents`, in four ways, for a while."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from deploy.config.log_access import ALERT
from kit.kafka.acl_broker import AclBroker, run_acl_broker, sasl_of
from kit.kafka.broker import Broker, run_cluster
from kit.kafka.cluster import place_on
from kit.waiting import wait_for
from storage.log.kafka.admin.acls import missing_acls
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.refusals import Refusals
from storage.log.kafka.log import KafkaLog
from storage.records.topics import INCIDENTS

RATE = 100
"""Bytes a second of a quota that holds up whoever writes revisions."""
_FOREVER = str(2**63 - 1)


class Refusal(ABC):
    """A refusal that begins and ends; `alert` is who is refused, `owner` may always write."""

    log_message = ""
    """What the line about it says."""

    def __init__(self, owner: KafkaConfig, alert: KafkaConfig) -> None:
        self.owner = owner
        self.alert = alert
        with closing(KafkaLog(owner)):
            pass  # the topics are there from now on
        self.prepare()

    @property
    def topic(self) -> str:
        return self.owner.prefix + INCIDENTS

    @abstractmethod
    def prepare(self) -> None:
        """Do what the refusal takes beforehand."""

    @abstractmethod
    def begin(self) -> None: ...

    @abstractmethod
    def end(self) -> None: ...


class AclRefusal(Refusal):
    """One on a broker that asks who comes."""

    def __init__(self, broker: AclBroker) -> None:
        self._broker = broker
        super().__init__(*_places(broker))

    def prepare(self) -> None:
        _allow(self._broker, self.alert)


class MissingRightRefusal(AclRefusal):
    """The right to write is taken away."""

    log_message = "the right WRITE is missing"

    def begin(self) -> None:
        self._broker.revoke("WRITE", "TOPIC", self.topic)

    def end(self) -> None:
        self._broker.grant("WRITE", "TOPIC", self.topic)


class QuotaRefusal(AclRefusal):
    """A quota slows down whoever writes: little is taken in time."""

    log_message = "a quota of the broker slows us down"

    def begin(self) -> None:
        self._alter("--add-config", f"producer_byte_rate={RATE}")

    def end(self) -> None:
        self._alter("--delete-config", "producer_byte_rate")

    def _alter(self, *words: str) -> None:
        whose = ("--entity-type", "users", "--entity-name", "longwatch")
        server = ("--bootstrap-server", self._broker.inter_broker_address)
        self._broker.run("kafka.admin.ConfigCommand", *server, "--alter", *words, *whose)


class WrongClockRefusal(AclRefusal):
    """The topic takes no record that is older than a millisecond: our clock seems behind."""

    log_message = "our clock differs too much from the broker's"

    def begin(self) -> None:
        self._alter("CreateTime", "1")

    def end(self) -> None:
        self._alter("LogAppendTime", _FOREVER)

    def _alter(self, type_: str, before: str) -> None:
        changed = {"message.timestamp.type": type_, "message.timestamp.before.max.ms": before}
        alter_topic(self._broker.inter_broker_address, self.topic, changed)


class TooFewReplicasRefusal(Refusal):
    """One of three brokers is gone for good, and the topic asks for three replicas in sync.

    Half of its partitions have two replicas alone, which is enough for them: these refuse nothing.
    """

    log_message = "fewer replicas are in sync than min.insync.replicas"

    def __init__(self, brokers: list[Broker]) -> None:
        self._stopped_broker = brokers[-1]
        self._running_brokers = brokers[:-1]
        kafka_config = replace(
            place_on(brokers, partitions=4), bootstrap=_addresses(self._running_brokers)
        )
        super().__init__(kafka_config, kafka_config)

    def prepare(self) -> None:
        nodes = [each.node for each in self._running_brokers]
        few = {TopicPartition(self.topic, number): nodes for number in range(0, 4, 2)}
        admin = KafkaAdminClient(bootstrap_servers=_addresses(self._running_brokers))
        try:
            admin.alter_partition_reassignments(few)
            wait_for(lambda: not admin.list_partition_reassignments())
        finally:
            admin.close()
        self._stopped_broker.stop()

    def begin(self) -> None:
        alter_topic(_addresses(self._running_brokers), self.topic, {"min.insync.replicas": "3"})

    def end(self) -> None:
        alter_topic(_addresses(self._running_brokers), self.topic, {"min.insync.replicas": "2"})


@contextmanager
def _on_acl_broker(kind: Callable[[AclBroker], Refusal]) -> Iterator[Refusal]:
    with run_acl_broker() as broker:
        yield kind(broker)


@contextmanager
def _on_cluster() -> Iterator[Refusal]:
    with run_cluster() as brokers:
        yield TooFewReplicasRefusal(brokers)


@contextmanager
def run_refusal(kind: str) -> Iterator[Refusal]:
    """Run the brokers of a kind: `right`, `replicas`, `quota` or `clock`."""
    guarded = {"right": MissingRightRefusal, "quota": QuotaRefusal, "clock": WrongClockRefusal}
    with _on_acl_broker(guarded[kind]) if kind in guarded else _on_cluster() as found:
        yield found


KINDS = ("right", "replicas", "quota", "clock")


def alter_topic(servers: str | tuple[str, ...], topic: str, changed: dict[str, str]) -> None:
    """Change settings of a topic."""
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, changed)])
    finally:
        admin.close()


def _addresses(brokers: list[Broker]) -> tuple[str, ...]:
    return tuple(each.address for each in brokers)


def _places(broker: AclBroker) -> tuple[KafkaConfig, KafkaConfig]:
    owner = broker.place_of(partitions=4)
    return owner, replace(owner, sasl=sasl_of("longwatch"), refusals=Refusals())


def _allow(broker: AclBroker, kafka_config: KafkaConfig) -> None:
    """Give all rights that alerts need, each by the name of its topic."""
    broker.grant("DESCRIBE", "TOPIC", kafka_config.prefix, prefix=True)
    broker.grant("DESCRIBE_CONFIGS", "TOPIC", kafka_config.prefix, prefix=True)
    for topic in ALERT.reads:
        broker.grant("READ", "TOPIC", kafka_config.prefix + topic)
    for topic in ALERT.writes:
        broker.grant("WRITE", "TOPIC", kafka_config.prefix + topic)
    wait_for(lambda: not missing_acls(kafka_config, ALERT))
