"""Looking at a Kafka cluster as a person who has to run on it would; nothing is written."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from storage.checkup import Check
from storage.errors import StorageError
from storage.kafka_client import connected
from storage.kafka_errors import missing_right, named, words_of
from storage.kafka_group import session_bounds, session_of
from storage.kafka_metadata import NO_ERROR, TOPIC_UNAUTHORIZED, UNKNOWN_TOPIC
from storage.kafka_place import KafkaPlace
from storage.kafka_probe import ask_brokers
from storage.kafka_rights import missing_rights
from storage.kafka_topics import check_topics
from storage.needs import Needs

CLOCKS_APART = 5.0
"""Seconds that a broker's clock may be ahead of ours."""
_OFFSETS_MS = 5000


def check_kafka(place: KafkaPlace, needs: Needs) -> Iterator[Check]:
    """Yield what is found of brokers, rights, topics, replicas and clock, one after the other.

    Nothing more is yielded once no broker lets us in, or one stops to answer.
    """
    greetings = ask_brokers(place)
    for each in greetings:
        name = f"broker {each.address}"
        yield Check(name=name, found=each.problem or "answers", is_good=not each.problem)
    if all(each.problem for each in greetings):
        return
    try:
        with named(place), closing(connected(KafkaAdminClient, place)) as admin:
            yield from _check_cluster(admin, place, needs)
    except StorageError as error:
        yield Check(name="kafka", found=str(error), is_good=False)


def _check_cluster(admin: KafkaAdminClient, place: KafkaPlace, needs: Needs) -> Iterator[Check]:
    names = [place.prefix + kept.topic for kept in place.retention]
    topics = admin.describe_topics(names)
    yield from _check_rights(place, needs)
    yield _check_session(admin, place)
    yield from _check_topics(admin, place, topics)
    there = [each for each in topics if each["error_code"] == NO_ERROR]
    if there:
        yield _check_replicas(there)
        yield _check_clock(admin, there)


def _check_rights(place: KafkaPlace, needs: Needs) -> Iterator[Check]:
    missing = missing_rights(place, needs)
    for each in missing:
        yield Check(name="rights", found=each, is_good=False)
    if not missing:
        yield Check(name="rights", found="what every role needs is allowed")


def _check_session(admin: KafkaAdminClient, place: KafkaPlace) -> Check:
    """Compare how long a group keeps a silent member with what the brokers take."""
    key, session = session_of(place)
    try:
        bounds = session_bounds(admin)
    except KafkaError as error:
        return Check(name="session", found=f"bounds of {key} not known: {words_of(error)}")
    if bounds is None:
        right = "the right DESCRIBE_CONFIGS on the cluster is missing"
        return Check(name="session", found=f"bounds of {key} not known: {right}")
    shortest, longest = bounds
    keys = "group.min.session.timeout.ms to group.max.session.timeout.ms"
    told = f"{key} is {session:g} s, the brokers take {keys} ({shortest:g} to {longest:g} s)"
    return Check(name="session", found=told, is_good=shortest <= session <= longest)


def _check_topics(
    admin: KafkaAdminClient, place: KafkaPlace, topics: Sequence[dict[str, Any]]
) -> Iterator[Check]:
    """Compare the topics with what they have to be; those of a first start are not there yet."""
    missing = [each["name"] for each in topics if each["error_code"] == UNKNOWN_TOPIC]
    if missing:
        may_not = _may_not_make(admin, place, missing)
        told = f"{', '.join(missing)}: not there yet, made at the next start"
        yield Check(name="topics", found=may_not or told, is_good=not may_not)
        return
    try:
        advice = check_topics(place)
    except StorageError as error:
        yield Check(name="topics", found=str(error), is_good=False)
        return
    for each in advice:
        told = f"{each.reason}: {each.change}" if each.change else each.reason
        yield Check(name=f"topic {each.topic}", found=told)
    counts = sorted({len(each["partitions"]) for each in topics})
    parts = " or ".join(map(str, counts))
    yield Check(name="topics", found=f"{len(topics)} topics of {parts} partitions")


def _may_not_make(admin: KafkaAdminClient, place: KafkaPlace, names: Sequence[str]) -> str:
    """Return which topic may not be made; the brokers are asked, and make nothing."""
    asked = {name: {"num_partitions": place.partitions} for name in names}
    answers = admin.create_topics(asked, validate_only=True, raise_errors=False)["topics"]
    refused = [each["name"] for each in answers if each["error_code"] == TOPIC_UNAUTHORIZED]
    return missing_right(place, "topic", refused[0], "CREATE") if refused else ""


def _check_replicas(topics: Sequence[dict[str, Any]]) -> Check:
    """Say which partition has no leader, or fewer replicas in sync than it should have."""
    least = min(len(part["replica_nodes"]) for each in topics for part in each["partitions"])
    for each in topics:
        for part in each["partitions"]:
            name = f"{each['name']}-{part['partition_index']}"
            alive, all_of_it = len(part["isr_nodes"]), len(part["replica_nodes"])
            if part["leader_id"] < 0:
                return Check(name="replicas", found=f"{name} has no leader", is_good=False)
            if alive < all_of_it:
                told = f"{name} has {alive} of {all_of_it} replicas in sync"
                return Check(name="replicas", found=told, is_good=False)
    return Check(name="replicas", found=f"{least} of each partition, all in sync")


def _check_clock(admin: KafkaAdminClient, topics: Sequence[dict[str, Any]]) -> Check:
    """Compare our clock with the newest record: a broker does not tell its time otherwise."""
    parts = [
        TopicPartition(each["name"], part["partition_index"])
        for each in topics
        for part in each["partitions"]
    ]
    try:
        found = admin.list_partition_offsets(
            dict.fromkeys(parts, OffsetSpec.MAX_TIMESTAMP), timeout_ms=_OFFSETS_MS
        )
    except KafkaError as error:
        return Check(name="clock", found=f"not known: {words_of(error)}")
    newest = max((each.timestamp for each in found.values()), default=-1) / 1000
    if newest < 0:
        return Check(name="clock", found="not known: no broker tells its time before a record")
    ahead = newest - datetime.now(UTC).timestamp()
    if ahead > CLOCKS_APART:
        told = f"a record is {ahead:.0f} s ahead of our clock: set the clocks of all hosts by NTP"
        return Check(name="clock", found=told, is_good=False)
    return Check(name="clock", found=f"not ahead of ours: the newest record is {-ahead:.0f} s old")
