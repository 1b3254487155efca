"""What is done to a cluster of brokers: a first start, a leader that moves, replicas in sync."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any, TypeVar

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError

from kit.kafka.broker import Broker, run_cluster
from kit.waiting import wait_for
from storage.errors import StorageBlocked, StorageError
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import KafkaLog
from storage.records.topics import FINDINGS

_PATIENCE = 90.0
T = TypeVar("T")


def place_on(brokers: Sequence[Broker], **other: Any) -> KafkaConfig:
    """Return topics of their own, of which each broker has a copy."""
    addresses = tuple(each.address for each in brokers)
    return brokers[0].place(bootstrap=addresses, replication=len(brokers), **other)


def first_start() -> float:
    """Open a log on three brokers that are coming up, as a service does.

    Return how many seconds it took; raises StorageUnfit, with which a service ends.
    """
    with run_cluster(wait=False) as brokers:
        kafka_config = place_on(brokers, partitions=12)
        began = time.monotonic()
        with closing(_retry_while_blocked(lambda: KafkaLog(kafka_config))) as log:
            for number in range(kafka_config.partitions):
                _retry_while_blocked(partial(log.append, FINDINGS, f"camera-{number}", b"x"))
            took = time.monotonic() - began
        topics = [kafka_config.prefix + kept.topic for kept in kafka_config.retention]
        for topic in _describe_topics(brokers, topics):
            copies = [len(each["replica_nodes"]) for each in topic["partitions"]]
            assert copies == [len(brokers)] * kafka_config.partitions, topic
    return took


def first_starts(times: int) -> tuple[int, float, float]:
    """Return how many of so many first starts failed, and the longest and median seconds."""
    took, failed = list[float](), 0
    for _ in range(times):
        try:
            took.append(first_start())
        except (StorageError, AssertionError) as error:
            print(error)
            failed += 1
    return failed, max(took, default=0.0), median(took or [0.0])


def move_leader(brokers: Sequence[Broker], where: TopicPartition) -> None:
    """Let another broker lead a partition; the one that led it lives and keeps its copy."""
    (topic,) = _describe_topics(brokers, [where.topic])
    (found,) = (p for p in topic["partitions"] if p["partition_index"] == where.partition)
    before, replicas = found["leader_id"], found["replica_nodes"]
    following = dict(pairwise([*replicas, replicas[0]]))
    wanted = following[before]
    order = [wanted, *(each for each in replicas if each != wanted)]
    with closing(KafkaAdminClient(bootstrap_servers=[each.address for each in brokers])) as admin:
        admin.alter_partition_reassignments({where: order})
        wait_for(lambda: not admin.list_partition_reassignments())
        admin.elect_leaders(0, {where.topic: [where.partition]})
    wait_for(lambda: _leader(brokers, where) == wanted)


def wait_until_in_sync(brokers: Sequence[Broker]) -> None:
    """Return once every partition has all its replicas in sync, as who upgrades a cluster waits."""
    deadline = time.monotonic() + _PATIENCE
    while not _is_in_sync(brokers):
        assert time.monotonic() < deadline, "replicas do not catch up"
        time.sleep(0.3)


def _is_in_sync(brokers: Sequence[Broker]) -> bool:
    try:
        topics = _describe_topics(brokers, None)
    except KafkaError:
        return False
    partitions = [each for topic in topics for each in topic["partitions"]]
    return all(set(each["isr_nodes"]) == set(each["replica_nodes"]) for each in partitions)


def _leader(brokers: Sequence[Broker], where: TopicPartition) -> int:
    (topic,) = _describe_topics(brokers, [where.topic])
    return next(
        int(each["leader_id"])
        for each in topic["partitions"]
        if each["partition_index"] == where.partition
    )


def _describe_topics(brokers: Sequence[Broker], topics: list[str] | None) -> list[dict[str, Any]]:
    addresses = [each.address for each in brokers]
    with closing(KafkaAdminClient(bootstrap_servers=addresses)) as admin:
        return list(admin.describe_topics(topics))


def _retry_while_blocked(act: Callable[[], T]) -> T:
    """Return what comes of it once the log can be reached, as every role waits."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return act()
        except StorageBlocked:
            assert time.monotonic() < deadline, "the brokers do not come up"
            time.sleep(0.3)
