"""A share of a topic's parts, by Kafka's consumer groups.

The group's consumer fetches nothing: a thread of its own polls it, so that the broker hears of
this reader while the model takes its time, and the entries are read elsewhere.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka.errors import CommitFailedError, KafkaError, RebalanceInProgressError
from kafka.structs import MemberState

from storage.errors import PositionMoved, StorageDown, StorageError
from storage.kafka_client import connected
from storage.kafka_errors import named
from storage.kafka_group import Obstacle, ObstacleKind, Tenures, refusal, why_unassigned
from storage.kafka_member import GroupMember
from storage.kafka_place import KafkaPlace
from storage.kafka_reader import partition_of
from storage.log import Commit, Message
from storage.refusals import Use

FIRST_PROMISE = 600.0
"""Seconds that a reader may take until it is first heard of."""
UNASSIGNED = 15.0
"""Seconds without an assignment after which the reason is looked for, and looked for again."""
_PATIENCE = 0.2
"""Seconds that a commit waits for a poll to end; one in which the group settles takes longer."""
_PAUSE = 0.05
_RETRY, _REFUSED_RETRY = 1.0, 5.0
"""Seconds until the group is tried again after an error, and after a refusal."""

_say = structlog.get_logger("storage.kafka")


class KafkaShare:
    """The partitions that the group gave to this reader.

    kafka-python commits with the generation that it has when it sends, not with that of the read.
    So what is owned changes only inside a poll, and a commit compares its tenure under the lock
    that a poll holds: what was read before the group went on without this reader is refused.
    """

    def __init__(
        self,
        place: KafkaPlace,
        reader: str,
        topic: str,
        append: Callable[[Sequence[Message]], None],
    ) -> None:
        self._place = place
        self._append = append
        self._reader = reader
        self._topic = topic
        self._lock = threading.Lock()
        self._deadline = time.monotonic() + FIRST_PROMISE
        self._tenures = Tenures()
        self._trouble: StorageError | None = None
        self._was_member = False
        self._warned = ""
        self._ask_at = time.monotonic() + UNASSIGNED
        self._use = Use(group=self._group, right="READ")
        self._stop = threading.Event()
        with named(place):
            self._member = GroupMember(
                place, self._group, place.prefix + topic, _Listener(self), self._stop
            )
            self._offsets = connected(
                KafkaConsumer, place, group_id=self._group, enable_auto_commit=False
            )
        self._thread = threading.Thread(target=self._run, name=f"group-{reader}", daemon=True)
        self._thread.start()

    def parts(self) -> frozenset[str]:
        """Return the parts that are owned now; raises what keeps this reader out of the group."""
        trouble = self._trouble
        if trouble is not None:
            raise trouble
        if not self._thread.is_alive() and not self._stop.is_set():
            raise RuntimeError("the thread that keeps this reader in its group has ended")
        return self._tenures.parts

    def tenure(self, part: str) -> int:
        """Return the number of the assignment since which the part has been owned throughout."""
        return self._tenures.of(part)

    def committed(self, part: str) -> int:
        """Return the position where the owner goes on; 0 when none ever committed."""
        milliseconds = self._place.timeout * 1000
        with self._named():
            found = self._offsets.committed(
                partition_of(self._place, part), timeout_ms=milliseconds
            )
        return found or 0

    def commit(self, part: str, position: int, tenure: int) -> None:
        """Keep the position where the owner goes on; PositionMoved where its tenure is over."""
        self._check(part, Commit(position, tenure))  # what is over is refused without waiting
        if not (self._is_settled and self._lock.acquire(timeout=_PATIENCE)):
            raise self._unsettled()
        try:
            self._check(part, Commit(position, tenure))
            if not self._is_settled:
                raise self._unsettled()
            with self._named():
                self._member.commit(partition_of(self._place, part), position)
        finally:
            self._lock.release()

    def append(self, messages: Sequence[Message], commits: Mapping[str, Commit]) -> bool:
        """Append messages in order; return False: the positions are to be committed next."""
        for part, commit in commits.items():
            self._check(part, commit)
        self._append(messages)
        return False

    def promise(self, seconds: float) -> None:
        """Say that this reader will be heard of within so many seconds."""
        self._deadline = time.monotonic() + seconds

    def close(self) -> None:
        """Give the parts to the others, or keep them for a process that comes with our name."""
        self._stop.set()
        self._thread.join()
        with self._lock:
            self._tenures.end()
            self._member.close()
        self._offsets.close(autocommit=False)

    def assigned(self, partitions: Any) -> None:
        """Take over what the group gave, inside a poll, and fetch nothing of it.

        What was owned before is worked on until then: nothing is taken from a reader that gets
        it back, and what is written by two is known by its name.
        """
        if self._stop.is_set():
            return  # it says that it stops
        self._member.pause(partitions)
        ours = [each.partition for each in partitions if each.partition < self._place.partitions]
        mine = frozenset(f"{self._topic}-{number}" for number in ours)
        member = self._member.state
        if mine != self._tenures.parts:
            _say.info("parts assigned", reader=self._reader, parts=sorted(mine))
        self._tenures.settle(mine, member.member_id, member.generation_id)
        self._trouble, self._was_member, self._warned = None, True, ""
        self._place.refusals.forget(self._use)

    def lost(self) -> None:
        """Note, inside a poll, that the group went on without this reader."""
        self._tenures.end()
        self._ask_at = time.monotonic() + UNASSIGNED

    def _check(self, part: str, commit: Commit) -> None:
        own = f"{self._topic}-{part.rpartition('-')[2]}"
        if not commit.tenure or self._tenures.of(own) != commit.tenure:
            raise PositionMoved(self._reader, part, commit.position)

    def _run(self) -> None:
        """Poll, except while the reader is silent for longer than it promised."""
        while not self._stop.wait(_PAUSE):
            self._run_once()

    def _run_once(self) -> None:
        try:
            if time.monotonic() > self._deadline:
                self._leave()
            elif obstacle := self._obstacle():
                self._tell(obstacle)
                self._stop.wait(_RETRY)
            else:
                self._poll()
                self._look_for_trouble()
        except KafkaError as error:
            self._note(error)

    def _obstacle(self) -> Obstacle | None:
        """Return why the group cannot be joined yet."""
        return None if self._member.has_subscribed else self._member.obstacle()

    def _poll(self) -> None:
        with self._lock:
            if not self._member.has_subscribed:
                self._member.subscribe()
                self._ask_at = time.monotonic() + UNASSIGNED
            self._member.poll()

    def _look_for_trouble(self) -> None:
        """Find out why nothing has been given for long: a poll does not tell."""
        if not self._tenures.is_member and time.monotonic() >= self._ask_at:
            first = partition_of(self._place, f"{self._topic}-0")
            self._tell(why_unassigned(self._place, self._group, self._offsets, first))
            self._ask_at = time.monotonic() + UNASSIGNED

    def _note(self, error: KafkaError) -> None:
        """Keep what a poll ended with, where it keeps this reader out, and let a while pass."""
        refused = refusal(self._place, self._group, error)
        name = type(error).__name__
        if refused is not None:
            self._tell(refused)
        elif not self._tenures.is_member and time.monotonic() >= self._ask_at:
            self._tell(Obstacle(f"group {self._group}: {name}"))
        elif name != self._warned:
            _say.warning("group not reached", reader=self._reader, reason=name)
            self._warned = name
        self._stop.wait(_RETRY if refused is None else _REFUSED_RETRY)

    def _tell(self, obstacle: Obstacle) -> None:
        """Let `parts` raise it, until something is given."""
        self._trouble = obstacle.error(self._place, at_start=not self._was_member)
        if obstacle.kind is ObstacleKind.REFUSAL:
            self._place.refusals.note(self._use, obstacle.reason)
        if obstacle.kind is ObstacleKind.CONFLICT:
            self._tenures.end()

    def _leave(self) -> None:
        with self._lock:
            if self._tenures.is_member or self._member.has_subscribed:
                _say.error("work hangs: its parts are given to others", reader=self._reader)
                self._tenures.end()
                self._member.leave()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn what a broker says of a group, too, into errors of storage."""
        with named(self._place):
            try:
                yield
            except (CommitFailedError, RebalanceInProgressError):
                raise self._unsettled() from None
            except KafkaError as error:
                refused = refusal(self._place, self._group, error)
                if refused is None:
                    raise
                raise refused.error(self._place, at_start=not self._was_member) from None

    def _unsettled(self) -> StorageDown:
        return StorageDown(self._place.name, "it is settled who reads what")

    @property
    def _is_settled(self) -> bool:
        """Return whether the client is in the very generation in which the parts were given."""
        now = self._member.state
        is_stable = now.state == MemberState.STABLE
        return is_stable and self._tenures.is_of(now.member_id, now.generation_id)

    @property
    def _group(self) -> str:
        return self._place.prefix + self._reader


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, share: KafkaShare) -> None:
        self._share = share

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Wait for what is given instead."""

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._share.assigned(assigned)

    def on_partitions_lost(self, lost: Any) -> None:
        self._share.lost()
