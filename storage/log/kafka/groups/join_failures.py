"""What a group of Kafka gives its members and for how long, and why it may give nothing."""

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
    """Since when a member has owned each part without a break.

    A tenure is numbered by the assignment with which it began. Two assignments are on end where
    the member stayed the same and the group had no generation in between that it was not in.
    """

    def __init__(self) -> None:
        self._assignments = 0
        self._generations: Mapping[str, int] = {}
        self._last_assignment: tuple[str, int] | None = None

    @property
    def partitions(self) -> frozenset[str]:
        """Return the parts that are owned."""
        return frozenset(self._generations)

    @property
    def is_member(self) -> bool:
        """Return whether the group has given anything, be it nothing for want of parts."""
        return self._last_assignment is not None

    def generation(self, partition: str) -> int:
        """Return the tenure of a part; 0 where it is not owned."""
        return self._generations.get(partition, 0)

    def is_current(self, member_id: str, generation_id: int) -> bool:
        """Return whether a member had its last assignment in this generation."""
        return self._last_assignment == (member_id, generation_id)

    def update(self, partitions: frozenset[str], member_id: str, generation_id: int) -> None:
        """Take over an assignment; what was owned in the one before, on end, is owned on."""
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
        """End all tenures: the group may have given the parts to others."""
        self._generations, self._last_assignment = {}, None


class JoinFailureKind(Enum):
    """How an obstacle ends."""

    NO_ANSWER = auto()
    """By itself."""
    NAME_IN_USE = auto()
    """By itself, within a known time."""
    REFUSED = auto()
    """When somebody allows it: a process that ran once waits for that."""
    NAME_CONFLICT = auto()
    """When somebody ends or renames one of two processes."""


class JoinFailure(NamedTuple):
    """What keeps a member out of its group."""

    reason: str
    kind: JoinFailureKind = JoinFailureKind.NO_ANSWER

    def to_error(self, config: KafkaConfig, *, at_start: bool) -> StorageError:
        """Return it as an error: at a start nobody waits for a refusal to end."""
        match self.kind:
            case JoinFailureKind.NO_ANSWER:
                return StorageDown(config.name, self.reason)
            case JoinFailureKind.REFUSED if at_start:
                return StorageUnfit(config.name, self.reason)
            case JoinFailureKind.NAME_CONFLICT:
                return StorageUnfit(config.name, self.reason)
        return StorageRefused(config.name, self.reason)


def name_conflict(name: str, group_id: str, by: str) -> JoinFailure:
    """Return that another process has the name of this static member."""
    reason = (
        f"group {group_id}: {by} is static member {name}: stop one of the two,"
        " or give each a log.kafka.static.name of its own"
    )
    return JoinFailure(reason, JoinFailureKind.NAME_CONFLICT)


def join_refusal(config: KafkaConfig, group_id: str, error: KafkaError) -> JoinFailure | None:
    """Return what to do where a broker lets this reader into no group; None for other errors."""
    match error:
        case GroupAuthorizationFailedError():
            reason = missing_acl(config, "group", group_id, "READ")
        case InvalidSessionTimeoutError():
            key, session = session_setting(config)
            reason = (
                f"it takes no {key} of {session:g} s:"
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
    """Return the setting that says how long a group keeps a silent member, and its seconds."""
    if config.static is not None:
        return "log.kafka.static.session", config.static.session
    return "log.kafka.session", config.session


def diagnose_unassigned(
    config: KafkaConfig, group_id: str, offsets: KafkaConsumer, topic_partition: TopicPartition
) -> JoinFailure:
    """Return why a group gives nothing, asking with a consumer of the group; takes seconds."""
    quick = replace(config, timeout=min(config.timeout, _REQUEST_SECONDS))
    try:
        offsets.committed(topic_partition, timeout_ms=quick.timeout * 1000)
    except KafkaTimeoutError:
        return _diagnose_coordinator(quick)
    except KafkaError as error:
        return join_refusal(config, group_id, error) or JoinFailure(type(error).__name__)
    return JoinFailure(f"group {group_id} settles on nothing")


def _diagnose_coordinator(config: KafkaConfig) -> JoinFailure:
    """Return why no broker coordinates a group, as far as the brokers show it."""
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
    return JoinFailure("no broker coordinates groups: look at its __consumer_offsets")


def session_bounds(admin: KafkaAdminClient) -> tuple[float, float] | None:
    """Return the shortest and the longest session that a broker takes; raises KafkaError.

    None where we lack the right to know.
    """
    _, settings = _brokers_and_settings(admin)
    if not all(each in settings for each in _SESSION_BOUNDS):
        return None
    shortest, longest = (int(settings[each]) / 1000 for each in _SESSION_BOUNDS)
    return shortest, longest


def _broker_and_replica_counts(config: KafkaConfig) -> tuple[int, int]:
    """Return how many brokers there are, and how many the offsets of groups ask for."""
    with closing(create_client(KafkaAdminClient, config)) as admin:
        brokers, settings = _brokers_and_settings(admin)
    return brokers, int(settings.get(_OFFSETS_REPLICATION, 0))


def _brokers_and_settings(admin: KafkaAdminClient) -> tuple[int, dict[str, str]]:
    """Return how many brokers there are, and the settings of one as far as it tells them."""
    nodes = [str(each["broker_id"]) for each in admin.describe_cluster()["brokers"]]
    asked = ConfigResource(ConfigResourceType.BROKER, nodes[0])
    found = admin.describe_configs([asked], config_filter="all").get("broker", {})
    known = {name: each.get("value") for name, each in found.get(nodes[0], {}).items()}
    return len(nodes), {name: value for name, value in known.items() if value}
