"""The generations of assigned partitions, and why a consumer group assigns none."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from enum import Enum, auto
from typing import NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    FencedInstanceIdError,
    GroupAuthorizationFailedError,
    InconsistentGroupProtocolError,
    InvalidSessionTimeoutError,
    KafkaError,
    KafkaTimeoutError,
)

from storage.errors import StorageDown, StorageError, StorageRefused, StorageUnfit
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.errors import missing_acl
from storage.log.kafka.client.network import create_client

_REQUEST_SECONDS = 3.0
_SESSION_BOUNDS = "group.min.session.timeout.ms", "group.max.session.timeout.ms"
_OFFSETS_REPLICATION = "offsets.topic.replication.factor"


class PartitionGenerations:
    """Since which assignment a member has owned each partition without a break.

    A generation has the number of the assignment with which it began. Two assignments are
    consecutive if the member kept its id and missed no generation of the group in between.
    """

    def __init__(self) -> None:
        self._assignments = 0
        self._generations: Mapping[str, int] = {}
        self._last_assignment: tuple[str, int] | None = None

    @property
    def partitions(self) -> frozenset[str]:
        """Return the owned partitions."""
        return frozenset(self._generations)

    @property
    def is_member(self) -> bool:
        """Return whether the group has assigned partitions, or none because there are too few."""
        return self._last_assignment is not None

    def generation(self, partition: str) -> int:
        """Return the generation of a partition; 0 if it is not owned."""
        return self._generations.get(partition, 0)

    def is_current(self, member_id: str, generation_id: int) -> bool:
        """Return whether this is the member and the generation of the last assignment."""
        return self._last_assignment == (member_id, generation_id)

    def update(self, partitions: frozenset[str], member_id: str, generation_id: int) -> None:
        """Record an assignment; partitions of a consecutive one keep their generation."""
        is_consecutive = self._last_assignment in (
            (member_id, generation_id),
            (member_id, generation_id - 1),
        )
        previous = self._generations if is_consecutive else {}
        self._assignments += 1
        self._generations = {
            partition: previous.get(partition, self._assignments) for partition in partitions
        }
        self._last_assignment = (member_id, generation_id)

    def clear(self) -> None:
        """End all generations: the group may have assigned the partitions to others."""
        self._generations, self._last_assignment = {}, None


class JoinFailureKind(Enum):
    """How a failure to join ends."""

    NO_ANSWER = auto()
    """By itself."""
    NAME_IN_USE = auto()
    """By itself, within a known time."""
    REFUSED = auto()
    """When an operator allows it: a process that has run waits for that."""
    NAME_CONFLICT = auto()
    """When an operator ends or renames one of two processes."""


class JoinFailure(NamedTuple):
    """Why a member cannot join its group."""

    reason: str
    kind: JoinFailureKind = JoinFailureKind.NO_ANSWER

    def to_error(self, config: KafkaConfig, *, at_start: bool) -> StorageError:
        """Return the error to raise: at a start a role does not wait for a refusal to end."""
        match self.kind:
            case JoinFailureKind.NO_ANSWER:
                return StorageDown(config.name, self.reason)
            case JoinFailureKind.REFUSED if at_start:
                return StorageUnfit(config.name, self.reason)
            case JoinFailureKind.NAME_CONFLICT:
                return StorageUnfit(config.name, self.reason)
        return StorageRefused(config.name, self.reason)


def name_conflict(name: str, group_id: str, by: str) -> JoinFailure:
    """Return the failure that another process has the name of this static member."""
    reason = (
        f"group {group_id}: {by} is static member {name}: stop one of the two,"
        " or give each its own log.kafka.static.name"
    )
    return JoinFailure(reason, JoinFailureKind.NAME_CONFLICT)


def join_refusal(config: KafkaConfig, group_id: str, error: KafkaError) -> JoinFailure | None:
    """Return the failure if a broker refuses to let us join; None for other errors."""
    match error:
        case GroupAuthorizationFailedError():
            reason = missing_acl(config, "group", group_id, "READ")
        case InvalidSessionTimeoutError():
            key, session = session_setting(config)
            reason = (
                f"it accepts no {key} of {session:g} s:"
                " see its group.min.session.timeout.ms and group.max.session.timeout.ms"
            )
        case InconsistentGroupProtocolError():
            reason = (
                f"another program is in group {group_id}: stop it, or name another log.kafka.prefix"
            )
        case FencedInstanceIdError():
            name = config.static.name if config.static else ""
            return name_conflict(name, group_id, "another process")
        case _:
            return None
    return JoinFailure(reason, JoinFailureKind.REFUSED)


def session_setting(config: KafkaConfig) -> tuple[str, float]:
    """Return the setting for how long a group keeps a silent member, and its seconds."""
    if config.static is not None:
        return "log.kafka.static.session", config.static.session
    return "log.kafka.session", config.session


def diagnose_unassigned(
    config: KafkaConfig, group_id: str, offsets: KafkaConsumer, topic_partition: TopicPartition
) -> JoinFailure:
    """Return why a group assigns no partition, by a request of a consumer; takes seconds."""
    quick = replace(config, timeout=min(config.timeout, _REQUEST_SECONDS))
    try:
        offsets.committed(topic_partition, timeout_ms=quick.timeout * 1000)
    except KafkaTimeoutError:
        return _diagnose_coordinator(quick)
    except KafkaError as error:
        return join_refusal(config, group_id, error) or JoinFailure(type(error).__name__)
    return JoinFailure(f"group {group_id} assigns no partition")


def _diagnose_coordinator(config: KafkaConfig) -> JoinFailure:
    """Return why no broker coordinates the group, as far as the brokers report it."""
    try:
        brokers, replicas = _broker_and_replica_counts(config)
    except (KafkaError, OSError) as error:
        return JoinFailure(f"no broker answers: {type(error).__name__}")
    if replicas > brokers:
        reason = (
            f"no group can work: {_OFFSETS_REPLICATION} is {replicas}, brokers: {brokers};"
            f" set it to {brokers} in server.properties, or start more brokers"
        )
        return JoinFailure(reason, JoinFailureKind.REFUSED)
    return JoinFailure("no broker coordinates groups: check its topic __consumer_offsets")


def session_bounds(admin: KafkaAdminClient) -> tuple[float, float] | None:
    """Return the shortest and the longest session that a broker accepts; raises KafkaError.

    None if we lack the right to describe it.
    """
    _, settings = _brokers_and_settings(admin)
    if not all(each in settings for each in _SESSION_BOUNDS):
        return None
    shortest, longest = (int(settings[each]) / 1000 for each in _SESSION_BOUNDS)
    return shortest, longest


def _broker_and_replica_counts(config: KafkaConfig) -> tuple[int, int]:
    """Return the number of brokers, and the replication factor of the offsets topic."""
    with closing(create_client(KafkaAdminClient, config)) as admin:
        brokers, settings = _brokers_and_settings(admin)
    return brokers, int(settings.get(_OFFSETS_REPLICATION, 0))


def _brokers_and_settings(admin: KafkaAdminClient) -> tuple[int, dict[str, str]]:
    """Return the number of brokers, and the settings that one reports."""
    nodes = [str(each["broker_id"]) for each in admin.describe_cluster()["brokers"]]
    asked = ConfigResource(ConfigResourceType.BROKER, nodes[0])
    found = admin.describe_configs([asked], config_filter="all").get("broker", {})
    known = {name: each.get("value") for name, each in found.get(nodes[0], {}).items()}
    return len(nodes), {name: value for name, value in known.items() if value}
