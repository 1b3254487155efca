"""What could not be read and was set aside, and what of it can be read by now."""

from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import sha256

from storage.claims import decode_claim
from storage.errors import Unreadable
from storage.keys import STRANGER, key_of
from storage.log import COVERAGE, DEAD, FINDINGS, Entry, Log, between
from storage.text import one_line
from storage.wire import MAX_ID, MAX_NAME, MAX_POSITION, Dead, decode_dead, decode_finding

WHOLE = 2**16
"""Bytes up to which an entry is kept whole: no finding and no claim may have more."""
FIRST_BYTES = 2**12

_READERS: dict[str, Callable[[bytes], object]] = {FINDINGS: decode_finding, COVERAGE: decode_claim}
"""Windows are not among them: their camera has gone on."""


def dead_of(entry: Entry, error: Unreadable) -> Dead:
    """Return what is kept of an entry that could not be read; every log takes it.

    An entry of more than WHOLE bytes is no finding and no claim: the first bytes are kept, and
    the digest of all.
    """
    size = len(entry.value)
    is_whole = size <= WHOLE
    return Dead(
        topic=one_line(entry.topic, MAX_NAME) or STRANGER,
        position=min(max(entry.position, 0), MAX_POSITION),
        key=key_of(entry.key),
        reason=one_line(entry.fault or error.reason, MAX_ID) or "no reason was given",
        value=entry.value if is_whole else entry.value[:FIRST_BYTES],
        size=0 if is_whole else size,
        sha256="" if is_whole else sha256(entry.value).hexdigest(),
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
        if not dead.is_whole:
            left += 1
            continue
        try:
            _READERS[topic](dead.value)
        except (KeyError, Unreadable):
            left += 1
        else:
            log.append(topic, dead.key, dead.value)
            again += 1
    return again, left
