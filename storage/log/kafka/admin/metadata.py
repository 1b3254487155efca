"""Metadata of the topics of a log, as the brokers report it."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import RetriableError, for_code

from storage.errors import StorageDown, StorageError, StorageUnfit
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.errors import missing_acl, translate_errors
from storage.log.kafka.client.network import create_client

NO_ERROR, UNKNOWN_TOPIC, TOPIC_UNAUTHORIZED = 0, 3, 29
UNAUTHORIZED = frozenset({TOPIC_UNAUTHORIZED, 31})
_OFFSETS_MS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDescription:
    """A topic as the brokers describe it; `replicas` is the minimum over its partitions.

    `identity` differs from that of any later topic of this name: the topic id (KIP-516), or
    before Kafka 2.8 the cluster's id, if known, and the name.
    """

    name: str
    identity: str
    partitions: int
    replicas: int


@contextmanager
def open_admin(config: KafkaConfig) -> Iterator[KafkaAdminClient]:
    """Open an admin client for the block; raises StorageDown, StorageRefused and StorageUnfit."""
    with translate_errors(config):
        admin = create_client(KafkaAdminClient, config)
        try:
            yield admin
        finally:
            admin.close()


def describe_topics(
    admin: KafkaAdminClient, config: KafkaConfig, *, made: Collection[str] = ()
) -> tuple[dict[str, TopicDescription], dict[str, StorageError]]:
    """Return the existing topics, by our own names, and why each other one is absent.

    A topic in `made`, just created, exists once each partition has a leader. Raises StorageUnfit
    if we may not describe topics.
    """
    names = {config.prefix + retention.topic: retention.topic for retention in config.retention}
    found, absent = dict[str, TopicDescription](), dict[str, StorageError]()
    for each in admin.describe_topics(list(names)):
        topic, name, code = names[each["name"]], f"topic {each['name']}", each["error_code"]
        unled = [
            partition["partition_index"]
            for partition in each["partitions"]
            if partition["leader_id"] < 0
        ]
        if code == NO_ERROR and topic in made and unled:
            absent[topic] = StorageDown(config.name, f"{name}: partition {unled[0]} has no leader")
        elif code == NO_ERROR:
            found[topic] = _to_description(admin, each)
        elif code == UNKNOWN_TOPIC and topic not in made:
            absent[topic] = StorageUnfit(
                name, "it is missing: start a role that writes to it, which creates it"
            )
        elif code in UNAUTHORIZED:
            reason = missing_acl(config, "topic", each["name"], "DESCRIBE", for_all=True)
            raise StorageUnfit(config.name, reason)
        elif issubclass(for_code(code), RetriableError):
            absent[topic] = StorageDown(config.name, f"{name}: {for_code(code).description}")
        else:
            raise StorageUnfit(name, for_code(code).description)
    return found, absent


def partition_offsets(
    admin: KafkaAdminClient, config: KafkaConfig, topics: Mapping[str, TopicDescription]
) -> dict[str, tuple[int, int]]:
    """Return the start and end offset of each partition of topics; raises KafkaError."""
    partitions = {
        TopicPartition(each.name, number): f"{topic}-{number}"
        for topic, each in topics.items()
        for number in range(each.partitions)
    }
    starts, ends = (
        admin.list_partition_offsets(dict.fromkeys(partitions, spec), timeout_ms=_OFFSETS_MS)
        for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
    )
    return {partition: (starts[at].offset, ends[at].offset) for at, partition in partitions.items()}


def _to_description(admin: KafkaAdminClient, found: Mapping[str, Any]) -> TopicDescription:
    id = found["topic_id"]
    return TopicDescription(
        name=found["name"],
        identity=str(id) if id else f"{_cluster_id(admin)}/{found['name']}",
        partitions=len(found["partitions"]),
        replicas=min((len(each["replica_nodes"]) for each in found["partitions"]), default=0),
    )


def _cluster_id(admin: KafkaAdminClient) -> str:
    """Return the id of the cluster; empty if the broker's protocol is too old."""
    try:
        return str(admin.describe_cluster()["cluster_id"] or "")
    except KeyError:  # kafka-python raises it for version 0 of DescribeCluster
        return ""
