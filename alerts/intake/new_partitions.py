"""Partitions that are added to a topic: read once the older ones are consumed."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby

from storage.db.alert_store import StoredOffset
from storage.log.log import Log
from storage.log.partitions import topic_of


class NewPartitions:
    """Delay partitions that were added to a topic, so that each camera stays in order.

    Kafka's default partitioner moves cameras once a topic has grown. `cursors` returns the stored
    offsets: a partition without one was never read.
    """

    def __init__(self, log: Log, cursors: Callable[[], Mapping[str, StoredOffset]]) -> None:
        self._log = log
        self._cursors = cursors
        self._known = frozenset[str]()
        self._end_offsets: dict[str, int] = {}

    def readable(self, partitions: Sequence[str]) -> list[str]:
        """Return the partitions that may be read now; raises StorageBlocked."""
        if self._known.issuperset(partitions):
            return list(partitions)
        cursors = self._cursors()
        readable = list[str]()
        for _, each in groupby(partitions, topic_of):
            readable += self._readable_of_topic(list(each), cursors)
        self._known = frozenset(readable)
        return readable

    def _readable_of_topic(
        self, partitions: list[str], cursors: Mapping[str, StoredOffset]
    ) -> list[str]:
        """Return the readable partitions of one topic."""
        before = [partition for partition in partitions if partition in cursors]
        if not before or len(before) == len(partitions) or self._check_consumed(before, cursors):
            return partitions
        return before

    def _check_consumed(
        self, partitions: Collection[str], cursors: Mapping[str, StoredOffset]
    ) -> bool:
        """Return whether partitions are consumed up to their ends at the first call."""
        self._end_offsets |= {
            partition: self._log.end_offset(partition)
            for partition in partitions
            if partition not in self._end_offsets
        }
        return all(
            self._stored_offset(partition, cursors[partition]) >= self._end_offsets[partition]
            for partition in partitions
        )

    def _stored_offset(self, partition: str, cursor: StoredOffset) -> int:
        return cursor.offset if cursor.log_identity in (None, self._log.identity(partition)) else 0
