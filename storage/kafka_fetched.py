"""Entries of a partition that were fetched, and not yet read to the end."""

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any

from storage.kafka_records import Fault
from storage.keys import key_of
from storage.log import Entry, Page


class Fetched:
    """Entries of a part from `first` on, and what is known of all positions before `next`."""

    def __init__(self, part: str, position: int) -> None:
        self.part = part
        self.first = position
        self.next = position
        self.size = 0
        self._entries = deque[Entry]()
        self._oldest = 0

    def __len__(self) -> int:
        return len(self._entries)

    def holds(self, position: int) -> bool:
        """Return whether reading may go on at a position without fetching it again."""
        return self.first <= position <= self.next

    def add(self, records: Iterable[Any], next: int) -> None:
        """Take records that follow, and the position behind them and behind what is no entry."""
        part = self.part
        found = [_entry(part, record) for record in records]
        self.size += sum([len(entry.value) for entry in found])
        self._entries.extend(found)
        self.next = max(self.next, next)

    def forget(self, oldest: int) -> None:
        """Note that the log no longer keeps what would follow, up to the oldest that it has."""
        self._oldest = self.next = oldest

    def page(self, position: int, limit: int) -> Page:
        """Return entries from a position on, and let go of those before it."""
        entries = self._entries
        while entries and entries[0].position < position:
            self.size -= len(entries.popleft().value)
        self.first = position
        found = list(islice(entries, limit))
        goes_on = self.next
        if len(found) < len(entries):
            goes_on = found[-1].position + 1 if found else position
        missed = max(0, min(self._oldest, goes_on) - position)
        return Page(found, part=self.part, position=position, next=goes_on, missed=missed)


def _entry(part: str, record: Any) -> Entry:
    if type(record.headers) is Fault:
        value, fault = b"", str(record.headers)
    else:
        value, fault = record.value or b"", ""
    return Entry(part, record.offset, key_of(record.key), record.timestamp * 1000, value, fault)
