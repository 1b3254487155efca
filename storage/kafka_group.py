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
from storage.kafka_client import connected
from storage.kafka_errors import missing_right
from storage.kafka_place import KafkaPlace

_ASK_SECONDS = 3.0
_BOUNDS = "group.min.session.timeout.ms", "group.max.session.timeout.ms"
_COPIES = "offsets.topic.replication.factor"


class Tenures:
    """Since when a member has owned each part without a break.

    A tenure is numbered by the assignment with which it began. Two assignments are on end where
    the member stayed the same and the group had no generation in between that it was not in.
    """

    def __init__(self) -> None:
        self._assignments = 0
        self._held: Mapping[str, int] = {}
        self._last: tuple[str, int] | None = None

    @property
    def parts(self) -> frozenset[str]:
        """Return the parts that are owned."""
        return frozenset(self._held)

    @property
    def is_member(self) -> bool:
        """Return whether the group has given anything, be it nothing for want of parts."""
        return self._last is not None

    def of(self, part: str) -> int:
        """Return the tenure of a part; 0 where it is not owned."""
        return self._held.get(part, 0)

    def is_of(self, member: str, generation: int) -> bool:
        """Return whether a member had its last assignment in this generation."""
        return self._last == (member, generation)

    def settle(self, parts: frozenset[str], member: str, generation: int) -> None:
        """Take over an assignment; what was owned in the one before, on end, is owned on."""
        is_on_end = self._last in ((member, generation), (member, generation - 1))
        held = self._held if is_on_end else {}
        self._assignments += 1
        self._held = {part: held.get(part, self._assignments) for part in parts}
        self._last = (member, generation)

    def end(self) -> None:
        """End all tenures: the group may have given the parts to others."""
        self._held, self._last = {}, None


class ObstacleKind(Enum):
    """How an obstacle ends."""

    SILENCE = auto()
    """By itself."""
    WAIT = auto()
    """By itself, within a known time."""
    REFUSAL = auto()
    """When somebody allows it: a process that ran once waits for that."""
    CONFLICT = auto()
    """When somebody ends or renames one of two processes."""


class Obstacle(NamedTuple):
    """What keeps a member out of its group."""

    reason: str
    kind: ObstacleKind = ObstacleKind.SILENCE

    def error(self, place: KafkaPlace, *, at_start: bool) -> StorageError:
        """Return it as an error: at a start nobody waits for a refusal to end."""
        match self.kind:
            case ObstacleKind.SILENCE:
                return StorageDown(place.name, self.reason)
            case ObstacleKind.REFUSAL if at_start:
                return StorageUnfit(place.name, self.reason)
            case ObstacleKind.CONFLICT:
                return StorageUnfit(place.name, self.reason)
        return StorageRefused(place.name, self.reason)


def taken(name: str, group: str, by: str) -> Obstacle:
    """Return that another process has the name of this static member."""
    told = (
        f"group {group}: {by} is static member {name}: stop one of the two,"
        " or give each a log.kafka.static.name of its own"
    )
    return Obstacle(told, ObstacleKind.CONFLICT)


def refusal(place: KafkaPlace, group: str, error: KafkaError) -> Obstacle | None:
    """Return what to do where a broker lets this reader into no group; None for other errors."""
    match error:
        case GroupAuthorizationFailedError():
            told = missing_right(place, "group", group, "READ")
        case InvalidSessionTimeoutError():
            key, session = session_of(place)
            told = (
                f"it takes no {key} of {session:g} s:"
                " see its group.min.session.timeout.ms and group.max.session.timeout.ms"
            )
        case InconsistentGroupProtocolError():
            told = f"another program is in group {group}: stop it, or name another log.kafka.prefix"
        case FencedInstanceIdError():
            name = place.static.name if place.static else ""
            return taken(name, group, "another process")
        case _:
            return None
    return Obstacle(told, ObstacleKind.REFUSAL)


def session_of(place: KafkaPlace) -> tuple[str, float]:
    """Return the setting that says how long a group keeps a silent member, and its seconds."""
    if place.static is not None:
        return "log.kafka.static.session", place.static.session
    return "log.kafka.session", place.session


def why_unassigned(
    place: KafkaPlace, group: str, offsets: KafkaConsumer, partition: TopicPartition
) -> Obstacle:
    """Return why a group gives nothing, asking with a consumer of the group; takes seconds."""
    quick = replace(place, timeout=min(place.timeout, _ASK_SECONDS))
    try:
        offsets.committed(partition, timeout_ms=quick.timeout * 1000)
    except KafkaTimeoutError:
        return _without_coordinator(quick)
    except KafkaError as error:
        return refusal(place, group, error) or Obstacle(type(error).__name__)
    return Obstacle(f"group {group} settles on nothing")


def _without_coordinator(place: KafkaPlace) -> Obstacle:
    """Return why no broker coordinates a group, as far as the brokers show it."""
    try:
        brokers, copies = _brokers_and_copies(place)
    except (KafkaError, OSError) as error:
        return Obstacle(f"no broker answers: {type(error).__name__}")
    if copies > brokers:
        told = (
            f"no group can work: {_COPIES} is {copies}, brokers: {brokers};"
            f" set it to {brokers} in server.properties, or start more brokers"
        )
        return Obstacle(told, ObstacleKind.REFUSAL)
    return Obstacle("no broker coordinates groups: look at its __consumer_offsets")


def session_bounds(admin: KafkaAdminClient) -> tuple[float, float] | None:
    """Return the shortest and the longest session that a broker takes; raises KafkaError.

    None where we lack the right to know.
    """
    _, settings = _brokers_and_settings(admin)
    if not all(each in settings for each in _BOUNDS):
        return None
    shortest, longest = (int(settings[each]) / 1000 for each in _BOUNDS)
    return shortest, longest


def _brokers_and_copies(place: KafkaPlace) -> tuple[int, int]:
    """Return how many brokers there are, and how many the offsets of groups ask for."""
    with closing(connected(KafkaAdminClient, place)) as admin:
        brokers, settings = _brokers_and_settings(admin)
    return brokers, int(settings.get(_COPIES, 0))


def _brokers_and_settings(admin: KafkaAdminClient) -> tuple[int, dict[str, str]]:
    """Return how many brokers there are, and the settings of one as far as it tells them."""
    nodes = [str(each["broker_id"]) for each in admin.describe_cluster()["brokers"]]
    asked = ConfigResource(ConfigResourceType.BROKER, nodes[0])
    found = admin.describe_configs([asked], config_filter="all").get("broker", {})
    known = {name: each.get("value") for name, each in found.get(nodes[0], {}).items()}
    return len(nodes), {name: value for name, value in known.items() if value}
