"""A share of a topic's parts, by Kafka's consumer groups.

The group's consumer fetches nothing: a thread of its own polls it, so that the broker hears of
this reader while the model takes its time, and the entries are read elsewhere.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from storage.errors import PositionMoved, StorageDown
from storage.kafka_client import connected
from storage.kafka_errors import named
from storage.kafka_place import KafkaPlace
from storage.kafka_reader import partition_of
from storage.log import Message

FIRST_PROMISE = 600.0
"""Seconds that a reader may take until it is first heard of."""
_POLL_MS = 20
_SETTLING_MS = 500
"""A poll while the group settles: kafka-python joins anew where it ended between two polls."""
_PATIENCE = 0.2
"""Seconds that a commit waits for a poll to end."""
_PAUSE = 0.03
_COMMIT_MS = 2000

_say = structlog.get_logger("storage.kafka")


class KafkaShare:
    """The partitions that the group gave to this reader."""

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
        self._owned = frozenset[str]()
        self._tenures: dict[str, int] = {}
        self._generation = 0
        self._given: frozenset[str] | None = None
        self._was_lost = False
        self._stop = threading.Event()
        with named(place):
            self._consumer = self._join()
            self._offsets = connected(
                KafkaConsumer, place, group_id=place.prefix + reader, enable_auto_commit=False
            )
        self._thread = threading.Thread(target=self._run, name=f"group-{reader}", daemon=True)
        self._thread.start()

    def parts(self) -> frozenset[str]:
        """Return the parts that are owned now."""
        return self._owned

    def tenure(self, part: str) -> int:
        """Return the generation of the group since which the part has been owned throughout."""
        return self._tenures.get(part, 0)

    def committed(self, part: str) -> int:
        """Return the position where the owner goes on; 0 when none ever committed."""
        milliseconds = self._place.timeout * 1000
        with named(self._place):
            found = self._offsets.committed(
                partition_of(self._place, part), timeout_ms=milliseconds
            )
        return found or 0

    def commit(self, part: str, position: int) -> None:
        """Keep the position where the owner goes on; PositionMoved where another owns it now."""
        number = part.rpartition("-")[2]
        if f"{self._topic}-{number}" not in self._owned:
            raise PositionMoved(self._reader, part, position)
        offsets = {partition_of(self._place, part): OffsetAndMetadata(position)}
        if not self._lock.acquire(timeout=_PATIENCE):
            raise StorageDown(self._place.name, "it is settled who reads what")
        try:
            with named(self._place):
                self._consumer.commit(offsets, _COMMIT_MS)
        finally:
            self._lock.release()

    def append(self, messages: Sequence[Message], positions: Mapping[str, int]) -> bool:
        """Append messages in order; return False: the positions are to be committed next."""
        self._append(messages)
        return False

    def promise(self, seconds: float) -> None:
        """Say that this reader will be heard of within so many seconds."""
        self._deadline = time.monotonic() + seconds

    def close(self) -> None:
        """Give the parts to the others."""
        self._stop.set()
        self._thread.join()
        self._owned = frozenset()
        with self._lock:
            self._consumer.close(autocommit=False)
        self._offsets.close(autocommit=False)

    def _run(self) -> None:
        """Poll, except while the reader is silent for longer than it promised."""
        while not self._stop.wait(0 if self._is_settling else _PAUSE):
            try:
                if time.monotonic() > self._deadline:
                    self._leave()
                else:
                    self._poll()
            except KafkaError as error:
                _say.warning("group not reached", reader=self._reader, reason=type(error).__name__)
                self._stop.wait(1.0)

    def _poll(self) -> None:
        with self._lock:
            if not self._consumer.subscription():
                self._consumer.subscribe([self._name], listener=_Pausing(self))
            self._consumer.poll(_SETTLING_MS if self._is_settling else _POLL_MS)
            given, self._given = self._given, None
            generation = self._consumer.group_metadata().generation_id
        if given is not None:
            self._settle(given, generation)

    def _settle(self, mine: frozenset[str], generation: int) -> None:
        """Take over what the group gave; in two generations on end nobody else had it between."""
        goes_on = generation <= self._generation + 1 and not self._was_lost
        held = self._tenures if goes_on else {}
        self._tenures = {part: held.get(part, generation) for part in mine}
        self._generation, self._was_lost = generation, False
        if mine != self._owned:
            _say.info("parts assigned", reader=self._reader, parts=sorted(mine))
        self._owned = mine

    def _leave(self) -> None:
        if self._owned or self._consumer.subscription():
            _say.error("work hangs: its parts are given to others", reader=self._reader)
            self._owned, self._was_lost = frozenset(), True
            with self._lock:
                self._consumer.unsubscribe()

    def _join(self) -> KafkaConsumer:
        consumer = connected(
            KafkaConsumer,
            self._place,
            group_id=self._place.prefix + self._reader,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(StickyPartitionAssignor,),
            session_timeout_ms=int(self._place.session * 1000),
            # For so long the group waits for those that do not join again: they poll all the time.
            max_poll_interval_ms=int(self._place.session * 1000 / 2),
            heartbeat_interval_ms=int(self._place.session * 1000 / 5),
            allow_auto_create_topics=False,
        )
        consumer.subscribe([self._name], listener=_Pausing(self))
        return consumer

    @property
    def _is_settling(self) -> bool:
        return bool(self._consumer._coordinator.rejoining)

    @property
    def _name(self) -> str:
        return self._place.prefix + self._topic

    def lost(self) -> None:
        """Note that the group went on without this reader: others may own what it had."""
        self._was_lost = True

    def assigned(self, partitions: Any) -> None:
        """Take note of what the group gave, and fetch nothing of it.

        What was owned before is worked on until then: nothing is taken from a reader that gets
        it back, and what is written by two is known by its name.
        """
        self._consumer.pause(*partitions)
        ours = [each.partition for each in partitions if each.partition < self._place.partitions]
        self._given = frozenset(f"{self._topic}-{number}" for number in ours)


class _Pausing(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, share: KafkaShare) -> None:
        self._share = share

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Wait for what is given instead."""

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._share.assigned(assigned)

    def on_partitions_lost(self, lost: Any) -> None:
        self._share.lost()
