"""Group membership by Kafka's consumer groups.

The group's consumer fetches nothing: a thread polls it, so that it stays in the group while the
model computes; another consumer reads the entries.
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

from storage.errors import OffsetMoved, StorageDown, StorageError
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.errors import translate_errors
from storage.log.kafka.client.network import create_client, to_topic_partition
from storage.log.kafka.client.refusals import ResourceOperation
from storage.log.kafka.groups.join_failures import (
    JoinFailure,
    JoinFailureKind,
    PartitionGenerations,
    diagnose_unassigned,
    join_refusal,
)
from storage.log.kafka.groups.member import GroupMember
from storage.log.log import LogMessage, OffsetCommit
from storage.log.partitions import paired_partition

FIRST_KEEPALIVE = 600.0
"""Seconds that a member may take until its first keepalive."""
UNASSIGNED_SECONDS = 15.0
"""Seconds without an assignment between two diagnoses."""
_COMMIT_WAIT = 0.2
"""Seconds that a commit waits for a poll to end; a rebalance takes longer."""
_POLL_PAUSE = 0.05
_RETRY_SECONDS, _REFUSED_RETRY_SECONDS = 1.0, 5.0
"""Seconds until the next attempt after an error, and after a refusal."""

logger = structlog.get_logger()


class KafkaGroupMembership:
    """The partitions that the group assigned to this member.

    kafka-python commits in the generation that it has when it sends, not in that of the read. So
    the owned partitions change only inside a poll, and a commit compares generations under the
    lock of the poll: it refuses entries read before the group continued without this member.
    """

    def __init__(
        self,
        config: KafkaConfig,
        group: str,
        topic: str,
        append: Callable[[Sequence[LogMessage]], None],
    ) -> None:
        self._config = config
        self._append = append
        self._group = group
        self._topic = topic
        self._lock = threading.Lock()
        self._deadline = time.monotonic() + FIRST_KEEPALIVE
        self._generations = PartitionGenerations()
        self._error: StorageError | None = None
        self._was_member = False
        self._last_warning = ""
        self._diagnose_at = time.monotonic() + UNASSIGNED_SECONDS
        self._operation = ResourceOperation(group=self._group_id, operation="READ")
        self._stop = threading.Event()
        with translate_errors(config):
            self._member = GroupMember(
                config, self._group_id, config.prefix + topic, _RebalanceListener(self), self._stop
            )
            self._offset_consumer = create_client(
                KafkaConsumer, config, group_id=self._group_id, enable_auto_commit=False
            )
        self._thread = threading.Thread(target=self._run, name=f"group-{group}", daemon=True)
        self._thread.start()

    def partitions(self) -> frozenset[str]:
        """Return the partitions owned now; raises the error that keeps us out of the group."""
        error = self._error
        if error is not None:
            raise error
        if not self._thread.is_alive() and not self._stop.is_set():
            raise RuntimeError("the thread that keeps this member in its group has ended")
        return self._generations.partitions

    def generation(self, partition: str) -> int:
        """Return the number of the assignment since which we own the partition without a break."""
        return self._generations.generation(partition)

    def committed(self, partition: str) -> int:
        """Return the next offset for the owner; 0 if none was ever committed."""
        milliseconds = self._config.timeout * 1000
        with self._translate_errors():
            found = self._offset_consumer.committed(
                to_topic_partition(self._config, partition), timeout_ms=milliseconds
            )
        return found or 0

    def commit(self, partition: str, offset: int, generation: int) -> None:
        """Commit the next offset; OffsetMoved if the generation is over."""
        commit = OffsetCommit(offset, generation)
        self._check_owner(partition, commit)  # a stale commit does not wait
        if not (self._is_current_generation and self._lock.acquire(timeout=_COMMIT_WAIT)):
            raise self._rebalancing_error()
        try:
            self._check_owner(partition, commit)
            if not self._is_current_generation:
                raise self._rebalancing_error()
            with self._translate_errors():
                self._member.commit(to_topic_partition(self._config, partition), offset)
        finally:
            self._lock.release()

    def append(self, messages: Sequence[LogMessage], commits: Mapping[str, OffsetCommit]) -> bool:
        """Append messages in order; return False: the offsets are not committed yet."""
        for partition, commit in commits.items():
            self._check_owner(partition, commit)
        self._append(messages)
        return False

    def keepalive(self, seconds: float) -> None:
        """Promise another call within `seconds`; without one this member leaves the group."""
        self._deadline = time.monotonic() + seconds

    def close(self) -> None:
        """Leave the group, or keep the partitions for the next process of our static name."""
        self._stop.set()
        self._thread.join()
        with self._lock:
            self._generations.clear()
            self._member.close()
        self._offset_consumer.close(autocommit=False)

    def take_assignment(self, partitions: Any) -> None:
        """Record an assignment, inside a poll, and fetch nothing.

        The member works on its old partitions until then, so it loses no partition that it gets
        back; an entry that two members write is recognised by its id.
        """
        if self._stop.is_set():
            return  # the sign-off rejoins
        self._member.pause(partitions)
        ours = [each.partition for each in partitions if each.partition < self._config.partitions]
        assigned = frozenset(f"{self._topic}-{number}" for number in ours)
        member = self._member.state
        if assigned != self._generations.partitions:
            logger.info("parts assigned", reader=self._group, parts=sorted(assigned))
        self._generations.update(assigned, member.member_id, member.generation_id)
        self._error, self._was_member, self._last_warning = None, True, ""
        self._config.refusals.clear(self._operation)

    def drop_assignment(self) -> None:
        """Record, inside a poll, that the group continues without this member."""
        self._generations.clear()
        self._diagnose_at = time.monotonic() + UNASSIGNED_SECONDS

    def _check_owner(self, partition: str, commit: OffsetCommit) -> None:
        owned = paired_partition(partition, self._topic)
        if not commit.generation or self._generations.generation(owned) != commit.generation:
            raise OffsetMoved(self._group, partition, commit.offset)

    def _run(self) -> None:
        """Poll, until the promised keepalive is overdue."""
        while not self._stop.wait(_POLL_PAUSE):
            self._run_once()

    def _run_once(self) -> None:
        try:
            if time.monotonic() > self._deadline:
                self._leave()
            elif failure := self._join_failure():
                self._set_failure(failure)
                self._stop.wait(_RETRY_SECONDS)
            else:
                self._poll()
                self._diagnose()
        except KafkaError as error:
            self._handle_error(error)

    def _join_failure(self) -> JoinFailure | None:
        """Return why the group cannot be joined yet, or None."""
        return None if self._member.is_subscribed else self._member.find_join_failure()

    def _poll(self) -> None:
        with self._lock:
            if not self._member.is_subscribed:
                self._member.subscribe()
                self._diagnose_at = time.monotonic() + UNASSIGNED_SECONDS
            self._member.poll()

    def _diagnose(self) -> None:
        """Find out why there was no assignment for long: a poll does not report it."""
        if not self._generations.is_member and time.monotonic() >= self._diagnose_at:
            first = to_topic_partition(self._config, f"{self._topic}-0")
            self._set_failure(
                diagnose_unassigned(self._config, self._group_id, self._offset_consumer, first)
            )
            self._diagnose_at = time.monotonic() + UNASSIGNED_SECONDS

    def _handle_error(self, error: KafkaError) -> None:
        """Record the error of a poll if it keeps us out of the group, and pause."""
        failure = join_refusal(self._config, self._group_id, error)
        name = type(error).__name__
        if failure is not None:
            self._set_failure(failure)
        elif not self._generations.is_member and time.monotonic() >= self._diagnose_at:
            self._set_failure(JoinFailure(f"group {self._group_id}: {name}"))
        elif name != self._last_warning:
            logger.warning("group not reached", reader=self._group, reason=name)
            self._last_warning = name
        self._stop.wait(_RETRY_SECONDS if failure is None else _REFUSED_RETRY_SECONDS)

    def _set_failure(self, failure: JoinFailure) -> None:
        """Let `partitions` raise it until the next assignment."""
        self._error = failure.to_error(self._config, at_start=not self._was_member)
        if failure.kind is JoinFailureKind.REFUSED:
            self._config.refusals.record(self._operation, failure.reason)
        if failure.kind is JoinFailureKind.NAME_CONFLICT:
            self._generations.clear()

    def _leave(self) -> None:
        with self._lock:
            if self._generations.is_member or self._member.is_subscribed:
                logger.error(
                    "no keepalive from the worker: leaving the consumer group", reader=self._group
                )
                self._generations.clear()
                self._member.leave()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn errors of kafka-python, also those of a group, into errors of storage."""
        with translate_errors(self._config):
            try:
                yield
            except (CommitFailedError, RebalanceInProgressError):
                raise self._rebalancing_error() from None
            except KafkaError as error:
                refused = join_refusal(self._config, self._group_id, error)
                if refused is None:
                    raise
                raise refused.to_error(self._config, at_start=not self._was_member) from None

    def _rebalancing_error(self) -> StorageDown:
        return StorageDown(self._config.name, "the group is rebalancing")

    @property
    def _is_current_generation(self) -> bool:
        """Return whether the client is still in the generation of the assignment."""
        now = self._member.state
        is_stable = now.state == MemberState.STABLE
        return is_stable and self._generations.is_current(now.member_id, now.generation_id)

    @property
    def _group_id(self) -> str:
        return self._config.prefix + self._group


class _RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, membership: KafkaGroupMembership) -> None:
        self._membership = membership

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Wait for the next assignment."""

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._membership.take_assignment(assigned)

    def on_partitions_lost(self, lost: Any) -> None:
        self._membership.drop_assignment()
