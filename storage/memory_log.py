"""A log in the memory of one process."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from threading import Event
from uuid import uuid4

from storage.changes import Changes
from storage.errors import BeyondEnd, PositionMoved
from storage.log import (
    Commit,
    Entry,
    Everything,
    InTurn,
    Message,
    Page,
    expired,
    microseconds,
    now_for,
    part_with,
)


@dataclass(slots=True)
class _Topic:
    oldest: int = 0
    entries: list[Entry] = field(default_factory=list)

    @property
    def next(self) -> int:
        return self.oldest + len(self.entries)


class MemoryLog:
    """A log in the memory of one process, for tests and backtests; topics may have many parts."""

    def __init__(self, parts: int = 1, now: Callable[[], datetime] | None = None) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._parts = parts
        self._identity = str(uuid4())
        self._topics: defaultdict[str, _Topic] = defaultdict(_Topic)
        self._committed: dict[tuple[str, str], int] = {}
        self._appends = 0
        self._changes = Changes(lambda: self._appends)
        self._groups: dict[tuple[str, str], _Group] = {}

    def parts(self, topic: str) -> tuple[str, ...]:
        """Return the parts of a topic, in order; where there is one it is the topic itself."""
        if self._parts == 1:
            return (topic,)
        return tuple(f"{topic}-{number}" for number in range(self._parts))

    def part_of(self, topic: str, key: str) -> str:
        """Return the part of a topic that a key is in."""
        return part_with(self.parts(topic), key)

    def identity(self, part: str) -> str:
        """Return what tells this log from any other."""
        return self._identity

    def join(self, reader: str, topic: str) -> Everything:
        """Take a share of a topic among all that joined as the same reader."""
        if self._parts == 1:
            return Everything(self, reader, topic)
        group = self._groups.setdefault((reader, topic), _Group(self.parts(topic)))
        return _MemoryShare(self, reader, topic, group)

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Write all values; return the position of the last in its part."""
        return self.append_all(topic, [(key, value) for value in values])

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Write values of different keys; return the position of the last in its part."""
        at = now_for(values)
        if self._now is not None:
            at = microseconds(self._now())
        with self._lock:
            for key, value in values:
                part = self.part_of(topic, key)
                kept = self._topics[part]
                position = kept.next
                entry = Entry(part, position, key, at, value)
                kept.entries.append(entry)
            self._appends += 1
            return position

    def append_messages(self, messages: Sequence[Message]) -> None:
        """Write messages in order."""
        for (topic, key), run in groupby(messages, lambda each: (each.topic, each.key)):
            self.append(topic, key, *(each.value for each in run))

    def read(self, part: str, position: int, limit: int = 100, key: str | None = None) -> Page:
        """Return at most `limit` entries at or after `position`, in order, perhaps of one key."""
        with self._lock:
            kept = self._topics[part]
            if position > kept.next:
                raise BeyondEnd(part, position, kept.next)
            first = max(position, kept.oldest)
            later = islice(kept.entries, first - kept.oldest, None)
            entries = list(islice((e for e in later if key in (None, e.key)), limit))
            behind = entries[-1].position + 1 if entries else first
            next = behind if len(entries) == limit else kept.next
        missed = first - position
        return Page(entries, part=part, position=position, next=next, missed=missed)

    def follow(self) -> InTurn:
        """Return a reader for who reads on all the time."""
        return InTurn(self)

    def oldest(self, part: str) -> int:
        """Return the first position still kept; `next` when none is."""
        with self._lock:
            return self._topics[part].oldest

    def next(self, part: str) -> int:
        """Return the position that the next append will get."""
        with self._lock:
            return self._topics[part].next

    def committed(self, reader: str, part: str) -> int:
        """Return the position where this reader goes on; 0 when it never committed."""
        with self._lock:
            return self._committed.get((reader, part), 0)

    def commit(self, reader: str, part: str, position: int) -> None:
        """Keep the position where this reader goes on."""
        with self._lock:
            self._committed[reader, part] = position

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when something was appended, `stop` is set, or the time is over."""
        self._changes.wait(stop, seconds)

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries beyond this many bytes in a part or this age; return how many."""
        cutoff, total = datetime.now(UTC) - keep_for, 0
        with self._lock:
            for part in self.parts(topic):
                kept = self._topics[part]
                rows = [(entry.at < cutoff, len(entry.value)) for entry in kept.entries]
                gone = expired(rows, sum(size for _, size in rows) - keep_bytes)
                del kept.entries[: len(gone)]
                kept.oldest += len(gone)
                total += len(gone)
        return total

    def close(self) -> None:
        """Do nothing: there is no file."""


class _Group:
    """Who shares a topic: every part is owned by one of them, in turn."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = parts
        self._sharers: list[_MemoryShare] = []
        self._owners: dict[str, _MemoryShare] = {}
        self._tenures = dict.fromkeys(parts, 0)

    def join(self, share: "_MemoryShare") -> None:
        self._sharers.append(share)
        self._settle()

    def leave(self, share: "_MemoryShare") -> None:
        self._sharers.remove(share)
        self._settle()

    def owned(self, share: "_MemoryShare") -> dict[str, int]:
        """Return what one owns, with the tenures."""
        return {part: self._tenures[part] for part, by in self._owners.items() if by is share}

    def _settle(self) -> None:
        for nth, part in enumerate(self._parts if self._sharers else ()):
            owner = self._sharers[nth % len(self._sharers)]
            if self._owners.get(part) is not owner:
                self._owners[part] = owner
                self._tenures[part] += 1
        if not self._sharers:
            self._owners.clear()


class _MemoryShare(Everything):
    """The parts that one of a group owns."""

    def __init__(self, log: MemoryLog, reader: str, topic: str, group: _Group) -> None:
        super().__init__(log, reader, topic)
        self._topic = topic
        self._group = group
        group.join(self)

    def parts(self) -> frozenset[str]:
        """Return the parts that are owned now."""
        return frozenset(self._group.owned(self))

    def tenure(self, part: str) -> int:
        """Return how often the part had changed hands when this reader got it."""
        return self._group.owned(self).get(part, 0)

    def commit(self, part: str, position: int, tenure: int) -> None:
        """Keep the position where the owner goes on; PositionMoved where its tenure is over."""
        self._check(part, Commit(position, tenure))
        super().commit(part, position, tenure)

    def append(self, messages: Sequence[Message], commits: Mapping[str, Commit]) -> bool:
        """Append messages in order; PositionMoved, and nothing appended, where a tenure is over."""
        for part, commit in commits.items():
            self._check(part, commit)
        return super().append(messages, commits)

    def close(self) -> None:
        """Give the parts to the others."""
        self._group.leave(self)

    def _check(self, part: str, commit: Commit) -> None:
        own = f"{self._topic}-{part.rpartition('-')[2]}"
        if self._group.owned(self).get(own) != commit.tenure:
            raise PositionMoved(self._reader, part, commit.position)
