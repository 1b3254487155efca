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
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import CommitFailedError, KafkaError, RebalanceInProgressError
from kafka.structs import MemberState, OffsetAndMetadata

from storage.errors import PositionMoved, StorageDown, StorageError
from storage.kafka_client import connected
from storage.kafka_errors import named
from storage.kafka_group import Obstacle, Tenures, refusal, why_unassigned
from storage.kafka_place import KafkaPlace
from storage.kafka_reader import partition_of
from storage.log import Commit, Message
from storage.refusals import Use

FIRST_PROMISE = 600.0
"""Seconds that a reader may take until it is first heard of."""
UNASSIGNED = 15.0
"""Seconds without an assignment after which the reason is looked for, and looked for again."""
HEARTBEATS = 5
"""How often a member is heard of before its session would end."""
_JOIN_SECONDS = 1.0
"""Seconds that a poll may take beyond those in which the group settles."""
_PATIENCE = 0.2
"""Seconds that a commit waits for a poll to end; one in which the group settles takes longer."""
_PAUSE = 0.05
_RETRY, _REFUSED_RETRY = 1.0, 5.0
"""Seconds until the group is tried again after an error, and after a refusal."""
_COMMIT_MS = 2000
_METADATA_SECONDS = 5.0

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
            self._consumer = self._join()
            self._offsets = connected(
                KafkaConsumer, place, group_id=self._group, enable_auto_commit=False
            )
        self._thread = threading.Thread(target=self._run, name=f"group-{reader}", daemon=True)
        self._thread.start()

    def parts(self) -> frozenset[str]:
        """Return the parts that are owned now; raises what keeps this reader out of the group."""
        if not self._thread.is_alive() and not self._stop.is_set():
            raise RuntimeError("the thread that keeps this reader in its group has ended")
        trouble = self._trouble
        if trouble is not None:
            raise trouble
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
        offsets = {partition_of(self._place, part): OffsetAndMetadata(position)}
        self._check(part, Commit(position, tenure))  # what is over is refused without waiting
        if not (self._is_settled and self._lock.acquire(timeout=_PATIENCE)):
            raise self._unsettled()
        try:
            self._check(part, Commit(position, tenure))
            if not self._is_settled:
                raise self._unsettled()
            with self._named():
                self._consumer.commit(offsets, _COMMIT_MS)
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
        """Give the parts to the others."""
        self._stop.set()
        self._thread.join()
        with self._lock:
            self._tenures.end()
            self._consumer.close(autocommit=False)
        self._offsets.close(autocommit=False)

    def assigned(self, partitions: Any) -> None:
        """Take over what the group gave, inside a poll, and fetch nothing of it.

        What was owned before is worked on until then: nothing is taken from a reader that gets
        it back, and what is written by two is known by its name.
        """
        self._consumer.pause(*partitions)
        ours = [each.partition for each in partitions if each.partition < self._place.partitions]
        mine = frozenset(f"{self._topic}-{number}" for number in ours)
        member = self._consumer.group_metadata()
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
            else:
                self._poll()
                self._look_for_trouble()
        except KafkaError as error:
            self._note(error)

    def _poll(self) -> None:
        with self._lock:
            if not self._consumer.subscription():
                self._subscribe(self._consumer)
                self._ask_at = time.monotonic() + UNASSIGNED
            # Not the consumer's poll: it returns while a join goes on, and kafka-python joins anew
            # what ended between two polls. That is another generation, which some miss.
            seconds = self._place.session / 2 + _JOIN_SECONDS
            self._consumer._coordinator.poll(timeout_ms=seconds * 1000)

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
        if obstacle.is_refusal:
            self._place.refusals.note(self._use, obstacle.reason)

    def _leave(self) -> None:
        with self._lock:
            if self._tenures.is_member or self._consumer.subscription():
                _say.error("work hangs: its parts are given to others", reader=self._reader)
                self._tenures.end()
                self._consumer.unsubscribe()

    def _join(self) -> KafkaConsumer:
        session = int(self._place.session * 1000)
        consumer = connected(
            KafkaConsumer,
            self._place,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(StickyPartitionAssignor,),
            session_timeout_ms=session,
            # For so long the group waits for those that do not join again: they poll all the time.
            max_poll_interval_ms=session // 2,
            heartbeat_interval_ms=session // HEARTBEATS,
            allow_auto_create_topics=False,
        )
        self._subscribe(consumer)
        return consumer

    def _subscribe(self, consumer: KafkaConsumer) -> None:
        """Subscribe, and learn of the partitions first.

        Who joins before it knows them joins again at once, and so do all others.
        """
        consumer.subscribe([self._name], listener=_Listener(self))
        deadline = time.monotonic() + min(self._place.timeout, _METADATA_SECONDS)
        while not consumer._coordinator._metadata_snapshot.get(self._name):
            if time.monotonic() > deadline or self._stop.wait(0.01):
                return

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
        now = self._consumer.group_metadata()
        is_stable = now.state == MemberState.STABLE
        return is_stable and self._tenures.is_of(now.member_id, now.generation_id)

    @property
    def _group(self) -> str:
        return self._place.prefix + self._reader

    @property
    def _name(self) -> str:
        return self._place.prefix + self._topic


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, share: KafkaShare) -> None:
        self._share = share

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Wait for what is given instead."""

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._share.assigned(assigned)

    def on_partitions_lost(self, lost: Any) -> None:
        self._share.lost()
