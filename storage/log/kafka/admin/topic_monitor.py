"""Watch the topics of a log on Kafka: partitions that are added, topics that are deleted."""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress

import structlog
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from storage.errors import StorageBlocked, StorageError, StorageUnfit
from storage.log.kafka.admin.metadata import (
    TopicDescription,
    describe_topics,
    open_admin,
    partition_offsets,
)
from storage.log.kafka.admin.topics import (
    OPEN_TOPICS,
    too_few_partitions,
    unread_problems,
    wait_for_topics,
)
from storage.log.kafka.client.config import KafkaConfig
from storage.log.partitions import topic_of

REFRESH_SECONDS = 30.0
REPEAT_SECONDS = 3600.0
"""How often a lasting problem is logged."""
_JOIN_SECONDS = 1.0

logger = structlog.get_logger()


class TopicMonitor:
    """The topics as of the last refresh; a thread refreshes them each half minute.

    With `create_missing` a deleted topic is created again.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topics: Mapping[str, TopicDescription],
        *,
        create_missing: bool = True,
    ) -> None:
        self._config = config
        self._create_missing = create_missing
        self._topics = dict(topics)
        self._offsets: dict[str, tuple[int, int]] = {}
        self._problems: dict[str, str] = {}
        self._next_log_at: dict[str, float] = {}
        self._known_counts: dict[str, int] = {}
        self._refresh_lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-topics", daemon=True)
        self._thread.start()

    def identity(self, topic: str) -> str:
        """Return the id of a topic, which no later topic of this name has."""
        return self._topics[topic].identity

    def partition_count(self, topic: str) -> int:
        """Return how many partitions are read: those that we write to, and those added.

        Partitions added to a topic that only longwatch writes to are not read.
        """
        ours = self._config.partitions
        return max(ours, self._topics[topic].partitions) if topic in OPEN_TOPICS else ours

    def has_partition(self, topic: str, number: int) -> bool:
        """Return whether a partition exists: a recreated topic may have fewer."""
        if not self._thread.is_alive() and not self._stop.is_set():
            raise RuntimeError("the thread that watches the topics has ended")
        return number < self._topics[topic].partitions

    def problems(self) -> tuple[str, ...]:
        """Return the problems of topics as of the last refresh, a line each."""
        return tuple(self._problems.values())

    def refresh(self) -> None:
        """Describe all topics once; raises StorageDown and StorageUnfit."""
        with self._refresh_lock, open_admin(self._config) as admin:
            found, absent = describe_topics(admin, self._config)
            if absent and self._create_missing:
                found, absent = self._recreate(admin, found, absent)
            for topic in found:
                self._report_recreated(topic, found[topic])
            self._topics |= found
            with suppress(KafkaError):  # a partition has no leader: keep the known offsets
                self._offsets |= partition_offsets(admin, self._config, found)
            self._update_problems(absent)

    def close(self) -> None:
        """Stop; a refresh that waits for a broker ends by itself."""
        self._stop.set()
        self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        seconds = 0.0 if self._create_missing else REFRESH_SECONDS
        while not self._stop.wait(seconds):
            seconds = REFRESH_SECONDS
            with suppress(StorageBlocked):  # reads and appends report that the brokers are down
                try:
                    self.refresh()
                except StorageUnfit as error:
                    self._report_problem("topics", str(error))

    def _recreate(
        self,
        admin: KafkaAdminClient,
        found: dict[str, TopicDescription],
        absent: dict[str, StorageError],
    ) -> tuple[dict[str, TopicDescription], dict[str, StorageError]]:
        try:
            return wait_for_topics(admin, self._config, create_missing=True), {}
        except StorageError as error:
            return found, dict.fromkeys(absent, error)

    def _report_recreated(self, topic: str, found: TopicDescription) -> None:
        """Log which entries a deleted topic had, as far as known."""
        if found.identity == self._topics[topic].identity:
            return
        offset_ranges = {
            partition: self._offsets.pop(partition)
            for partition in sorted(self._offsets)
            if topic_of(partition) == topic
        }
        lost = [
            f"{partition} {first} to {end - 1}"
            for partition, (first, end) in offset_ranges.items()
            if first < end
        ]
        if self._create_missing:
            lost = lost or ["none known"]
            logger.error(
                "a topic was deleted and made again", topic=found.name, lost=", ".join(lost)
            )

    def _report_extra_partitions(self, topic: str, found: TopicDescription) -> None:
        """Log once that a topic has more partitions than we write to."""
        known, self._known_counts[topic] = (
            self._known_counts.get(topic, self._config.partitions),
            found.partitions,
        )
        if self._create_missing and found.partitions > max(known, self._config.partitions):
            logger.warning(
                "a topic has more partitions than log.kafka.partitions says",
                topic=found.name,
                partitions=found.partitions,
                read=self.partition_count(topic),
            )

    def _update_problems(self, absent: Mapping[str, StorageError]) -> None:
        problems = {topic: str(reason) for topic, reason in absent.items()}
        there = {topic: each for topic, each in self._topics.items() if topic not in absent}
        for topic, each in there.items():
            self._report_extra_partitions(topic, each)
            if each.partitions < self._config.partitions:
                text = too_few_partitions(self._config, each, is_empty=False, are_others_right=True)
                problems[topic] = (
                    f"topic {each.name}: {text}: cameras of the missing partitions are lost"
                )
        problems |= unread_problems(self._config, there, self._offsets)
        for gone in self._problems.keys() - problems.keys():
            del self._problems[gone]
            self._next_log_at.pop(gone, None)
        for topic, problem in problems.items():
            self._report_problem(topic, problem)

    def _report_problem(self, topic: str, problem: str) -> None:
        """Log a problem when it begins, and each hour."""
        now = time.monotonic()
        self._problems[topic] = problem
        if self._create_missing and now >= self._next_log_at.get(topic, 0.0):
            self._next_log_at[topic] = now + REPEAT_SECONDS
            logger.error("trouble with a topic", topic=topic, reason=problem)
