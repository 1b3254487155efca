"""The topics of a log on Kafka: made as they have to be, or checked against it."""

from collections.abc import Collection, Mapping
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import TopicAlreadyExistsError

from storage.errors import StorageDown, StorageUnfit
from storage.kafka_client import connected
from storage.kafka_errors import named
from storage.kafka_place import KafkaPlace

_UNKNOWN_TOPIC = 3


def ensure_topics(place: KafkaPlace, *, making: bool = True) -> None:
    """Make the topics that are missing, then check all of them; without `making` only check.

    Raises StorageDown, and StorageUnfit for a topic that would lose entries or part them
    otherwise.
    """
    with named(place):
        admin = connected(KafkaAdminClient, place)
        try:
            if making:
                _make(admin, place)
            _check(admin, place)
        finally:
            admin.close()


def identities(place: KafkaPlace, topics: Collection[str]) -> dict[str, str]:
    """Return what tells each topic from any that takes its name: its id, made with it (KIP-516).

    A broker without such ids (before Kafka 2.8) gives the cluster's id, as far as it is known,
    and the name. Raises StorageDown.
    """
    names = {place.prefix + topic: topic for topic in topics}
    with named(place):
        admin = connected(KafkaAdminClient, place)
        try:
            found = {each["name"]: each for each in admin.describe_topics(list(names))}
            missing = [name for name, each in found.items() if each["error_code"]]
            if missing:
                raise StorageDown(place.name, f"topic {missing[0]} is missing")
            has_ids = all(each["topic_id"] for each in found.values())
            cluster = "" if has_ids else _cluster_of(admin)
        finally:
            admin.close()
    return {
        topic: str(found[name]["topic_id"] or f"{cluster}/{name}") for name, topic in names.items()
    }


def configuration(place: KafkaPlace) -> dict[str, dict[str, str]]:
    """Return how each topic is to be configured, by its name on the broker."""
    return {
        place.prefix + kept.topic: {
            "cleanup.policy": "delete",
            "retention.ms": str(int(kept.keep_for.total_seconds() * 1000)),
            "retention.bytes": str(kept.keep_bytes),
            "max.message.bytes": str(place.largest),
        }
        for kept in place.retention
    }


def _cluster_of(admin: KafkaAdminClient) -> str:
    """Return the id of the cluster; nothing where the broker speaks too old a protocol."""
    try:
        return str(admin.describe_cluster()["cluster_id"] or "")
    except KeyError:  # what kafka-python makes of version 0 of DescribeCluster
        return ""


def _make(admin: KafkaAdminClient, place: KafkaPlace) -> None:
    wanted = configuration(place)
    found = admin.describe_topics(list(wanted))
    for each in found:
        if each["error_code"] != _UNKNOWN_TOPIC:
            continue
        new = {
            "num_partitions": place.partitions,
            "replication_factor": place.replication or -1,
            "configs": wanted[each["name"]],
        }
        try:
            admin.create_topics({each["name"]: new}, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            continue  # another service was quicker; it is checked like any other


def _check(admin: KafkaAdminClient, place: KafkaPlace) -> None:
    wanted = configuration(place)
    for each in admin.describe_topics(list(wanted)):
        if (parts := len(each["partitions"])) != place.partitions:
            told = (
                f"it has {parts} partitions, log.kafka.partitions says {place.partitions}:"
                " set that to what the topic has, or name another log.kafka.prefix"
            )
            raise StorageUnfit(f"topic {each['name']}", told)
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted]
    found = admin.describe_configs(asked, config_filter="all")["topic"]
    for name, configs in wanted.items():
        for key, needed in configs.items():
            _compare(name, key, needed, found.get(name, {}))


def _compare(name: str, key: str, needed: str, found: Mapping[str, Any]) -> None:
    """Raise StorageUnfit where a topic keeps less than it has to; what it hides is let pass."""
    has = found.get(key, {}).get("value")
    if has is None or has == needed:
        return
    is_number = key != "cleanup.policy"
    if is_number and (int(has) < 0 or int(has) >= int(needed)):
        return
    change = f"kafka-configs.sh --alter --topic {name} --add-config {key}={needed}"
    raise StorageUnfit(f"topic {name}", f"{key} is {has}, {needed} is needed: {change}")
