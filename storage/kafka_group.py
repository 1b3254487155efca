"""What a group of Kafka gives its members and for how long, and why it may give nothing."""

from collections.abc import Mapping
from dataclasses import replace

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    GroupAuthorizationFailedError,
    InconsistentGroupProtocolError,
    InvalidSessionTimeoutError,
    KafkaError,
    KafkaTimeoutError,
)

from storage.errors import StorageDown, StorageError, StorageUnfit
from storage.kafka_client import connected
from storage.kafka_errors import named
from storage.kafka_place import KafkaPlace

_ASK_SECONDS = 3.0
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


def refusal(place: KafkaPlace, group: str, error: KafkaError) -> StorageUnfit | None:
    """Return what to do where a broker lets this reader into no group; None for other errors."""
    match error:
        case GroupAuthorizationFailedError():
            who = f"User:{place.sasl.user}" if place.sasl else "this user"
            told = (
                f"{who} has no right to Read group {group}:"
                f" kafka-acls.sh --add --allow-principal {who} --operation Read --group {group}"
            )
        case InvalidSessionTimeoutError():
            told = (
                f"it takes no log.kafka.session of {place.session:g} s:"
                " see its group.min.session.timeout.ms and group.max.session.timeout.ms"
            )
        case InconsistentGroupProtocolError():
            told = f"another program is in group {group}: stop it, or name another log.kafka.prefix"
        case _:
            return None
    return StorageUnfit(place.name, told)


def why_unassigned(
    place: KafkaPlace, group: str, offsets: KafkaConsumer, partition: TopicPartition
) -> StorageError:
    """Return why a group gives nothing, asking with a consumer of the group; takes seconds."""
    quick = replace(place, timeout=min(place.timeout, _ASK_SECONDS))
    try:
        with named(quick):
            try:
                offsets.committed(partition, timeout_ms=quick.timeout * 1000)
            except KafkaTimeoutError:
                return _without_coordinator(quick)
            except KafkaError as error:
                refused = refusal(place, group, error)
                if refused is None:
                    raise
                return refused
    except StorageError as error:
        return error
    return StorageDown(place.name, f"group {group} settles on nothing")


def _without_coordinator(place: KafkaPlace) -> StorageError:
    """Return why no broker coordinates a group, as far as the brokers show it."""
    admin = connected(KafkaAdminClient, place)
    try:
        nodes = [str(each["node_id"]) for each in admin.describe_cluster()["brokers"]]
        asked = ConfigResource(ConfigResourceType.BROKER, nodes[0])
        found = admin.describe_configs([asked], config_filter="all").get("broker", {})
    finally:
        admin.close()
    copies = found.get(nodes[0], {}).get(_COPIES, {}).get("value")
    if copies is not None and int(copies) > len(nodes):
        told = (
            f"no group can work: {_COPIES} is {copies}, brokers: {len(nodes)};"
            f" set it to {len(nodes)} in server.properties, or start more brokers"
        )
        return StorageUnfit(place.name, told)
    return StorageDown(place.name, "no broker coordinates groups: see its __consumer_offsets")
