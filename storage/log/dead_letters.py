"""Dead letters: entries that could not be decoded, kept to be requeued later."""

from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import sha256

from storage.errors import Unreadable
from storage.log.entry_keys import UNKNOWN_KEY, printable_key
from storage.log.log import Log, LogEntry, read_range
from storage.log.partitions import topic_of
from storage.records.claims import decode_claim
from storage.records.records import DeadLetter
from storage.records.topics import COVERAGE, DEAD_LETTERS, FINDINGS
from storage.records.wire import MAX_ID, MAX_NAME, MAX_OFFSET, decode_dead_letter, decode_finding
from storage.text import one_line

MAX_WHOLE_BYTES = 2**16
"""Largest entry that is kept whole: no finding and no claim has more bytes."""
PREFIX_BYTES = 2**12

_DECODERS: dict[str, Callable[[bytes], object]] = {FINDINGS: decode_finding, COVERAGE: decode_claim}
"""Windows are never requeued: later windows of the camera were analyzed already."""


def build_dead_letter(entry: LogEntry, error: Unreadable) -> DeadLetter:
    """Return the dead letter of an entry that could not be decoded; it fits into every log.

    Of an entry of more than MAX_WHOLE_BYTES it has the first bytes, and the digest of all.
    """
    size = len(entry.value)
    is_whole = size <= MAX_WHOLE_BYTES
    return DeadLetter(
        topic=one_line(entry.topic, MAX_NAME) or UNKNOWN_KEY,
        offset=min(max(entry.offset, 0), MAX_OFFSET),
        key=printable_key(entry.key),
        reason=one_line(entry.fault or error.reason, MAX_ID) or "no reason was given",
        value=entry.value if is_whole else entry.value[:PREFIX_BYTES],
        size=0 if is_whole else size,
        sha256="" if is_whole else sha256(entry.value).hexdigest(),
    )


def read_dead_letters(log: Log) -> Iterator[tuple[datetime, DeadLetter]]:
    """Yield the dead letters that the log still keeps, each with the time of its append."""
    for partition in log.partitions(DEAD_LETTERS):
        for entry in read_range(
            log, partition, log.start_offset(partition), log.end_offset(partition)
        ):
            try:
                yield entry.at, decode_dead_letter(entry.value)
            except Unreadable:  # any program may write to a topic
                continue


def requeue(log: Log) -> tuple[int, int]:
    """Append dead letters that can be decoded now to their topic; return (requeued, left).

    Readers recognise each entry by its id, so one that was handled before has no effect.
    """
    requeued = left = 0
    for _, letter in read_dead_letters(log):
        topic = topic_of(letter.topic)
        if not letter.is_whole:
            left += 1
            continue
        try:
            _DECODERS[topic](letter.value)
        except (KeyError, Unreadable):
            left += 1
        else:
            log.append(topic, letter.key, letter.value)
            requeued += 1
    return requeued, left
