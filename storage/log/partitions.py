"""The names of partitions: `findings-3`, or `findings` in a log of one partition."""

from collections.abc import Sequence
from zlib import crc32


def partition_names(topic: str, count: int) -> tuple[str, ...]:
    """Return the partitions of a topic in order; a single one is called like the topic."""
    return (topic,) if count == 1 else tuple(f"{topic}-{number}" for number in range(count))


def partition_for_key(partitions: Sequence[str], key: str) -> str:
    """Return the partition that a key is in, the same in every process and release."""
    return partitions[crc32(key.encode()) % len(partitions)]


def topic_of(partition: str) -> str:
    """Return the topic that a partition is part of."""
    return partition.partition("-")[0]


def partition_number(partition: str) -> int:
    """Return the number of a partition in its topic."""
    return int(partition.partition("-")[2] or 0)


def paired_partition(partition: str, topic: str) -> str:
    """Return the partition of `topic` with the same number: it has the same keys."""
    return topic + partition[len(topic_of(partition)) :]
