"""The topics of a log on Kafka: made as they have to be, or checked against it."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, RetriableError, for_code

from storage.errors import StorageDown, StorageError, StorageUnfit
from storage.kafka_configuration import (
    Difference,
    alteration,
    blemishes,
    configuration,
    losses,
)
from storage.kafka_errors import missing_right
from storage.kafka_metadata import (
    NO_ERROR,
    NO_RIGHT,
    Topic,
    administrator,
    describe,
    offsets,
)
from storage.kafka_place import KafkaPlace
from storage.log import COVERAGE, FINDINGS

OPEN_TO_ALL = frozenset({FINDINGS, COVERAGE})
"""Topics that others write to, with what partitions they find: all of these are read."""
_EXISTS, _TOO_FEW_BROKERS = 36, 38
_PAUSE = 0.2

_say = structlog.get_logger("storage.kafka")


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What of a topic is not as it should be, and the command for it where one mends it."""

    topic: str
    reason: str
    change: str = ""


def ensure_topics(place: KafkaPlace, *, making: bool = True) -> dict[str, Topic]:
    """Make the topics that are missing, check all of them, and return them by our own names.

    What is not as it should be is said, where they are made. Raises StorageDown where they are
    not there in time, and StorageUnfit for a right that is missing and for a topic that would
    lose entries or part them otherwise.
    """
    with administrator(place) as admin:
        topics = wait_for_topics(admin, place, making=making)
        for each in _checked(admin, place, topics):
            if making:
                _say.warning(
                    "a topic is not as it should be",
                    topic=each.topic,
                    reason=each.reason,
                    change=each.change,
                )
    return topics


def check_topics(place: KafkaPlace) -> list[Advice]:
    """Return what of the topics is not as it should be; make none, and raise as the above does."""
    with administrator(place) as admin:
        topics = wait_for_topics(admin, place, making=False)
        advice = _checked(admin, place, topics)
        told = unread(place, topics, offsets(admin, place, topics))
        return advice + [
            Advice(topic=topics[topic].name, reason=reason) for topic, reason in told.items()
        ]


def unread(
    place: KafkaPlace, topics: Mapping[str, Topic], held: Mapping[str, tuple[int, int]]
) -> dict[str, str]:
    """Return what is said of topics with entries in partitions that are not read.

    `held` has the first offset and the end of parts, as far as they are known.
    """
    counts = {
        topic: sum(
            end - begin
            for number in range(place.partitions, each.partitions)
            for begin, end in [held.get(f"{topic}-{number}", (0, 0))]
        )
        for topic, each in topics.items()
        if topic not in OPEN_TO_ALL
    }
    return {
        topic: (
            f"topic {topics[topic].name} has {topics[topic].partitions} partitions,"
            f" log.kafka.partitions says {place.partitions}: {count} entries in the others are not"
            " read: write where the settings say, or set it to what the topic has for the whole"
            " site"
        )
        for topic, count in counts.items()
        if count
    }


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
    if code in (NO_ERROR, _EXISTS):  # another service may be quicker
        return None
    if code in NO_RIGHT:
        right = missing_right(place, "topic", answer["name"], "CREATE", for_all=True)
        raise StorageUnfit(place.name, f"{right}, or {_creation(place, answer['name'], new)}")
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


def _checked(
    admin: KafkaAdminClient, place: KafkaPlace, topics: Mapping[str, Topic]
) -> list[Advice]:
    """Return advice; raise StorageUnfit for a topic that would lose entries or part them."""
    _check_partitions(admin, place, topics)
    asked = [ConfigResource(ConfigResourceType.TOPIC, each.name) for each in topics.values()]
    found = admin.describe_configs(asked, config_filter="all")["topic"]
    advice = list[Advice]()
    for kept in place.retention:
        topic = topics[kept.topic]
        has = {key: each["value"] for key, each in found.get(topic.name, {}).items()}
        wanted = configuration(place, kept, topic.replicas)
        if lost := losses(wanted, has):
            reason = f"{'; '.join(map(str, lost))}: {alteration(place, topic.name, lost)}"
            raise StorageUnfit(f"topic {topic.name}", reason)
        advice += _advice(place, topic, blemishes(wanted, has))
    return advice


def _advice(place: KafkaPlace, topic: Topic, changes: list[Difference]) -> list[Advice]:
    found = list[Advice]()
    if changes:
        reason, change = "; ".join(map(str, changes)), alteration(place, topic.name, changes)
        found.append(Advice(topic=topic.name, reason=reason, change=change))
    if topic.replicas < (place.replication or 1):
        reason = f"{topic.replicas} replicas, log.kafka.replication says {place.replication}"
        change = f"kafka-reassign-partitions.sh --bootstrap-server {place.bootstrap[0]}"
        found.append(Advice(topic=topic.name, reason=reason, change=change))
    return found


def _creation(place: KafkaPlace, name: str, new: Mapping[str, Any]) -> str:
    """Return the command that makes a topic as it has to be."""
    copies = f" --replication-factor {place.replication}" if place.replication else ""
    configs = "".join(f" --config {key}={value}" for key, value in new["configs"].items())
    return (
        f"kafka-topics.sh --bootstrap-server {place.bootstrap[0]} --create --topic {name}"
        f" --partitions {place.partitions}{copies}{configs}"
    )
