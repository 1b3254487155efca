"""The configuration that topics need, and how that of a topic differs from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from storage.log.kafka.client.config import KafkaConfig
from storage.log.retention import TopicRetention

SEGMENTS = 10
"""Brokers delete whole segments: at most a tenth more than asked is kept, or one `largest`."""
_SMALLEST, _LARGEST = 2**20, 2**30
"""Bytes of a segment: Kafka 4 refuses fewer, every release more than 2**31."""
_SHORTEST = timedelta(seconds=10)
"""Brokers delete every few minutes: shorter segments would only add files."""


def build_topic_config(
    config: KafkaConfig, retention: TopicRetention, replicas: int
) -> dict[str, str]:
    """Return the configuration that a topic with this many replicas needs.

    The broker stamps every entry, so it accepts those of a machine whose clock is wrong, and
    drops them on time. It keeps at most a segment more than asked, and what came since its last
    check (log.retention.check.interval.ms).
    """
    segment = max(retention.keep_bytes // SEGMENTS, config.largest, _SMALLEST)
    return {
        "cleanup.policy": "delete",
        "retention.ms": _milliseconds(retention.keep_for),
        "retention.bytes": str(retention.keep_bytes),
        "segment.ms": _milliseconds(max(retention.keep_for / SEGMENTS, _SHORTEST)),
        "segment.bytes": str(max(min(segment, _LARGEST), config.largest)),
        "max.message.bytes": str(config.largest),
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2" if replicas >= 3 else "1",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDifference:
    """A key of a topic's configuration with a value other than needed."""

    key: str
    found: str
    required: str

    def __str__(self) -> str:
        return f"{self.key} is {self.found}, {self.required} is needed"


def harmful_differences(
    required: Mapping[str, str], found: Mapping[str, str | None]
) -> list[ConfigDifference]:
    """Return differences that drop or refuse entries; a value that is not reported passes."""
    minimum = {**required, "segment.bytes": required["max.message.bytes"]}
    return _find_differences(_HARMFUL, minimum, found)


def harmless_differences(
    required: Mapping[str, str], found: Mapping[str, str | None]
) -> list[ConfigDifference]:
    """Return differences that keep more than asked, or are less safe, but lose nothing."""
    return _find_differences(_HARMLESS, required, found)


def alter_command(config: KafkaConfig, topic: str, changes: list[ConfigDifference]) -> str:
    """Return the command that changes a topic's configuration."""
    pairs = ",".join(f"{each.key}={each.required}" for each in changes)
    return (
        f"kafka-configs.sh --bootstrap-server {config.bootstrap[0]} --alter"
        f" --entity-type topics --entity-name {topic} --add-config {pairs}"
    )


def _find_differences(
    rules: Mapping[str, Callable[[str, str], bool]],
    required: Mapping[str, str],
    found: Mapping[str, str | None],
) -> list[ConfigDifference]:
    return [
        ConfigDifference(key=key, found=value, required=required[key])
        for key, is_wrong in rules.items()
        if (value := found.get(key)) is not None and is_wrong(value, required[key])
    ]


def _is_different(found: str, required: str) -> bool:
    return found != required


def _is_less(found: str, required: str) -> bool:
    return 0 <= int(found) < int(required)


def _is_more(found: str, required: str) -> bool:
    return int(found) < 0 or int(found) > int(required)


_HARMFUL = {
    "cleanup.policy": _is_different,
    "max.message.bytes": _is_less,
    "segment.bytes": _is_less,
    "retention.ms": _is_less,
    "retention.bytes": _is_less,
}
_HARMLESS = {
    "message.timestamp.type": _is_different,
    "retention.ms": _is_more,
    "retention.bytes": _is_more,
    "segment.ms": _is_more,
    "segment.bytes": _is_more,
    "min.insync.replicas": _is_less,
}


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))
