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

from storage.kafka_client import connected
from storage.kafka_errors import at_start, check_brokers, named
from storage.kafka_group import Obstacle, ObstacleKind, taken
from storage.kafka_place import KafkaPlace, StaticMember
from storage.processes import has_ended, this_process

_MARK = "\nlongwatch:"
_PROCESS = re.compile(r"[^@\s]+/[0-9]+@[0-9]+")
_SECONDS_MORE = 2.0
"""Seconds beyond its session after which a broker has dropped a member that is not heard of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that has the name of a member: all is empty where nobody knows.

    `process` is of `storage.processes`; `has_stopped` is said by itself, on its way out.
    """

    host: str = ""
    process: str = ""
    has_stopped: bool = False

    @property
    def is_gone(self) -> bool:
        """Return whether the process has ended for certain, or is this one."""
        return self.has_stopped or has_ended(self.process) or self.process == this_process() != ""

    @property
    def is_running(self) -> bool:
        """Return whether the process runs on this machine for certain."""
        machine, _, number = self.process.rpartition("/")
        here, _, _ = this_process().rpartition("/")
        return bool(number) and machine == here and not self.is_gone

    @property
    def number(self) -> str:
        """Return the number of the process on its machine."""
        return self.process.rpartition("/")[2].partition("@")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of a group: its `id` is new for each process that takes the name.

    One that is not static has no name. `partitions` are of the one topic that the group reads.
    """

    name: str
    id: str
    holder: Holder
    partitions: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What came of the removal of a member: one that is `running` stays, as process N of this host.

    `others` are the members of the group where this one was not there.
    """

    was_there: bool
    running: str = ""
    others: tuple[str, ...] = ()


class HolderAssignor(StickyPartitionAssignor):  # type: ignore[misc]
    """The sticky assignor, with the holder behind what it tells of itself.

    Those without it read on: what they decode ends before.
    """

    def __init__(self, holder: Holder) -> None:
        super().__init__()
        self.holder = holder

    def metadata(self, topics: Any) -> ConsumerProtocolSubscription:
        """Return the subscription of this member."""
        made = super().metadata(topics)
        none = StickyAssignorUserData([], self.DEFAULT_GENERATION_ID)
        told = _MARK + json.dumps(asdict(self.holder))
        made.user_data = (made.user_data or none).encode() + told.encode()
        return made


class Vacancy:
    """Whether the name of this member may be taken: never from a process that runs.

    One that runs on another machine cannot be told from one that was killed there: it is waited
    for, until the broker drops it or its session is over.
    """

    def __init__(
        self,
        place: KafkaPlace,
        group: str,
        static: StaticMember,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place
        self._group = group
        self._static = static
        self._clock = clock
        self._seen, self._since = "", 0.0

    def obstacle(self) -> Obstacle | None:
        """Return why the name cannot be taken now; None where it can. Raises KafkaError."""
        members = members_of(self._place, self._group)
        held = next((each for each in members if each.name == self._static.name), None)
        obstacle = None if held is None else self.judge(held)
        if held and not obstacle and not _cover(members, self._place.partitions):
            # A restart makes no leader, so that nobody would see what was given to none.
            remove_static_member(self._place, self._group, held.name, held.id)
        return obstacle

    def judge(self, held: Member) -> Obstacle | None:
        """Return the same about the member that has the name."""
        holder = held.holder
        if holder.is_gone:
            return None
        now = self._clock()
        if held.id != self._seen:
            self._seen, self._since = held.id, now
        where = f"on {holder.host}" if holder.host else "on another host"
        if holder.is_running:
            return taken(self._static.name, self._group, f"process {holder.number} of this host")
        if now - self._since > self._static.session + _SECONDS_MORE:
            return taken(self._static.name, self._group, f"an analyzer {where}")
        told = (
            f"group {self._group}: {self._static.name} is a member already, {where}:"
            f" waiting until it ends, {self._static.session:g} s at most"
        )
        return Obstacle(told, ObstacleKind.WAIT)


def members_of(place: KafkaPlace, group: str) -> list[Member]:
    """Return the members of a group; raises KafkaError. READ on the group is enough.

    While it rebalances nothing is known of their holders and partitions.
    """
    with _admin(place) as admin:
        try:
            found = admin.describe_groups([group])[group]
        except kafka.CoordinatorNotAvailableError:  # there was never any group
            return []
    return [
        Member(
            name=each["group_instance_id"] or "",
            id=each["member_id"],
            holder=_holder(each),
            partitions=_partitions(each),
        )
        for each in found["members"]
    ]


def remove_static_member(place: KafkaPlace, group: str, name: str, member_id: str = "") -> bool:
    """Remove a member from its group by its name, so that others get its partitions at once.

    With `member_id` only if that process has the name. Return whether it was there; raises
    KafkaError.
    """
    asked = MemberToRemove(member_id=member_id or None, group_instance_id=name)
    with _admin(place) as admin:
        (found,) = admin.remove_group_members(group, [asked]).values()
    if found not in (kafka.NoError, kafka.UnknownMemberIdError, kafka.FencedInstanceIdError):
        raise found()
    return found is kafka.NoError


def remove_stopped(place: KafkaPlace, reader: str, name: str) -> Removal:
    """Remove a member, unless it runs on this host: it would join again.

    Raises StorageDown, StorageRefused and StorageUnfit.
    """
    group = place.prefix + reader
    with at_start():
        check_brokers(place)
        with named(place, group=group, right="READ"):
            members = {each.name: each for each in members_of(place, group) if each.name}
            held = members.get(name)
            if held is None:
                return Removal(was_there=False, others=tuple(sorted(members)))
            if held.holder.is_running:
                return Removal(was_there=True, running=held.holder.number)
            return Removal(was_there=remove_static_member(place, group, name, held.id))


@contextmanager
def _admin(place: KafkaPlace) -> Iterator[KafkaAdminClient]:
    with closing(connected(KafkaAdminClient, place)) as admin:
        yield admin


def _holder(member: dict[str, Any]) -> Holder:
    """Return who a member says it is."""
    subscription = member["member_metadata"]
    data = subscription["user_data"] if isinstance(subscription, dict) else ""
    _, _, told = (data or "").partition(_MARK)
    try:
        found = json.loads(told or "{}")
        host, process = str(found["host"]), str(found["process"])
    except (KeyError, TypeError, ValueError):
        return Holder()
    process = process if _PROCESS.fullmatch(process) else ""
    return Holder(host=host, process=process, has_stopped=found.get("has_stopped") is True)


def _partitions(member: dict[str, Any]) -> frozenset[int]:
    assignment = member["member_assignment"]
    topics = assignment["assigned_partitions"] if isinstance(assignment, dict) else []
    return frozenset(number for each in topics for number in each["partitions"])


def _cover(members: list[Member], partitions: int) -> bool:
    """Return whether each partition is given to somebody."""
    return set(range(partitions)) <= {number for each in members for number in each.partitions}
