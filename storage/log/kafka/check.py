"""Check whether longwatch can run on a Kafka cluster; nothing is written."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from storage.connection_check import ConnectionCheck
from storage.errors import StorageError
from storage.log.access import LogAccess
from storage.log.kafka.admin.acls import missing_acls
from storage.log.kafka.admin.metadata import NO_ERROR, TOPIC_UNAUTHORIZED, UNKNOWN_TOPIC
from storage.log.kafka.admin.topics import check_topics
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.errors import describe_error, missing_acl, translate_errors
from storage.log.kafka.client.network import create_client
from storage.log.kafka.client.probe import probe_brokers
from storage.log.kafka.groups.join_failures import session_bounds, session_setting

MAX_CLOCK_SKEW = 5.0
"""Seconds by which a broker's clock may be ahead of ours."""
_OFFSETS_MS = 5000


def check_kafka(config: KafkaConfig, access: LogAccess) -> Iterator[ConnectionCheck]:
    """Yield the checks of brokers, rights, session, topics, replicas and clock.

    Ends early if no broker lets us in, or if one stops answering.
    """
    probes = probe_brokers(config)
    for each in probes:
        name = f"broker {each.address}"
        yield ConnectionCheck(name=name, found=each.problem or "answers", is_good=not each.problem)
    if all(each.problem for each in probes):
        return
    try:
        with translate_errors(config), closing(create_client(KafkaAdminClient, config)) as admin:
            yield from _check_cluster(admin, config, access)
    except StorageError as error:
        yield ConnectionCheck(name="kafka", found=str(error), is_good=False)


def _check_cluster(
    admin: KafkaAdminClient, config: KafkaConfig, access: LogAccess
) -> Iterator[ConnectionCheck]:
    names = [config.prefix + retention.topic for retention in config.retention]
    topics = admin.describe_topics(names)
    yield from _check_acls(config, access)
    yield _check_session(admin, config)
    yield from _check_topics(admin, config, topics)
    there = [each for each in topics if each["error_code"] == NO_ERROR]
    if there:
        yield _check_replicas(there)
        yield _check_clock(admin, there)


def _check_acls(config: KafkaConfig, access: LogAccess) -> Iterator[ConnectionCheck]:
    missing = missing_acls(config, access)
    for each in missing:
        yield ConnectionCheck(name="rights", found=each, is_good=False)
    if not missing:
        yield ConnectionCheck(name="rights", found="what every role needs is allowed")


def _check_session(admin: KafkaAdminClient, config: KafkaConfig) -> ConnectionCheck:
    """Compare the session of a group member with the bounds of the brokers."""
    key, session = session_setting(config)
    try:
        bounds = session_bounds(admin)
    except KafkaError as error:
        return ConnectionCheck(
            name="session", found=f"bounds of {key} not known: {describe_error(error)}"
        )
    if bounds is None:
        right = "the right DESCRIBE_CONFIGS on the cluster is missing"
        return ConnectionCheck(name="session", found=f"bounds of {key} not known: {right}")
    shortest, longest = bounds
    keys = "group.min.session.timeout.ms to group.max.session.timeout.ms"
    text = f"{key} is {session:g} s, the brokers take {keys} ({shortest:g} to {longest:g} s)"
    return ConnectionCheck(name="session", found=text, is_good=shortest <= session <= longest)


def _check_topics(
    admin: KafkaAdminClient, config: KafkaConfig, topics: Sequence[dict[str, Any]]
) -> Iterator[ConnectionCheck]:
    """Compare the topics with what longwatch needs; before a first start they are missing."""
    missing = [each["name"] for each in topics if each["error_code"] == UNKNOWN_TOPIC]
    if missing:
        refusal = _missing_create_acl(admin, config, missing)
        text = f"{', '.join(missing)}: not there yet, made at the next start"
        yield ConnectionCheck(name="topics", found=refusal or text, is_good=not refusal)
        return
    try:
        advice = check_topics(config)
    except StorageError as error:
        yield ConnectionCheck(name="topics", found=str(error), is_good=False)
        return
    for each in advice:
        text = f"{each.reason}: {each.command}" if each.command else each.reason
        yield ConnectionCheck(name=f"topic {each.topic}", found=text)
    counts = sorted({len(each["partitions"]) for each in topics})
    partitions = " or ".join(map(str, counts))
    yield ConnectionCheck(name="topics", found=f"{len(topics)} topics of {partitions} partitions")


def _missing_create_acl(admin: KafkaAdminClient, config: KafkaConfig, names: Sequence[str]) -> str:
    """Return that we may not create a topic, if so; the brokers only validate."""
    requests = {name: {"num_partitions": config.partitions} for name in names}
    answers = admin.create_topics(requests, validate_only=True, raise_errors=False)["topics"]
    refused = [each["name"] for each in answers if each["error_code"] == TOPIC_UNAUTHORIZED]
    return missing_acl(config, "topic", refused[0], "CREATE") if refused else ""


def _check_replicas(topics: Sequence[dict[str, Any]]) -> ConnectionCheck:
    """Find a partition without a leader, or with fewer replicas in sync than it should have."""
    least = min(
        len(partition["replica_nodes"]) for each in topics for partition in each["partitions"]
    )
    for each in topics:
        for partition in each["partitions"]:
            name = f"{each['name']}-{partition['partition_index']}"
            in_sync, total = len(partition["isr_nodes"]), len(partition["replica_nodes"])
            if partition["leader_id"] < 0:
                return ConnectionCheck(
                    name="replicas", found=f"{name} has no leader", is_good=False
                )
            if in_sync < total:
                text = f"{name} has {in_sync} of {total} replicas in sync"
                return ConnectionCheck(name="replicas", found=text, is_good=False)
    return ConnectionCheck(name="replicas", found=f"{least} of each partition, all in sync")


def _check_clock(admin: KafkaAdminClient, topics: Sequence[dict[str, Any]]) -> ConnectionCheck:
    """Compare our clock with the newest record: a broker shows its time nowhere else."""
    partitions = [
        TopicPartition(each["name"], partition["partition_index"])
        for each in topics
        for partition in each["partitions"]
    ]
    try:
        found = admin.list_partition_offsets(
            dict.fromkeys(partitions, OffsetSpec.MAX_TIMESTAMP), timeout_ms=_OFFSETS_MS
        )
    except KafkaError as error:
        return ConnectionCheck(name="clock", found=f"not known: {describe_error(error)}")
    newest = max((each.timestamp for each in found.values()), default=-1) / 1000
    if newest < 0:
        return ConnectionCheck(
            name="clock", found="not known: no broker tells its time before a record"
        )
    ahead = newest - datetime.now(UTC).timestamp()
    if ahead > MAX_CLOCK_SKEW:
        text = f"a record is {ahead:.0f} s ahead of our clock: set the clocks of all hosts by NTP"
        return ConnectionCheck(name="clock", found=text, is_good=False)
    return ConnectionCheck(
        name="clock", found=f"not ahead of ours: the newest record is {-ahead:.0f} s old"
    )
