"""How topics are to be configured, and what is wrong with one that is configured otherwise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from storage.kafka_place import KafkaPlace
from storage.retention import Retention

SEGMENTS = 10
"""What is kept goes by segments: a tenth more than asked is kept at most, or one `largest`."""
_SMALLEST, _LARGEST = 2**20, 2**30
"""Bytes of a segment: fewer are refused by Kafka 4, more than 2**31 by every release."""
_SHORTEST = timedelta(seconds=10)
"""Brokers delete every few minutes: shorter segments would only be more files until then."""


def configuration(place: KafkaPlace, kept: Retention, replicas: int) -> dict[str, str]:
    """Return how a topic with this many replicas is to be configured.

    The broker's clock stamps every entry, so that it takes those of a machine whose own is wrong
    and drops them on time. What is kept is at most a segment more than asked, and what came
    since the broker last looked (log.retention.check.interval.ms).
    """
    segment = max(kept.keep_bytes // SEGMENTS, place.largest, _SMALLEST)
    return {
        "cleanup.policy": "delete",
        "retention.ms": _milliseconds(kept.keep_for),
        "retention.bytes": str(kept.keep_bytes),
        "segment.ms": _milliseconds(max(kept.keep_for / SEGMENTS, _SHORTEST)),
        "segment.bytes": str(max(min(segment, _LARGEST), place.largest)),
        "max.message.bytes": str(place.largest),
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2" if replicas >= 3 else "1",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A key of a topic's configuration that is not as it should be."""

    key: str
    found: str
    needed: str

    def __str__(self) -> str:
        return f"{self.key} is {self.found}, {self.needed} is needed"


def losses(wanted: Mapping[str, str], found: Mapping[str, str | None]) -> list[Difference]:
    """Return where a topic would drop or refuse what it has to keep; what it hides is let pass."""
    least = {**wanted, "segment.bytes": wanted["max.message.bytes"]}
    return _differences(_LOSES, least, found)


def blemishes(wanted: Mapping[str, str], found: Mapping[str, str | None]) -> list[Difference]:
    """Return where a topic keeps more than asked, or is less safe, and loses nothing by itself."""
    return _differences(_IS_WORSE, wanted, found)


def alteration(place: KafkaPlace, topic: str, changes: list[Difference]) -> str:
    """Return the command that configures a topic as it should be."""
    pairs = ",".join(f"{each.key}={each.needed}" for each in changes)
    return (
        f"kafka-configs.sh --bootstrap-server {place.bootstrap[0]} --alter"
        f" --entity-type topics --entity-name {topic} --add-config {pairs}"
    )


def _differences(
    rules: Mapping[str, Callable[[str, str], bool]],
    wanted: Mapping[str, str],
    found: Mapping[str, str | None],
) -> list[Difference]:
    return [
        Difference(key=key, found=has, needed=wanted[key])
        for key, is_wrong in rules.items()
        if (has := found.get(key)) is not None and is_wrong(has, wanted[key])
    ]


def _differs(found: str, needed: str) -> bool:
    return found != needed


def _is_less(found: str, needed: str) -> bool:
    return 0 <= int(found) < int(needed)


def _is_more(found: str, needed: str) -> bool:
    return int(found) < 0 or int(found) > int(needed)


_LOSES = {
    "cleanup.policy": _differs,
    "max.message.bytes": _is_less,
    "segment.bytes": _is_less,
    "retention.ms": _is_less,
    "retention.bytes": _is_less,
}
_IS_WORSE = {
    "message.timestamp.type": _differs,
    "retention.ms": _is_more,
    "retention.bytes": _is_more,
    "segment.ms": _is_more,
    "segment.bytes": _is_more,
    "min.insync.replicas": _is_less,
}


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))
