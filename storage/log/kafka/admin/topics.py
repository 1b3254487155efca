"""Create the topics of a log on Kafka, or check those that exist."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, RetriableError, for_code

from storage.errors import StorageDown, StorageError, StorageUnfit
from storage.log.kafka.admin.metadata import (
    NO_ERROR,
    UNAUTHORIZED,
    TopicDescription,
    describe_topics,
    open_admin,
    partition_offsets,
)
from storage.log.kafka.admin.topic_config import (
    ConfigDifference,
    alter_command,
    build_topic_config,
    harmful_differences,
    harmless_differences,
)
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.errors import missing_acl
from storage.records.topics import COVERAGE, FINDINGS

OPEN_TOPICS = frozenset({FINDINGS, COVERAGE})
"""Topics that other programs may write to: all their partitions are read."""
_EXISTS, _TOO_FEW_BROKERS = 36, 38
_PAUSE = 0.2

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicAdvice:
    """A harmless problem of a topic, and the command that fixes it, if there is one."""

    topic: str
    reason: str
    command: str = ""


def ensure_topics(
    config: KafkaConfig, *, create_missing: bool = True
) -> dict[str, TopicDescription]:
    """Create the missing topics, check all of them, and return them by our own names.

    Harmless problems are logged with `create_missing`. Raises StorageDown if a topic does not
    exist in time, and StorageUnfit for a missing right, and for a topic with too few partitions
    or a configuration that would lose entries.
    """
    with open_admin(config) as admin:
        topics = wait_for_topics(admin, config, create_missing=create_missing)
        for each in _check_configs(admin, config, topics):
            if create_missing:
                logger.warning(
                    "a topic is not as it should be",
                    topic=each.topic,
                    reason=each.reason,
                    change=each.command,
                )
    return topics


def check_topics(config: KafkaConfig) -> list[TopicAdvice]:
    """Return advice about the topics and create none; raises as `ensure_topics` does."""
    with open_admin(config) as admin:
        topics = wait_for_topics(admin, config, create_missing=False)
        advice = _check_configs(admin, config, topics)
        problems = unread_problems(config, topics, partition_offsets(admin, config, topics))
        return advice + [
            TopicAdvice(topic=topics[topic].name, reason=reason)
            for topic, reason in problems.items()
        ]


def unread_problems(
    config: KafkaConfig,
    topics: Mapping[str, TopicDescription],
    offset_ranges: Mapping[str, tuple[int, int]],
) -> dict[str, str]:
    """Return the problems of topics with entries in partitions that are not read.

    `offset_ranges` has the start and end offset of partitions, as far as known.
    """
    counts = {
        topic: sum(
            end - start
            for number in range(config.partitions, each.partitions)
            for start, end in [offset_ranges.get(f"{topic}-{number}", (0, 0))]
        )
        for topic, each in topics.items()
        if topic not in OPEN_TOPICS
    }
    return {
        topic: (
            f"topic {topics[topic].name} has {topics[topic].partitions} partitions,"
            f" log.kafka.partitions says {config.partitions}: {count} entries in the others are not"
            " read: write where the settings say, or set it to what the topic has for the whole"
            " site"
        )
        for topic, count in counts.items()
        if count
    }


def create_topics(
    admin: KafkaAdminClient, config: KafkaConfig, topics: Collection[str]
) -> dict[str, StorageError]:
    """Create topics by our own names; return why each other one cannot be created yet.

    Raises StorageUnfit if one can never be created.
    """
    replicas = _replicas_of_new(admin, config, topics)
    requests = {
        config.prefix + retention.topic: {
            "num_partitions": config.partitions,
            "replication_factor": config.replication or -1,
            "configs": build_topic_config(config, retention, replicas),
        }
        for retention in config.retention
        if retention.topic in topics
    }
    try:
        answers = admin.create_topics(requests, raise_errors=False)["topics"]
    except (RetriableError, RuntimeError) as error:  # RuntimeError: no controller is elected yet
        return dict.fromkeys(topics, StorageDown(config.name, f"no topic can be created: {error}"))
    return {
        answer["name"].removeprefix(config.prefix): reason
        for answer in answers
        if (reason := _creation_error(config, answer, requests[answer["name"]])) is not None
    }


def _creation_error(
    config: KafkaConfig, answer: Mapping[str, Any], new: Mapping[str, Any]
) -> StorageError | None:
    """Return why a topic cannot be created yet; None if it exists."""
    code, name = answer["error_code"], f"topic {answer['name']}"
    message = answer["error_message"] or for_code(code).description
    if code in (NO_ERROR, _EXISTS):  # another process may be faster
        return None
    if code in UNAUTHORIZED:
        right = missing_acl(config, "topic", answer["name"], "CREATE", for_all=True)
        raise StorageUnfit(
            config.name, f"{right}, or {_create_command(config, answer['name'], new)}"
        )
    if code == _TOO_FEW_BROKERS:  # more brokers may still start
        few = "fewer brokers than log.kafka.replication asks for: lower it"
        return StorageUnfit(config.name, f"{few} ({message.rstrip('.')})")
    if issubclass(for_code(code), RetriableError):
        return StorageDown(config.name, f"{name}: {message}")
    raise StorageUnfit(name, f"it cannot be created: {message}")


def wait_for_topics(
    admin: KafkaAdminClient, config: KafkaConfig, *, create_missing: bool
) -> dict[str, TopicDescription]:
    """Return all topics once they exist; create the missing ones.

    A starting cluster may not know all its brokers yet, nor each broker all topics.
    """
    deadline = time.monotonic() + config.timeout
    made = set[str]()
    while True:
        found, absent = describe_topics(admin, config, made=made)
        if not absent:
            return found
        if create_missing and (missing := absent.keys() - made):
            waiting = create_topics(admin, config, missing)
            made |= missing - waiting.keys()
            absent |= waiting
        reason = absent[min(absent)]
        if time.monotonic() > deadline or not (create_missing or isinstance(reason, StorageDown)):
            raise reason
        time.sleep(_PAUSE)


def _replicas_of_new(admin: KafkaAdminClient, config: KafkaConfig, topics: Collection[str]) -> int:
    """Return how many replicas a new topic gets: the setting, or the default of the brokers."""
    if config.replication is not None:
        return config.replication
    requests = {config.prefix + min(topics): {"num_partitions": config.partitions}}
    try:
        answers = admin.create_topics(requests, validate_only=True, raise_errors=False)["topics"]
    except (RetriableError, RuntimeError):
        return 1
    return int(answers[0].get("replication_factor", 1))


def _check_partitions(
    admin: KafkaAdminClient, config: KafkaConfig, topics: Mapping[str, TopicDescription]
) -> None:
    """Raise StorageUnfit for a topic that has fewer partitions than we write to."""
    few = {topic: each for topic, each in topics.items() if each.partitions < config.partitions}
    for topic, each in few.items():
        try:
            offset_ranges = partition_offsets(admin, config, {topic: each}).values()
            is_empty = all(start == end for start, end in offset_ranges)
        except KafkaError:
            is_empty = False
        reason = too_few_partitions(
            config, each, is_empty=is_empty, are_others_right=len(few) < len(topics)
        )
        raise StorageUnfit(f"topic {each.name}", reason)


def too_few_partitions(
    config: KafkaConfig, topic: TopicDescription, *, is_empty: bool, are_others_right: bool
) -> str:
    """Return the problem of a topic with too few partitions, and what to do."""
    problem = f"it has {topic.partitions} partitions, log.kafka.partitions says {config.partitions}"
    command = f"kafka-topics.sh --bootstrap-server {config.bootstrap[0]}"
    if is_empty:
        return f"{problem}, and it is empty: recreate it: {command} --delete --topic {topic.name}"
    if are_others_right:
        return f"{problem}: {command} --alter --topic {topic.name} --partitions {config.partitions}"
    return f"{problem}: set it to what the topic has, or name another log.kafka.prefix"


def _check_configs(
    admin: KafkaAdminClient, config: KafkaConfig, topics: Mapping[str, TopicDescription]
) -> list[TopicAdvice]:
    """Return advice; raise StorageUnfit for a topic that would lose entries."""
    _check_partitions(admin, config, topics)
    asked = [ConfigResource(ConfigResourceType.TOPIC, each.name) for each in topics.values()]
    found = admin.describe_configs(asked, config_filter="all")["topic"]
    advice = list[TopicAdvice]()
    for retention in config.retention:
        topic = topics[retention.topic]
        values = {key: each["value"] for key, each in found.get(topic.name, {}).items()}
        required = build_topic_config(config, retention, topic.replicas)
        if lost := harmful_differences(required, values):
            reason = f"{'; '.join(map(str, lost))}: {alter_command(config, topic.name, lost)}"
            raise StorageUnfit(f"topic {topic.name}", reason)
        advice += _build_advice(config, topic, harmless_differences(required, values))
    return advice


def _build_advice(
    config: KafkaConfig, topic: TopicDescription, changes: list[ConfigDifference]
) -> list[TopicAdvice]:
    found = list[TopicAdvice]()
    if changes:
        reason, change = "; ".join(map(str, changes)), alter_command(config, topic.name, changes)
        found.append(TopicAdvice(topic=topic.name, reason=reason, command=change))
    if topic.replicas < (config.replication or 1):
        reason = f"{topic.replicas} replicas, log.kafka.replication says {config.replication}"
        change = f"kafka-reassign-partitions.sh --bootstrap-server {config.bootstrap[0]}"
        found.append(TopicAdvice(topic=topic.name, reason=reason, command=change))
    return found


def _create_command(config: KafkaConfig, name: str, new: Mapping[str, Any]) -> str:
    """Return the command that creates a topic as longwatch needs it."""
    copies = f" --replication-factor {config.replication}" if config.replication else ""
    configs = "".join(f" --config {key}={value}" for key, value in new["configs"].items())
    return (
        f"kafka-topics.sh --bootstrap-server {config.bootstrap[0]} --create --topic {name}"
        f" --partitions {config.partitions}{copies}{configs}"
    )
