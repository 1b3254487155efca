"""What could not be read and was set aside, and what of it can be read by now."""

from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import sha256

from storage.errors import Unreadable
from storage.log.entry_keys import UNKNOWN_KEY, printable_key
from storage.log.log import COVERAGE, DEAD_LETTERS, FINDINGS, Log, LogEntry, read_range
from storage.records.claims import decode_claim
from storage.records.records import DeadLetter
from storage.records.wire import MAX_ID, MAX_NAME, MAX_OFFSET, decode_dead_letter, decode_finding
from storage.text import one_line

MAX_WHOLE_BYTES = 2**16
"""Bytes up to which an entry is kept whole: no finding and no claim may have more."""
PREFIX_BYTES = 2**12

_DECODERS: dict[str, Callable[[bytes], object]] = {FINDINGS: decode_finding, COVERAGE: decode_claim}
"""Windows are not among them: their camera has gone on."""


def build_dead_letter(entry: LogEntry, error: Unreadable) -> DeadLetter:
    """Return what is kept of an entry that could not be read; every log takes it.

    An entry of more than WHOLE bytes is no finding and no claim: the first bytes are kept, and
    the digest of all.
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
    """Yield what is set aside as long as the log keeps it, and when it was."""
    for partition in log.partitions(DEAD_LETTERS):
        for entry in read_range(
            log, partition, log.start_offset(partition), log.end_offset(partition)
        ):
            try:
                yield entry.at, decode_dead_letter(entry.value)
            except Unreadable:  # anybody may write to a topic
                continue


def requeue(log: Log) -> tuple[int, int]:
    """Append what can be read by now to where it was; return how many, and how many are left.

    Who reads them knows each by its name, so that nothing comes of one that was known.
    """
    requeued = left = 0
    for _, letter in read_dead_letters(log):
        topic = letter.topic.partition("-")[0]
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
