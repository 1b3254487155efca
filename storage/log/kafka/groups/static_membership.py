"""Static membership (KIP-345): who has the name of a member, and how a name is given up.

A static member never leaves its group by itself, and the newer of two of a name fences the older.
Kafka does not tell whether the older one runs. So a member puts what it is into its subscription,
and who comes looks there first: the name of one that runs is not taken.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
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
"""Seconds beyond its session after which a broker has dropped a member that is not heard of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberOwner:
    """The process that has the name of a member: all is empty where nobody knows.

    `process` is of `storage.processes`; `has_stopped` is said by itself, on its way out.
    """

    host: str = ""
    process: str = ""
    has_stopped: bool = False

    @property
    def is_gone(self) -> bool:
        """Return whether the process has ended for certain, or is this one."""
        return (
            self.has_stopped or has_ended(self.process) or self.process == process_identity() != ""
        )

    @property
    def is_running(self) -> bool:
        """Return whether the process runs on this machine for certain."""
        machine, _, number = self.process.rpartition("/")
        here, _, _ = process_identity().rpartition("/")
        return bool(number) and machine == here and not self.is_gone

    @property
    def pid(self) -> str:
        """Return the number of the process on its machine."""
        return self.process.rpartition("/")[2].partition("@")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberDescription:
    """A member of a group: its `id` is new for each process that takes the name.

    One that is not static has no name. `partitions` are of the one topic that the group reads.
    """

    name: str
    id: str
    owner: MemberOwner
    partitions: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRemoval:
    """What came of the removal of a member: one that is `running` stays, as process N of this host.

    `others` are the members of the group where this one was not there.
    """

    was_there: bool
    running_pid: str = ""
    others: tuple[str, ...] = ()


class OwnerAssignor(StickyPartitionAssignor):  # type: ignore[misc]
    """The sticky assignor, with the holder behind what it tells of itself.

    Those without it read on: what they decode ends before.
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
    """Whether the name of this member may be taken: never from a process that runs.

    One that runs on another machine cannot be told from one that was killed there: it is waited
    for, until the broker drops it or its session is over.
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
        """Return why the name cannot be taken now; None where it can. Raises KafkaError."""
        members = describe_members(self._config, self._group_id)
        member = next((each for each in members if each.name == self._static_member.name), None)
        obstacle = None if member is None else self.update(member)
        if member and not obstacle and not _are_all_assigned(members, self._config.partitions):
            # A restart makes no leader, so that nobody would see what was given to none.
            remove_static_member(self._config, self._group_id, member.name, member.id)
        return obstacle

    def update(self, member: MemberDescription) -> JoinFailure | None:
        """Return the same about the member that has the name."""
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
    """Return the members of a group; raises KafkaError. READ on the group is enough.

    While it rebalances nothing is known of their holders and partitions.
    """
    with _admin(config) as admin:
        try:
            found = admin.describe_groups([group_id])[group_id]
        except kafka.CoordinatorNotAvailableError:  # there was never any group
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

    With `member_id` only if that process has the name. Return whether it was there; raises
    KafkaError.
    """
    request = MemberToRemove(member_id=member_id or None, group_instance_id=name)
    with _admin(config) as admin:
        (result,) = admin.remove_group_members(group_id, [request]).values()
    if result not in (kafka.NoError, kafka.UnknownMemberIdError, kafka.FencedInstanceIdError):
        raise result()
    return result is kafka.NoError


def remove_stopped(config: KafkaConfig, reader: str, name: str) -> MemberRemoval:
    """Remove a member, unless it runs on this host: it would join again.

    Raises StorageDown, StorageRefused and StorageUnfit.
    """
    group_id = config.prefix + reader
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


@contextmanager
def _admin(config: KafkaConfig) -> Iterator[KafkaAdminClient]:
    with closing(create_client(KafkaAdminClient, config)) as admin:
        yield admin


def _owner_of(member: dict[str, Any]) -> MemberOwner:
    """Return who a member says it is."""
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
    """Return whether each partition is given to somebody."""
    return set(range(partitions)) <= {number for each in members for number in each.partitions}
