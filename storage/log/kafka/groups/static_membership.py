"""Static membership (KIP-345): which process owns the name of a member, and when it is free.

A static member never leaves its group by itself, and the newer of two with a name fences the
older. Kafka does not report whether the older one runs. So each member puts its owner into its
subscription, and a new process reads it first: it never takes the name of a running process.
"""

import json
import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import kafka.errors as kafka
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.coordinator.assignors.sticky.user_data import StickyAssignorUserData
from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription

from storage.log.kafka.client.config import KafkaConfig, StaticMember
from storage.log.kafka.client.errors import check_brokers, refused_as_unfit, translate_errors
from storage.log.kafka.client.network import create_client
from storage.log.kafka.groups.join_failures import JoinFailure, JoinFailureKind, name_conflict
from storage.processes import has_ended, process_identity

_OWNER_MARK = "\nlongwatch:"
_PROCESS = re.compile(r"[^@\s]+/[0-9]+@[0-9]+")
_SESSION_GRACE = 2.0
"""Seconds after its session by which a broker has dropped a silent member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberOwner:
    """The process that owns the name of a member; empty if unknown.

    `process` is from `storage.processes`; the process itself sets `has_stopped` at its end.
    """

    host: str = ""
    process: str = ""
    has_stopped: bool = False

    @property
    def is_gone(self) -> bool:
        """Return whether the process has certainly ended, or is this one."""
        return (
            self.has_stopped or has_ended(self.process) or self.process == process_identity() != ""
        )

    @property
    def is_running(self) -> bool:
        """Return whether the process certainly runs on this machine."""
        machine, _, number = self.process.rpartition("/")
        here, _, _ = process_identity().rpartition("/")
        return bool(number) and machine == here and not self.is_gone

    @property
    def pid(self) -> str:
        """Return the number of the process on its machine."""
        return self.process.rpartition("/")[2].partition("@")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberDescription:
    """A member of a group; `id` is new for each process, `name` empty if it is not static.

    `partitions` are those of the one topic that the group reads.
    """

    name: str
    id: str
    owner: MemberOwner
    partitions: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRemoval:
    """The result of removing a member; one that runs on this host stays, as `running_pid`.

    `others` are the members of the group if this one was not in it.
    """

    was_there: bool
    running_pid: str = ""
    others: tuple[str, ...] = ()


class OwnerAssignor(StickyPartitionAssignor):  # type: ignore[misc]
    """The sticky assignor, with the owner appended to its user data.

    Plain sticky assignors decode the user data without the owner.
    """

    def __init__(self, owner: MemberOwner) -> None:
        super().__init__()
        self.owner = owner

    def metadata(self, topics: Any) -> ConsumerProtocolSubscription:
        """Return the subscription of this member."""
        subscription = super().metadata(topics)
        none = StickyAssignorUserData([], self.DEFAULT_GENERATION_ID)
        encoded = _OWNER_MARK + json.dumps(asdict(self.owner))
        subscription.user_data = (subscription.user_data or none).encode() + encoded.encode()
        return subscription


class StaticNameCheck:
    """Checks whether the name of this member is free: never while its owner runs.

    A process that runs on another machine looks like one that was killed there: wait until the
    broker drops it or its session is over.
    """

    def __init__(
        self,
        config: KafkaConfig,
        group_id: str,
        static: StaticMember,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._group_id = group_id
        self._static_member = static
        self._clock = clock
        self._last_id, self._since = "", 0.0

    def find_join_failure(self) -> JoinFailure | None:
        """Return why the name is not available now, or None; raises KafkaError."""
        members = describe_members(self._config, self._group_id)
        member = next((each for each in members if each.name == self._static_member.name), None)
        failure = None if member is None else self.update(member)
        if member and not failure and not _are_all_assigned(members, self._config.partitions):
            # A restart elects no leader, so no member would notice unassigned partitions.
            remove_static_member(self._config, self._group_id, member.name, member.id)
        return failure

    def update(self, member: MemberDescription) -> JoinFailure | None:
        """Return why the name of this member is not available now, or None."""
        owner = member.owner
        if owner.is_gone:
            return None
        now = self._clock()
        if member.id != self._last_id:
            self._last_id, self._since = member.id, now
        where = f"on {owner.host}" if owner.host else "on another host"
        if owner.is_running:
            return name_conflict(
                self._static_member.name, self._group_id, f"process {owner.pid} of this host"
            )
        if now - self._since > self._static_member.session + _SESSION_GRACE:
            return name_conflict(self._static_member.name, self._group_id, f"an analyzer {where}")
        reason = (
            f"group {self._group_id}: {self._static_member.name} is a member already, {where}:"
            f" waiting until it ends, {self._static_member.session:g} s at most"
        )
        return JoinFailure(reason, JoinFailureKind.NAME_IN_USE)


def describe_members(config: KafkaConfig, group_id: str) -> list[MemberDescription]:
    """Return the members of a group; raises KafkaError. Needs the right READ on the group.

    During a rebalance their owners and partitions are unknown.
    """
    with closing(create_client(KafkaAdminClient, config)) as admin:
        try:
            found = admin.describe_groups([group_id])[group_id]
        except kafka.CoordinatorNotAvailableError:  # the cluster never had a group
            return []
    return [
        MemberDescription(
            name=each["group_instance_id"] or "",
            id=each["member_id"],
            owner=_owner_of(each),
            partitions=_assigned_partitions(each),
        )
        for each in found["members"]
    ]


def remove_static_member(
    config: KafkaConfig, group_id: str, name: str, member_id: str = ""
) -> bool:
    """Remove a member from its group by its name, so that others get its partitions at once.

    With `member_id` only if that member has the name. Return whether it was there; raises
    KafkaError.
    """
    request = MemberToRemove(member_id=member_id or None, group_instance_id=name)
    with closing(create_client(KafkaAdminClient, config)) as admin:
        (result,) = admin.remove_group_members(group_id, [request]).values()
    if result not in (kafka.NoError, kafka.UnknownMemberIdError, kafka.FencedInstanceIdError):
        raise result()
    return result is kafka.NoError


def remove_stopped(config: KafkaConfig, group: str, name: str) -> MemberRemoval:
    """Remove a member, unless it runs on this host: it would rejoin.

    Raises StorageDown, StorageRefused and StorageUnfit.
    """
    group_id = config.prefix + group
    with refused_as_unfit():
        check_brokers(config)
        with translate_errors(config, group=group_id, operation="READ"):
            members = {each.name: each for each in describe_members(config, group_id) if each.name}
            member = members.get(name)
            if member is None:
                return MemberRemoval(was_there=False, others=tuple(sorted(members)))
            if member.owner.is_running:
                return MemberRemoval(was_there=True, running_pid=member.owner.pid)
            return MemberRemoval(was_there=remove_static_member(config, group_id, name, member.id))


def _owner_of(member: dict[str, Any]) -> MemberOwner:
    """Return the owner in the subscription of a member."""
    subscription = member["member_metadata"]
    data = subscription["user_data"] if isinstance(subscription, dict) else ""
    _, _, encoded = (data or "").partition(_OWNER_MARK)
    try:
        found = json.loads(encoded or "{}")
        host, process = str(found["host"]), str(found["process"])
    except (KeyError, TypeError, ValueError):
        return MemberOwner()
    process = process if _PROCESS.fullmatch(process) else ""
    return MemberOwner(host=host, process=process, has_stopped=found.get("has_stopped") is True)


def _assigned_partitions(member: dict[str, Any]) -> frozenset[int]:
    assignment = member["member_assignment"]
    topics = assignment["assigned_partitions"] if isinstance(assignment, dict) else []
    return frozenset(number for each in topics for number in each["partitions"])


def _are_all_assigned(members: list[MemberDescription], partitions: int) -> bool:
    """Return whether each partition is assigned to a member."""
    return set(range(partitions)) <= {number for each in members for number in each.partitions}
