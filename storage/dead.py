"""What could not be read and was set aside, and what of it can be read by now."""

from collections.abc import Callable, Iterator
from datetime import datetime

from storage.claims import decode_claim
from storage.errors import Unreadable
from storage.log import COVERAGE, DEAD, FINDINGS, Entry, Log, between
from storage.wire import Dead, decode_dead, decode_finding

_READERS: dict[str, Callable[[bytes], object]] = {FINDINGS: decode_finding, COVERAGE: decode_claim}
"""Windows are not among them: their camera has gone on."""


def dead_of(entry: Entry, error: Unreadable) -> Dead:
    """Return what is kept of an entry that could not be read."""
    return Dead(
        topic=entry.topic,
        position=entry.position,
        key=entry.key,
        reason=entry.fault or error.reason,
        value=entry.value,
    )


def set_aside(log: Log) -> Iterator[tuple[datetime, Dead]]:
    """Yield what is set aside as long as the log keeps it, and when it was."""
    for part in log.parts(DEAD):
        for entry in between(log, part, log.oldest(part), log.next(part)):
            try:
                yield entry.at, decode_dead(entry.value)
            except Unreadable:  # anybody may write to a topic
                continue


def append_again(log: Log) -> tuple[int, int]:
    """Append what can be read by now to where it was; return how many, and how many are left.

    Who reads them knows each by its name, so that nothing comes of one that was known.
    """
    again = left = 0
    for _, dead in set_aside(log):
        topic = dead.topic.partition("-")[0]
        try:
            _READERS[topic](dead.value)
        except (KeyError, Unreadable):
            left += 1
        else:
            log.append(topic, dead.key, dead.value)
            again += 1
    return again, left
