"""How an analyzer that gains a part of the log comes to know what its owner knew."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from statistics import median_low

from analyzer.plan import AT_ONCE
from analyzer.queue import Queue
from analyzer.watcher import Watcher
from storage.errors import Unreadable
from storage.log import FINDINGS, Entry, Log, between
from storage.records import Window
from storage.wire import decode_finding, decode_window

RECALLED = 20_000
"""Findings that are looked back upon."""
LATE = timedelta(minutes=2)
"""How far beyond the horizon windows are read: the clocks are not even."""

_TORN = Unreadable("not a window")


class Rehearsal:
    """Build memories again from the windows that the log holds; nothing is answered twice.

    What was answered is taken from the log. `alive` is called before each step of the model.
    """

    def __init__(self, log: Log, watcher: Watcher, alive: Callable[[], None]) -> None:
        self._log = log
        self._watcher = watcher
        self._alive = alive

    def recall(self, part: str) -> None:
        """Take up the answers in a part of the findings."""
        last = self._log.next(part)
        first = max(self._log.oldest(part), last - RECALLED // len(self._log.parts(FINDINGS)))
        for entry in between(self._log, part, first, last, at_once=1000):
            try:
                self._watcher.recall(decode_finding(entry.value))
            except Unreadable:  # alerts set it aside
                continue

    def rehearse(self, queue: Queue, end: int) -> int:
        """Read the windows of a part before `end` again; return how many could be read."""
        retained = self._retained(queue.part, end)
        batches = iter(lambda: list(islice(retained, AT_ONCE)), [])
        return sum(self._again(queue, batch) for batch in batches)

    def _again(self, queue: Queue, batch: Sequence[Entry]) -> int:
        """Read a batch again; what is unreadable was set aside when it was first read."""
        self._alive()
        readable = dict[int, Window]()
        for entry in batch:
            try:
                readable[entry.position] = window_of(entry)
            except Unreadable:
                continue
        failures = self._watcher.rehearse(list(readable.values()))
        failed = dict(zip(readable, failures, strict=True))
        for entry in batch:
            is_whole = not isinstance(failed.get(entry.position, _TORN), Unreadable)
            queue.seen.recall(entry.key, readable=is_whole)
        return sum(failure is None for failure in failures)

    def _retained(self, part: str, end: int) -> Iterator[Entry]:
        """Yield the windows before `end` that may reach into the horizon of their camera."""
        end = min(end, self._log.next(part))  # a log may have lost what was read
        first, oldest = end, self._log.oldest(part)
        reach = _Reach(self._watcher.plan.horizon + LATE)
        while first > oldest and not reach.is_enough:
            before, first = first, max(oldest, first - AT_ONCE)
            reach.extend(list(between(self._log, part, first, before)))
        for entry in between(self._log, part, first, end, at_once=AT_ONCE):
            if entry.position not in reach.beyond:
                yield entry


class _Reach:
    """How far back the windows of a part go that are read from the last one backwards.

    The clocks of the cameras' hosts decide, each compared with itself alone: the log's
    own may step, as where a leader moves. `beyond` are the positions out of reach.
    """

    def __init__(self, span: timedelta) -> None:
        self._span = span
        self._back = timedelta()
        self._newest: dict[str, datetime] = {}
        self.beyond: set[int] = set()

    @property
    def is_enough(self) -> bool:
        """Return whether all that is still further back is out of reach."""
        return self._back > self._span

    def extend(self, page: Sequence[Entry]) -> None:
        """Take the entries before those that were taken so far."""
        ages = list[timedelta]()
        for entry in reversed(page):
            with suppress(Unreadable):
                end = window_of(entry).end
                # A camera that fell silent meanwhile is as far back as the others are.
                age = self._newest.setdefault(entry.key, end + self._back) - end
                ages.append(age)
                if age > self._span:
                    self.beyond.add(entry.position)
        if ages:  # of most cameras: a clock may have been set
            self._back = max(self._back, median_low(ages))


def window_of(entry: Entry) -> Window:
    """Read the window in an entry; raise Unreadable where it is none, or of another camera."""
    window = decode_window(entry.value)
    if window.camera != entry.key:
        raise Unreadable("the window of another camera")
    return window
