"""Restore the state of a partition from the log."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from statistics import median_low

from analyzer.intake.queue import WindowQueue
from analyzer.kv.budget import MAX_WINDOWS_PER_STEP
from analyzer.watcher import Watcher
from storage.errors import Unreadable
from storage.log.log import Log, LogEntry, read_range
from storage.records.records import Window
from storage.records.topics import FINDINGS
from storage.records.wire import decode_finding, decode_window

RESTORED_FINDINGS = 20_000
"""Findings before the end that are read, over all partitions."""
CLOCK_SLACK = timedelta(minutes=2)
"""How far beyond the horizon windows are read, because clocks differ."""

_UNDECODED = Unreadable("not a window")


class StateRestorer:
    """Rebuilds memories from windows, and past answers from findings, so that none is repeated.

    `keepalive` is called before each step of the model.
    """

    def __init__(self, log: Log, watcher: Watcher, keepalive: Callable[[], None]) -> None:
        self._log = log
        self._watcher = watcher
        self._keepalive = keepalive

    def restore_answers(self, partition: str) -> None:
        """Restore the answers in a partition of the findings."""
        last = self._log.end_offset(partition)
        first = max(
            self._log.start_offset(partition),
            last - RESTORED_FINDINGS // len(self._log.partitions(FINDINGS)),
        )
        for entry in read_range(self._log, partition, first, last, at_once=1000):
            try:
                self._watcher.restore_finding(decode_finding(entry.value))
            except Unreadable:  # alerts makes it a dead letter
                continue

    def restore_memories(self, queue: WindowQueue, end: int) -> int:
        """Restore the memories of a partition as of `end`; return how many windows were read."""
        retained = self._entries_in_horizon(queue.partition, end)
        batches = iter(lambda: list(islice(retained, MAX_WINDOWS_PER_STEP)), [])
        return sum(self._restore_batch(queue, batch) for batch in batches)

    def _restore_batch(self, queue: WindowQueue, batch: Sequence[LogEntry]) -> int:
        """Read a batch again; unreadable entries became dead letters when they were first read."""
        self._keepalive()
        readable = dict[int, Window]()
        for entry in batch:
            try:
                readable[entry.offset] = window_of(entry)
            except Unreadable:
                continue
        failures = self._watcher.restore(list(readable.values()))
        failed = dict(zip(readable, failures, strict=True))
        for entry in batch:
            is_whole = not isinstance(failed.get(entry.offset, _UNDECODED), Unreadable)
            queue.gaps.restore(entry.key, readable=is_whole)
        return sum(failure is None for failure in failures)

    def _entries_in_horizon(self, partition: str, end: int) -> Iterator[LogEntry]:
        """Yield the entries before `end` that may be within the horizon of their camera."""
        end = min(end, self._log.end_offset(partition))  # the log may have lost entries
        first, oldest = end, self._log.start_offset(partition)
        scan = _HorizonScan(self._watcher.plan.horizon + CLOCK_SLACK)
        while first > oldest and not scan.is_enough:
            before, first = first, max(oldest, first - MAX_WINDOWS_PER_STEP)
            scan.extend(list(read_range(self._log, partition, first, before)))
        for entry in read_range(self._log, partition, first, end, at_once=MAX_WINDOWS_PER_STEP):
            if entry.offset not in scan.offsets_beyond:
                yield entry


class _HorizonScan:
    """The age of the windows of a partition, which is scanned backwards.

    Ages are by the clock of each camera's host, compared with itself alone: the clock of the log
    may step when a leader moves. `offsets_beyond` are older than the horizon.
    """

    def __init__(self, horizon: timedelta) -> None:
        self._span = horizon
        self._age = timedelta()
        self._newest: dict[str, datetime] = {}
        self.offsets_beyond: set[int] = set()

    @property
    def is_enough(self) -> bool:
        """Return whether all earlier entries are beyond the horizon."""
        return self._age > self._span

    def extend(self, page: Sequence[LogEntry]) -> None:
        """Scan the entries before those that were scanned so far."""
        ages = list[timedelta]()
        for entry in reversed(page):
            with suppress(Unreadable):
                end = window_of(entry).end
                # A camera that is silent since then is as old as the others.
                age = self._newest.setdefault(entry.key, end + self._age) - end
                ages.append(age)
                if age > self._span:
                    self.offsets_beyond.add(entry.offset)
        if ages:  # the median, because single clocks may have been set
            self._age = max(self._age, median_low(ages))


def window_of(entry: LogEntry) -> Window:
    """Decode the window of an entry; raise Unreadable if it is none, or of another camera."""
    window = decode_window(entry.value)
    if window.camera != entry.key:
        raise Unreadable("the window of another camera")
    return window
