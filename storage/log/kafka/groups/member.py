"""A member of a consumer group: the consumer to which the group assigns partitions."""

import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import FencedInstanceIdError, KafkaError
from kafka.structs import ConsumerGroupMetadata, MemberState, OffsetAndMetadata

from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.network import create_client
from storage.log.kafka.groups.join_failures import JoinFailure, session_setting
from storage.log.kafka.groups.static_membership import (
    MemberOwner,
    OwnerAssignor,
    StaticNameCheck,
    remove_static_member,
)
from storage.processes import process_identity

HEARTBEATS_PER_SESSION = 5
"""Heartbeats within the session of a member that is not static."""
_JOIN_SECONDS = 1.0
"""Seconds that a poll may take beyond the rebalance of the group."""
_SIGN_OFF_MS = 2000
_COMMIT_MS = 2000
_METADATA_SECONDS = 5.0


class GroupMember:
    """A consumer that fetches nothing: it only keeps us in the group.

    Without a name (`config.static`) it leaves its group when it stops. With one it keeps its
    partitions for the next process of that name. Used by one thread at a time.
    """

    def __init__(
        self,
        config: KafkaConfig,
        group_id: str,
        topic: str,
        listener: ConsumerRebalanceListener,
        stop: threading.Event,
    ) -> None:
        self._config = config
        self._group_id = group_id
        self._topic = topic
        self._listener = listener
        self._stop = stop
        self._static_member = static = config.static
        self._name_check = None if static is None else StaticNameCheck(config, group_id, static)
        self._owner = MemberOwner(host=socket.gethostname(), process=process_identity())
        self._assignor = OwnerAssignor(self._owner) if static else StickyPartitionAssignor()
        self._consumer = create_client(
            KafkaConsumer,
            config,
            group_id=group_id,
            group_instance_id=static.name if static else None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(self._assignor,),
            session_timeout_ms=int(session_setting(config)[1] * 1000),
            # How long the group waits for members that do not rejoin; ours poll all the time.
            max_poll_interval_ms=int(config.session * 1000) // 2,
            heartbeat_interval_ms=int(config.session * 1000) // HEARTBEATS_PER_SESSION,
            allow_auto_create_topics=False,
        )

    @property
    def is_subscribed(self) -> bool:
        """Return whether it is in its group, or joining it."""
        return bool(self._consumer.subscription())

    @property
    def state(self) -> ConsumerGroupMetadata:
        """Return the generation of the client, and its member id."""
        return self._consumer.group_metadata()

    def find_join_failure(self) -> JoinFailure | None:
        """Return why its static name is not available now; raises KafkaError."""
        return None if self._name_check is None else self._name_check.find_join_failure()

    def subscribe(self) -> None:
        """Subscribe, and wait until the partitions are known.

        A member that joins earlier rejoins at once, and makes all others rejoin.
        """
        self._consumer.subscribe([self._topic], listener=self._listener)
        deadline = time.monotonic() + min(self._config.timeout, _METADATA_SECONDS)
        while not self._consumer._coordinator._metadata_snapshot.get(self._topic):
            if time.monotonic() > deadline or self._stop.wait(0.01):
                return

    def poll(self) -> None:
        """Join if that is due, and send heartbeats; raises KafkaError."""
        # Not the consumer's poll: it returns during a join, and kafka-python starts a join that
        # ended between two polls again. That adds a generation, which some members miss.
        seconds = self._config.session / 2 + _JOIN_SECONDS
        self._consumer._coordinator.poll(timeout_ms=seconds * 1000)
        if self._is_fenced:
            raise FencedInstanceIdError(self._static_member)

    def pause(self, topic_partitions: set[TopicPartition]) -> None:
        """Stop fetching from these partitions."""
        self._consumer.pause(*topic_partitions)

    def commit(self, topic_partition: TopicPartition, offset: int) -> None:
        """Commit in the generation that the client has when it sends; raises KafkaError."""
        self._consumer.commit({topic_partition: OffsetAndMetadata(offset)}, _COMMIT_MS)

    def leave(self) -> None:
        """Leave the group at once, also as a static member; raises KafkaError."""
        member = self.state.member_id
        self._consumer.unsubscribe()
        if self._static_member is not None:
            remove_static_member(self._config, self._group_id, self._static_member.name, member)

    def close(self) -> None:
        """Leave the group, or sign off so that the next process may take the name."""
        if self._static_member is not None and self.state.state == MemberState.STABLE:
            self._sign_off()
        self._consumer.close(autocommit=False)

    def _sign_off(self) -> None:
        """Rejoin under our name as a stopped process: this ends no generation."""
        coordinator = self._consumer._coordinator
        with suppress(KafkaError):  # the next process then waits for the session to end
            coordinator._net.run(self._send_heartbeat)
            self._assignor.owner = replace(self._owner, has_stopped=True)
            coordinator.reset_generation()
            coordinator.poll(timeout_ms=_SIGN_OFF_MS)

    async def _send_heartbeat(self) -> None:
        """Send a last heartbeat; raises KafkaError if another process took the name."""
        coordinator = self._consumer._coordinator
        sent = coordinator._manager.call_soon(coordinator._send_heartbeat_request)
        await coordinator._manager.wait_for(sent, _SIGN_OFF_MS)

    @property
    def _is_fenced(self) -> bool:
        """Return whether another process took the name.

        kafka-python (3.0.12) only logs that, and stops its heartbeats.
        """
        coordinator = self._consumer._coordinator
        is_member = coordinator.state is MemberState.STABLE and not coordinator.rejoining
        return self._static_member is not None and is_member and not coordinator._heartbeat_enabled
