"""Fetched entries of a partition that are not read yet."""

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any

from storage.log.entry_keys import printable_key
from storage.log.kafka.fetch.records import RecordFault
from storage.log.log import LogEntry, LogPage


class FetchBuffer:
    """All entries of a partition from `first_offset` to before `next_offset`."""

    def __init__(self, partition: str, offset: int) -> None:
        self.partition = partition
        self.first_offset = offset
        self.next_offset = offset
        self.size = 0
        self._entries = deque[LogEntry]()
        self._start_offset = 0

    def __len__(self) -> int:
        return len(self._entries)

    def has_offset(self, offset: int) -> bool:
        """Return whether entries from an offset need no further fetch."""
        return self.first_offset <= offset <= self.next_offset

    def append(self, records: Iterable[Any], next_offset: int) -> None:
        """Add the records that follow, up to `next_offset`."""
        partition = self.partition
        found = [_decode_entry(partition, record) for record in records]
        self.size += sum([len(entry.value) for entry in found])
        self._entries.extend(found)
        self.next_offset = max(self.next_offset, next_offset)

    def skip_to(self, start_offset: int) -> None:
        """Skip the offsets that the log dropped, up to the first one kept."""
        self._start_offset = self.next_offset = start_offset

    def take_page(self, offset: int, limit: int) -> LogPage:
        """Return entries from an offset, and forget those before it."""
        entries = self._entries
        while entries and entries[0].offset < offset:
            self.size -= len(entries.popleft().value)
        self.first_offset = offset
        found = list(islice(entries, limit))
        next_offset = self.next_offset
        if len(found) < len(entries):
            next_offset = found[-1].offset + 1 if found else offset
        missed = max(0, min(self._start_offset, next_offset) - offset)
        return LogPage(
            found, partition=self.partition, offset=offset, next_offset=next_offset, missed=missed
        )


def _decode_entry(partition: str, record: Any) -> LogEntry:
    if type(record.headers) is RecordFault:
        value, fault = b"", str(record.headers)
    else:
        value, fault = record.value or b"", ""
    return LogEntry(
        partition, record.offset, printable_key(record.key), record.timestamp * 1000, value, fault
    )
