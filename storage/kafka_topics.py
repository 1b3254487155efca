"""The topics of a log on Kafka: made as they have to be, or checked against it."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import KafkaError, RetriableError, for_code

from storage.errors import StorageDown, StorageError, StorageUnfit
from storage.kafka_client import connected
from storage.kafka_configuration import alteration, blemishes, configuration, losses
from storage.kafka_errors import named
from storage.kafka_place import KafkaPlace
from storage.log import COVERAGE, FINDINGS

OPEN_TO_ALL = frozenset({FINDINGS, COVERAGE})
"""Topics that others write to, with what partitions they find: all of these are read."""
_NO_ERROR, _UNKNOWN_TOPIC, _EXISTS, _TOO_FEW_BROKERS = 0, 3, 36, 38
_NO_RIGHT = frozenset({29, 31})
_PAUSE = 0.2
_OFFSETS_MS = 2000

_say = structlog.get_logger("storage.kafka")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic as the brokers describe it; `replicas` are those of the partition with the fewest.

    `identity` tells it from any that takes its name: its id, made with it (KIP-516), or from a
    broker without such ids (before Kafka 2.8) the cluster's id, where it is known, and the name.
    """

    name: str
    identity: str
    partitions: int
    replicas: int


def ensure_topics(place: KafkaPlace, *, making: bool = True) -> dict[str, Topic]:
    """Make the topics that are missing, check all of them, and return them by our own names.

    What is not as it should be and loses nothing is said, where they are made. Raises
    StorageDown where they are not there in time, and StorageUnfit for a right that is missing
    and for a topic that would lose entries or part them otherwise.
    """
    with administrator(place) as admin:
        topics = wait_for_topics(admin, place, making=making)
        _check_partitions(admin, place, topics)
        _check_configuration(admin, place, topics, saying=making)
    return topics


@contextmanager
def administrator(place: KafkaPlace) -> Iterator[KafkaAdminClient]:
    """Give a client that asks about topics; raises StorageDown and StorageUnfit."""
    with named(place):
        admin = connected(KafkaAdminClient, place)
        try:
            yield admin
        finally:
            admin.close()


def describe(
    admin: KafkaAdminClient, place: KafkaPlace, *, made: Collection[str] = ()
) -> tuple[dict[str, Topic], dict[str, StorageError]]:
    """Return the topics that are there, by our own names, and why each other one is not.

    One that was just `made` counts once each partition has a leader. Raises StorageUnfit where we
    may not ask.
    """
    names = {place.prefix + kept.topic: kept.topic for kept in place.retention}
    found, absent = dict[str, Topic](), dict[str, StorageError]()
    for each in admin.describe_topics(list(names)):
        topic, name, code = names[each["name"]], f"topic {each['name']}", each["error_code"]
        unled = [part["partition_index"] for part in each["partitions"] if part["leader_id"] < 0]
        if code == _NO_ERROR and topic in made and unled:
            absent[topic] = StorageDown(place.name, f"{name}: partition {unled[0]} has no leader")
        elif code == _NO_ERROR:
            found[topic] = _topic_of(admin, each)
        elif code == _UNKNOWN_TOPIC and topic not in made:
            absent[topic] = StorageUnfit(name, "it is missing; what longwatch writes to is made")
        elif code in _NO_RIGHT:
            raise StorageUnfit(name, _may_not(place, "Describe"))
        elif issubclass(for_code(code), RetriableError):
            absent[topic] = StorageDown(place.name, f"{name}: {for_code(code).description}")
        else:
            raise StorageUnfit(name, for_code(code).description)
    return found, absent


def offsets(
    admin: KafkaAdminClient, place: KafkaPlace, topics: Mapping[str, Topic]
) -> dict[str, tuple[int, int]]:
    """Return the first offset and the end of each part of topics; raises KafkaError."""
    parts = {
        TopicPartition(each.name, number): f"{topic}-{number}"
        for topic, each in topics.items()
        for number in range(each.partitions)
    }
    begins, ends = (
        admin.list_partition_offsets(dict.fromkeys(parts, spec), timeout_ms=_OFFSETS_MS)
        for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
    )
    return {part: (begins[at].offset, ends[at].offset) for at, part in parts.items()}


def make_topics(
    admin: KafkaAdminClient, place: KafkaPlace, topics: Collection[str]
) -> dict[str, StorageError]:
    """Ask for topics by our own names; return why one cannot be made yet: ask again.

    Raises StorageUnfit where one will never be made.
    """
    replicas = _replicas_of_new(admin, place, topics)
    news = {
        place.prefix + kept.topic: {
            "num_partitions": place.partitions,
            "replication_factor": place.replication or -1,
            "configs": configuration(place, kept, replicas),
        }
        for kept in place.retention
        if kept.topic in topics
    }
    try:
        answers = admin.create_topics(news, raise_errors=False)["topics"]
    except (RetriableError, RuntimeError) as error:  # RuntimeError: no controller is elected yet
        return dict.fromkeys(topics, StorageDown(place.name, f"no topic can be made: {error}"))
    return {
        answer["name"].removeprefix(place.prefix): reason
        for answer in answers
        if (reason := _reason(place, answer, news[answer["name"]])) is not None
    }


def _reason(
    place: KafkaPlace, answer: Mapping[str, Any], new: Mapping[str, Any]
) -> StorageError | None:
    """Return why a topic cannot be made yet; None where it is there."""
    code, name = answer["error_code"], f"topic {answer['name']}"
    told = answer["error_message"] or for_code(code).description
    if code in (_NO_ERROR, _EXISTS):  # another service may be quicker
        return None
    if code in _NO_RIGHT:
        raise StorageUnfit(
            name, f"{_may_not(place, 'Create')}, or {_creation(place, answer['name'], new)}"
        )
    if code == _TOO_FEW_BROKERS:  # more of them may still start
        few = "fewer brokers than log.kafka.replication asks for: lower it"
        return StorageUnfit(place.name, f"{few} ({told.rstrip('.')})")
    if issubclass(for_code(code), RetriableError):
        return StorageDown(place.name, f"{name}: {told}")
    raise StorageUnfit(name, f"it cannot be made: {told}")


def wait_for_topics(
    admin: KafkaAdminClient, place: KafkaPlace, *, making: bool
) -> dict[str, Topic]:
    """Return all topics once they are there, made where they are missing.

    A cluster that starts may not know of all its brokers yet, nor each broker of all topics.
    """
    deadline = time.monotonic() + place.timeout
    made = set[str]()
    while True:
        found, absent = describe(admin, place, made=made)
        if not absent:
            return found
        if making and (missing := absent.keys() - made):
            waiting = make_topics(admin, place, missing)
            made |= missing - waiting.keys()
            absent |= waiting
        reason = absent[min(absent)]
        if time.monotonic() > deadline or not (making or isinstance(reason, StorageDown)):
            raise reason
        time.sleep(_PAUSE)


def _topic_of(admin: KafkaAdminClient, found: Mapping[str, Any]) -> Topic:
    id = found["topic_id"]
    return Topic(
        name=found["name"],
        identity=str(id) if id else f"{_cluster_of(admin)}/{found['name']}",
        partitions=len(found["partitions"]),
        replicas=min((len(each["replica_nodes"]) for each in found["partitions"]), default=0),
    )


def _cluster_of(admin: KafkaAdminClient) -> str:
    """Return the id of the cluster; nothing where the broker speaks too old a protocol."""
    try:
        return str(admin.describe_cluster()["cluster_id"] or "")
    except KeyError:  # what kafka-python makes of version 0 of DescribeCluster
        return ""


def _replicas_of_new(admin: KafkaAdminClient, place: KafkaPlace, topics: Collection[str]) -> int:
    """Return how many replicas a new topic gets: where it is not set, as the brokers say."""
    if place.replication is not None:
        return place.replication
    asked = {place.prefix + min(topics): {"num_partitions": place.partitions}}
    try:
        answers = admin.create_topics(asked, validate_only=True, raise_errors=False)["topics"]
    except (RetriableError, RuntimeError):
        return 1
    return int(answers[0].get("replication_factor", 1))


def _check_partitions(
    admin: KafkaAdminClient, place: KafkaPlace, topics: Mapping[str, Topic]
) -> None:
    """Raise StorageUnfit for a topic that has fewer partitions than we write to."""
    few = {topic: each for topic, each in topics.items() if each.partitions < place.partitions}
    for topic, each in few.items():
        try:
            held = offsets(admin, place, {topic: each}).values()
            is_empty = all(begin == end for begin, end in held)
        except KafkaError:
            is_empty = False
        reason = too_few(place, each, is_empty=is_empty, are_others_right=len(few) < len(topics))
        raise StorageUnfit(f"topic {each.name}", reason)


def too_few(place: KafkaPlace, topic: Topic, *, is_empty: bool, are_others_right: bool) -> str:
    """Return what is wrong with a topic of too few partitions, and what to do."""
    told = f"it has {topic.partitions} partitions, log.kafka.partitions says {place.partitions}"
    tool = f"kafka-topics.sh --bootstrap-server {place.bootstrap[0]}"
    if is_empty:
        return f"{told}, and it is empty: {tool} --delete --topic {topic.name}: it is made again"
    if are_others_right:
        return f"{told}: {tool} --alter --topic {topic.name} --partitions {place.partitions}"
    return f"{told}: set that to what the topic has, or name another log.kafka.prefix"


def _check_configuration(
    admin: KafkaAdminClient, place: KafkaPlace, topics: Mapping[str, Topic], *, saying: bool
) -> None:
    """Raise StorageUnfit for a topic that would lose entries; say what else is wrong with one."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, each.name) for each in topics.values()]
    found = admin.describe_configs(asked, config_filter="all")["topic"]
    for kept in place.retention:
        topic = topics[kept.topic]
        has = {key: each["value"] for key, each in found.get(topic.name, {}).items()}
        wanted = configuration(place, kept, topic.replicas)
        if lost := losses(wanted, has):
            told = "; ".join(map(str, lost))
            raise StorageUnfit(
                f"topic {topic.name}", f"{told}: {alteration(place, topic.name, lost)}"
            )
        if saying:
            _say_what_is_wrong(place, topic, wanted, has)


def _say_what_is_wrong(
    place: KafkaPlace, topic: Topic, wanted: Mapping[str, str], has: Mapping[str, str | None]
) -> None:
    if changes := blemishes(wanted, has):
        _say.warning(
            "a topic is not configured as it should be",
            topic=topic.name,
            reason="; ".join(map(str, changes)),
            change=alteration(place, topic.name, changes),
        )
    if topic.replicas < (place.replication or 1):
        _say.warning(
            "a topic has fewer replicas than log.kafka.replication says",
            topic=topic.name,
            replicas=topic.replicas,
            change=f"kafka-reassign-partitions.sh --bootstrap-server {place.bootstrap[0]}",
        )


def _may_not(place: KafkaPlace, operation: str) -> str:
    """Return that a right is missing, and the command that gives it for all our topics."""
    user = place.sasl.user if place.sasl else "NAME"
    which = (
        f"--topic {place.prefix} --resource-pattern-type prefixed"
        if place.prefix
        else "--topic '*'"
    )
    return (
        f"{operation} is not allowed to us: kafka-acls.sh --bootstrap-server {place.bootstrap[0]}"
        f" --add --allow-principal User:{user} --operation {operation} {which}"
    )


def _creation(place: KafkaPlace, name: str, new: Mapping[str, Any]) -> str:
    """Return the command that makes a topic as it has to be."""
    copies = f" --replication-factor {place.replication}" if place.replication else ""
    configs = "".join(f" --config {key}={value}" for key, value in new["configs"].items())
    return (
        f"kafka-topics.sh --bootstrap-server {place.bootstrap[0]} --create --topic {name}"
        f" --partitions {place.partitions}{copies}{configs}"
    )
