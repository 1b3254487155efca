"""The topics of a log on Kafka while it is in use: partitions that are added, topics that go."""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress

import structlog
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from storage.errors import StorageBlocked, StorageError, StorageUnfit
from storage.kafka_metadata import Topic, administrator, describe, offsets
from storage.kafka_place import KafkaPlace
from storage.kafka_topics import OPEN_TO_ALL, too_few, unread, wait_for_topics

LOOK_SECONDS = 30.0
AGAIN_SECONDS = 3600.0
"""How often a trouble that stays is said."""
_PATIENCE = 1.0

_say = structlog.get_logger("storage.kafka")


class TopicWatch:
    """What the topics are by now, from one look at all of them each half minute.

    A thread of its own looks, so that no reader waits. A topic that was deleted is made again,
    where topics are made.
    """

    def __init__(
        self, place: KafkaPlace, topics: Mapping[str, Topic], *, making: bool = True
    ) -> None:
        self._place = place
        self._making = making
        self._topics = dict(topics)
        self._offsets: dict[str, tuple[int, int]] = {}
        self._troubles: dict[str, str] = {}
        self._said: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-topics", daemon=True)
        self._thread.start()

    def identity(self, topic: str) -> str:
        """Return what tells a topic from any that takes its name."""
        return self._topics[topic].identity

    def partitions(self, topic: str) -> int:
        """Return how many partitions are read: those that we write to, and what others added.

        What only we write to has its partners in other topics: what was added there is not read.
        """
        ours = self._place.partitions
        return max(ours, self._topics[topic].partitions) if topic in OPEN_TO_ALL else ours

    def is_there(self, topic: str, number: int) -> bool:
        """Return whether a partition is there: a topic made again may have fewer."""
        return number < self._topics[topic].partitions

    def troubles(self) -> tuple[str, ...]:
        """Return what is wrong with topics by the last look, a line each."""
        return tuple(self._troubles.values())

    def look(self) -> None:
        """Look at all topics once; raises StorageDown and StorageUnfit."""
        with self._looking, administrator(self._place) as admin:
            found, absent = describe(admin, self._place)
            if absent and self._making:
                found, absent = self._make_again(admin, found, absent)
            for topic in found:
                self._note_identity(topic, found[topic])
            self._topics |= found
            with suppress(KafkaError):  # a partition without a leader: what was known is told
                self._offsets |= offsets(admin, self._place, found)
            self._tell(absent)

    def close(self) -> None:
        """Look no more; a look that waits for a broker ends by itself."""
        self._stop.set()
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        seconds = 0.0 if self._making else LOOK_SECONDS
        while not self._stop.wait(seconds):
            seconds = LOOK_SECONDS
            with suppress(StorageBlocked):  # who appends or reads says that the brokers are away
                try:
                    self.look()
                except StorageUnfit as error:
                    self._tell_one("topics", str(error))

    def _make_again(
        self,
        admin: KafkaAdminClient,
        found: dict[str, Topic],
        absent: dict[str, StorageError],
    ) -> tuple[dict[str, Topic], dict[str, StorageError]]:
        try:
            return wait_for_topics(admin, self._place, making=True), {}
        except StorageError as error:
            return found, dict.fromkeys(absent, error)

    def _note_identity(self, topic: str, now: Topic) -> None:
        """Say what a topic held that was deleted, as far as it is known."""
        if now.identity == self._topics[topic].identity:
            return
        held = {
            part: self._offsets.pop(part)
            for part in sorted(self._offsets)
            if part.rpartition("-")[0] == topic
        }
        lost = [
            f"{part} {first} to {end - 1}" for part, (first, end) in held.items() if first < end
        ]
        if self._making:
            lost = lost or ["nothing that is known"]
            _say.error("a topic was deleted and made again", topic=now.name, lost=", ".join(lost))

    def _note_partitions(self, topic: str, found: Topic) -> None:
        """Say once that a topic has more partitions than we write to."""
        known, self._seen[topic] = self._seen.get(topic, self._place.partitions), found.partitions
        if self._making and found.partitions > max(known, self._place.partitions):
            _say.warning(
                "a topic has more partitions than log.kafka.partitions says",
                topic=found.name,
                partitions=found.partitions,
                read=self.partitions(topic),
            )

    def _tell(self, absent: Mapping[str, StorageError]) -> None:
        troubles = {topic: str(reason) for topic, reason in absent.items()}
        there = {topic: each for topic, each in self._topics.items() if topic not in absent}
        for topic, each in there.items():
            self._note_partitions(topic, each)
            if each.partitions < self._place.partitions:
                told = too_few(self._place, each, is_empty=False, are_others_right=True)
                troubles[topic] = f"topic {each.name}: {told}: cameras of the others are lost"
        troubles |= unread(self._place, there, self._offsets)
        for gone in self._troubles.keys() - troubles.keys():
            del self._troubles[gone]
            self._said.pop(gone, None)
        for topic, trouble in troubles.items():
            self._tell_one(topic, trouble)

    def _tell_one(self, topic: str, trouble: str) -> None:
        """Say a trouble when it begins, and each hour."""
        now = time.monotonic()
        self._troubles[topic] = trouble
        if self._making and now >= self._said.get(topic, 0.0):
            self._said[topic] = now + AGAIN_SECONDS
            _say.error("trouble with a topic", topic=topic, reason=trouble)
