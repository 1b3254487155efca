"""Brokers that refuse what is written to the topic `incidents`, in four ways, for a while."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from acl_broker import AclBroker, acl_broker, sasl_of
from broker_cluster import place_on
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka_broker import Broker, cluster
from storage_fixtures import wait_for

from deploy.needs import ALERT
from storage.kafka_log import KafkaLog
from storage.kafka_place import KafkaPlace
from storage.kafka_rights import missing_rights
from storage.log import INCIDENTS
from storage.refusals import Refusals

RATE = 100
"""Bytes a second of a quota that holds up whoever writes revisions."""
_FOREVER = str(2**63 - 1)


class Refusal(ABC):
    """A refusal that begins and ends; `alert` is who is refused, `owner` may always write."""

    told = ""
    """What the line about it says."""

    def __init__(self, owner: KafkaPlace, alert: KafkaPlace) -> None:
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


class Guarded(Refusal):
    """One on a broker that asks who comes."""

    def __init__(self, broker: AclBroker) -> None:
        self._broker = broker
        super().__init__(*_places(broker))

    def prepare(self) -> None:
        _allow(self._broker, self.alert)


class NoRight(Guarded):
    """The right to write is taken away."""

    told = "the right WRITE is missing"

    def begin(self) -> None:
        self._broker.take_away("WRITE", "TOPIC", self.topic)

    def end(self) -> None:
        self._broker.allow("WRITE", "TOPIC", self.topic)


class Quota(Guarded):
    """A quota slows down whoever writes: little is taken in time."""

    told = "a quota of the broker slows us down"

    def begin(self) -> None:
        self._alter("--add-config", f"producer_byte_rate={RATE}")

    def end(self) -> None:
        self._alter("--delete-config", "producer_byte_rate")

    def _alter(self, *words: str) -> None:
        whose = ("--entity-type", "users", "--entity-name", "longwatch")
        server = ("--bootstrap-server", self._broker.inside)
        self._broker.run("kafka.admin.ConfigCommand", *server, "--alter", *words, *whose)


class WrongClock(Guarded):
    """The topic takes no record that is older than a millisecond: our clock seems behind."""

    told = "our clock differs too much from the broker's"

    def begin(self) -> None:
        self._alter("CreateTime", "1")

    def end(self) -> None:
        self._alter("LogAppendTime", _FOREVER)

    def _alter(self, type_: str, before: str) -> None:
        changed = {"message.timestamp.type": type_, "message.timestamp.before.max.ms": before}
        alter(self._broker.inside, self.topic, changed)


class TooFewReplicas(Refusal):
    """One of three brokers is gone for good, and the topic asks for three replicas in sync.

    Half of its partitions have two replicas alone, which is enough for them: these refuse nothing.
    """

    told = "fewer replicas are in sync than min.insync.replicas"

    def __init__(self, brokers: list[Broker]) -> None:
        self._gone = brokers[-1]
        self._left = brokers[:-1]
        place = replace(place_on(brokers, partitions=4), bootstrap=_addresses(self._left))
        super().__init__(place, place)

    def prepare(self) -> None:
        nodes = [each.node for each in self._left]
        few = {TopicPartition(self.topic, number): nodes for number in range(0, 4, 2)}
        admin = KafkaAdminClient(bootstrap_servers=_addresses(self._left))
        try:
            admin.alter_partition_reassignments(few)
            wait_for(lambda: not admin.list_partition_reassignments())
        finally:
            admin.close()
        self._gone.stop()

    def begin(self) -> None:
        alter(_addresses(self._left), self.topic, {"min.insync.replicas": "3"})

    def end(self) -> None:
        alter(_addresses(self._left), self.topic, {"min.insync.replicas": "2"})


@contextmanager
def _guarded(kind: Callable[[AclBroker], Refusal]) -> Iterator[Refusal]:
    with acl_broker() as broker:
        yield kind(broker)


@contextmanager
def _replicated() -> Iterator[Refusal]:
    with cluster() as brokers:
        yield TooFewReplicas(brokers)


@contextmanager
def refusal(kind: str) -> Iterator[Refusal]:
    """Run the brokers of a kind: `right`, `replicas`, `quota` or `clock`."""
    guarded = {"right": NoRight, "quota": Quota, "clock": WrongClock}
    with _guarded(guarded[kind]) if kind in guarded else _replicated() as found:
        yield found


KINDS = ("right", "replicas", "quota", "clock")


def alter(servers: str | tuple[str, ...], topic: str, changed: dict[str, str]) -> None:
    """Change settings of a topic."""
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, changed)])
    finally:
        admin.close()


def _addresses(brokers: list[Broker]) -> tuple[str, ...]:
    return tuple(each.address for each in brokers)


def _places(broker: AclBroker) -> tuple[KafkaPlace, KafkaPlace]:
    owner = broker.place_of(partitions=4)
    return owner, replace(owner, sasl=sasl_of("longwatch"), refusals=Refusals())


def _allow(broker: AclBroker, place: KafkaPlace) -> None:
    """Give all rights that alerts need, each by the name of its topic."""
    broker.allow("DESCRIBE", "TOPIC", place.prefix, prefix=True)
    broker.allow("DESCRIBE_CONFIGS", "TOPIC", place.prefix, prefix=True)
    for topic in ALERT.reads:
        broker.allow("READ", "TOPIC", place.prefix + topic)
    for topic in ALERT.writes:
        broker.allow("WRITE", "TOPIC", place.prefix + topic)
    wait_for(lambda: not missing_rights(place, ALERT))
