"""A member of a group of Kafka: the consumer by which a process is given partitions of a topic."""

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
"""How often a member is heard of before the session of one that is not static would end."""
_JOIN_SECONDS = 1.0
"""Seconds that a poll may take beyond those in which the group settles."""
_SIGN_OFF_MS = 2000
_COMMIT_MS = 2000
_METADATA_SECONDS = 5.0


class GroupMember:
    """A consumer that fetches nothing: the group hears of it while others read what it is given.

    Without a name (`place.static`) it leaves its group whenever it stops. With one it keeps its
    partitions for the process that comes after it. Used by one thread at a time.
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
            # For so long the group waits for those that do not join again: they poll all the time.
            max_poll_interval_ms=int(config.session * 1000) // 2,
            heartbeat_interval_ms=int(config.session * 1000) // HEARTBEATS_PER_SESSION,
            allow_auto_create_topics=False,
        )

    @property
    def is_subscribed(self) -> bool:
        """Return whether it is in its group, or on its way there."""
        return bool(self._consumer.subscription())

    @property
    def state(self) -> ConsumerGroupMetadata:
        """Return the generation that the client is in, and its id there."""
        return self._consumer.group_metadata()

    def find_join_failure(self) -> JoinFailure | None:
        """Return why its name cannot be taken now; raises KafkaError."""
        return None if self._name_check is None else self._name_check.find_join_failure()

    def subscribe(self) -> None:
        """Subscribe, and learn of the partitions first.

        Who joins before it knows them joins again at once, and so do all others.
        """
        self._consumer.subscribe([self._topic], listener=self._listener)
        deadline = time.monotonic() + min(self._config.timeout, _METADATA_SECONDS)
        while not self._consumer._coordinator._metadata_snapshot.get(self._topic):
            if time.monotonic() > deadline or self._stop.wait(0.01):
                return

    def poll(self) -> None:
        """Join, where that is due, and be heard of; raises KafkaError."""
        # Not the consumer's poll: it returns while a join goes on, and kafka-python joins anew
        # what ended between two polls. That is another generation, which some miss.
        seconds = self._config.session / 2 + _JOIN_SECONDS
        self._consumer._coordinator.poll(timeout_ms=seconds * 1000)
        if self._is_fenced:
            raise FencedInstanceIdError(self._static_member)

    def pause(self, topic_partitions: set[TopicPartition]) -> None:
        """Fetch nothing of these."""
        self._consumer.pause(*topic_partitions)

    def commit(self, topic_partition: TopicPartition, offset: int) -> None:
        """Commit with the generation that the client has when it sends; raises KafkaError."""
        self._consumer.commit({topic_partition: OffsetAndMetadata(offset)}, _COMMIT_MS)

    def leave(self) -> None:
        """Give the partitions to others at once, under a name, too; raises KafkaError."""
        member = self.state.member_id
        self._consumer.unsubscribe()
        if self._static_member is not None:
            remove_static_member(self._config, self._group_id, self._static_member.name, member)

    def close(self) -> None:
        """Leave the group, or say in it that who comes next may have the name."""
        if self._static_member is not None and self.state.state == MemberState.STABLE:
            self._sign_off()
        self._consumer.close(autocommit=False)

    def _sign_off(self) -> None:
        """Take our own name anew, as one that has stopped: no generation ends by that."""
        coordinator = self._consumer._coordinator
        with suppress(KafkaError):  # without it who comes next waits
            coordinator._net.run(self._send_heartbeat)
            self._assignor.owner = replace(self._owner, has_stopped=True)
            coordinator.reset_generation()
            coordinator.poll(timeout_ms=_SIGN_OFF_MS)

    async def _send_heartbeat(self) -> None:
        """Be heard of once more; raises KafkaError where the name is another's by now."""
        coordinator = self._consumer._coordinator
        sent = coordinator._manager.call_soon(coordinator._send_heartbeat_request)
        await coordinator._manager.wait_for(sent, _SIGN_OFF_MS)

    @property
    def _is_fenced(self) -> bool:
        """Return whether another process took the name.

        kafka-python (3.0.12) logs that, is heard of no more, and tells nobody.
        """
        coordinator = self._consumer._coordinator
        is_member = coordinator.state is MemberState.STABLE and not coordinator.rejoining
        return self._static_member is not None and is_member and not coordinator._heartbeat_enabled
