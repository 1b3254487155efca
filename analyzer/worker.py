"""The analyzer process: read windows from the log, append findings to the log."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta

import structlog

from analyzer.intake.committer import BLOCKED_WAIT, OffsetCommitter
from analyzer.intake.coverage import EntryOutcome
from analyzer.intake.outcomes import HandledEntry, dead_letter_outcome, outcome_of
from analyzer.intake.queue import OpenIncidents, WindowQueue
from analyzer.intake.reader import FeedReader
from analyzer.intake.requests import RequestQueue
from analyzer.intake.restore import StateRestorer, window_of
from analyzer.intake.shedding import (
    AnalysisLoad,
    PendingWindow,
    first_of_each_camera,
    most_urgent_first,
    windows_to_shed,
)
from analyzer.kv.budget import MAX_WINDOWS_PER_STEP
from analyzer.watcher import Watcher
from storage.clock import TOLERANCE, ClockReading, read_clock
from storage.errors import StorageBlocked, Unreadable
from storage.log.clock_guard import ClockGuard, EntryTimestamp, clock_ahead_reason
from storage.log.log import Log, LogEntry
from storage.log.partitions import paired_partition
from storage.loop import repeat
from storage.records.records import CoverageState, Window
from storage.records.topics import FINDINGS, INCIDENTS, REQUESTS, WINDOWS

GROUP = "analyzer"
STEP_TIMEOUT = 120.0
"""Seconds without a keepalive after which the process counts as hung."""
BATCH_SIZE = MAX_WINDOWS_PER_STEP
"""Windows that go through the model at a time."""
OVERLOAD_BACKLOG = 64
"""Windows of a partition that wait in memory under overload."""
IDLE_WAIT = 0.5
"""Seconds between checks for newly assigned partitions."""

logger = structlog.get_logger()


class AnalyzerWorker:
    """Reads the windows of its partitions in order; commits each after its findings are appended.

    Several analyzers share the partitions. An analyzer restores the memories of a partition that
    it gains from the log, and forgets the cameras of one that it loses. If analysis is slower than
    the cameras, it sheds windows and claims each of them as shed. A window that ends more than
    `tolerance` after our clock is a dead letter; while our own clock is in doubt, all wait.
    """

    def __init__(
        self,
        log: Log,
        watcher: Watcher,
        keepalive: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        tolerance: timedelta = TOLERANCE,
        now: Callable[[], ClockReading] = read_clock,
    ) -> None:
        self.log = log
        self.watcher = watcher
        self._membership = log.join_group(GROUP, WINDOWS)
        self._reader = FeedReader(log)
        self._restorer = StateRestorer(log, watcher, self._keepalive_step)
        self._keepalive = keepalive
        self._clock = clock
        self._clock_guard = ClockGuard(log, tolerance, now)
        self._queues: dict[str, WindowQueue] = {}
        self._committer = OffsetCommitter(
            self._membership, self._queues, self._revoke, self._keepalive_step
        )
        self._requests: dict[str, RequestQueue] = {}
        self._load = AnalysisLoad()
        self._open_incidents: dict[str, OpenIncidents] = {}
        self._analysed_at: dict[str, float] = {}
        self._shed_count = 0

    def run(self, stop: threading.Event) -> None:
        """Handle windows until `stop` is set; pause while storage is blocked."""
        try:
            repeat(
                lambda: self.run_once(stop) + self._reply_all(),
                stop,
                logger,
                seconds=IDLE_WAIT,
                wait=self._reader.wait,
                eager=True,
                blocked_seconds=BLOCKED_WAIT,
                blocked_event="analysis waits",
            )
        finally:
            self._membership.close()
            self._reader.close()

    def keepalive(self, seconds: float) -> None:
        """Promise the supervisor and the consumer group the next keepalive within `seconds`."""
        self._keepalive(seconds)
        self._membership.keepalive(seconds)

    def _keepalive_step(self) -> None:
        self.keepalive(STEP_TIMEOUT)

    def rebalance(self) -> int:
        """Assign the partitions that were gained, revoke those that were lost.

        Return how many windows were read again from the log to restore memories; none of them
        is answered again.
        """
        self._keepalive_step()
        owned = {
            partition: self._membership.generation(partition)
            for partition in self._membership.partitions()
        }
        for partition, queue in list(self._queues.items()):
            if owned.get(partition) != queue.generation:
                self._revoke(partition)
        windows = sum(
            self._assign(partition, owned[partition])
            for partition in sorted(owned.keys() - self._queues.keys())
        )
        if windows:
            logger.info("rehearsed", windows=windows)
        return windows

    def run_once(self, stop: threading.Event) -> int:
        """Handle the windows that wait now, of different cameras together; return how many."""
        self.rebalance()
        if not self._clock_guard.refresh():
            self._reader.read(self._requests.values())
            return 0
        self._committer.commit(set(self._queues))
        pending = self._fetch()
        if not self._check_clocks():
            return 0
        if self._load.update():
            return self._step_overloaded(stop, pending)
        handled = 0
        while pending and not stop.is_set():
            batch = first_of_each_camera(pending)[:BATCH_SIZE]
            self._decode_ahead(batch, pending)
            if not self._step(stop, batch):
                break
            handled += len(batch)
            rest = (each for each in pending if each not in batch)
            pending = [each for each in rest if each.partition in self._queues]
        return handled

    def _decode_ahead(
        self, batch: Sequence[PendingWindow], pending: Sequence[PendingWindow]
    ) -> None:
        """Start to decode this batch, and the next one while the model reads this one."""
        if not self.watcher.can_decode_ahead:
            return
        rest = [each for each in pending if each not in batch]
        for each in (*batch, *first_of_each_camera(rest)[:BATCH_SIZE]):
            with suppress(Unreadable):  # its own batch makes it a dead letter
                self.watcher.prepare(window_of(self._queues[each.partition].entry(each.offset)))

    def _fetch(self) -> list[PendingWindow]:
        """Read on in all partitions up to their limits; return all that wait in order of arrival.

        Incidents are read only under overload.
        """
        for queue in self._queues.values():
            queue.limit = OVERLOAD_BACKLOG if self._load.is_overloaded else BATCH_SIZE
        incidents = self._open_incidents.values() if self._load.is_overloaded else ()
        for each in incidents:
            each.seek_to_recent(self.log)
        feeds = (*self._queues.values(), *self._requests.values(), *incidents)
        for page in self._reader.read(feeds):
            if page.partition in self._queues:
                for entry in page:
                    self._load.record_arrival(page.partition, entry.at.timestamp())
        pending = [each for queue in self._queues.values() for each in queue.pending()]
        return sorted(pending, key=lambda each: each.arrived_at)

    def _check_clocks(self) -> bool:
        """Compare new windows with our clock; return whether our own clock is plausible."""
        for queue in self._queues.values():
            entries = queue.unchecked()
            ahead = self._clock_guard.find_implausible([_window_stamp(entry) for entry in entries])
            if ahead is None:
                return False
            queue.mark_checked([entries[nth].offset for nth in ahead])
        present = self._clock_guard.current_time
        self.watcher.forget_after(present.now + present.tolerance)
        return True

    def _step_overloaded(self, stop: threading.Event, pending: Sequence[PendingWindow]) -> int:
        """Shed the excess and handle the most urgent; return how many were shed or handled."""
        open_cameras = set[str]().union(*(each.cameras for each in self._open_incidents.values()))
        to_shed = windows_to_shed(pending, open_cameras)
        if not self._committer.finish(stop, [self._shed_window(each) for each in to_shed]):
            return 0
        rest = (each for each in pending if each not in to_shed)
        kept = [each for each in rest if each.partition in self._queues]
        ranked = most_urgent_first(kept, open_cameras, self._analysed_at, self._clock())
        batch = ranked[: self._load.batch_size(BATCH_SIZE)]
        stepped = bool(batch) and self._step(stop, batch)
        return len(to_shed) + (len(batch) if stepped else 0)

    def _shed_window(self, pending: PendingWindow) -> HandledEntry:
        entry = self._queues[pending.partition].entry(pending.offset)
        try:
            window = self._decode_window(entry)
            if window.is_set_back:  # the memory would skip the windows after it as replays
                self.watcher.start_over(window.camera)
            outcome = EntryOutcome(
                topic=FINDINGS, values=[], state=CoverageState.SHED, window=window
            )
        except Unreadable as error:
            outcome = dead_letter_outcome(entry, error)
        self._shed_count += 1
        if self._shed_count & (self._shed_count - 1) == 0:
            logger.warning(
                "analysis is slower than the cameras: windows shed", count=self._shed_count
            )
        return self._with_claims(entry, outcome)

    def _step(self, stop: threading.Event, batch: Sequence[PendingWindow]) -> bool:
        """Handle a batch; return False if `stop` came first."""
        self._keepalive_step()
        entries = [self._queues[each.partition].entry(each.offset) for each in batch]
        began = self._clock()
        outcomes = self._analyse(entries)
        ended = self._clock()
        self._load.record_batch(ended - began, len(entries))
        self._analysed_at |= dict.fromkeys((entry.key for entry in entries), ended)
        return self._committer.finish(stop, list(map(self._with_claims, entries, outcomes)))

    def _with_claims(self, entry: LogEntry, outcome: EntryOutcome) -> HandledEntry:
        claims = self._queues[entry.topic].gaps.record(entry.key, outcome)
        return HandledEntry(entry=entry, outcome=outcome, claims=claims)

    def _revoke(self, partition: str) -> None:
        """Drop a partition and the state of its cameras."""
        for camera in {*self.watcher.cameras, *self._analysed_at}:
            if self.log.partition_for(WINDOWS, camera) == partition:
                self.watcher.forget(camera)
                self._analysed_at.pop(camera, None)
        self._load.forget(partition)
        for by_partition in (self._queues, self._open_incidents, self._requests):
            by_partition.pop(partition, None)

    def _assign(self, partition: str, generation: int) -> int:
        """Restore the state of a partition from the log; return how many windows were read."""
        end = self._membership.committed(partition)
        queue = WindowQueue(partition, end, generation)
        try:
            self._restorer.restore_answers(paired_partition(partition, FINDINGS))
            windows = self._restorer.restore_memories(queue, end)
            requests = paired_partition(partition, REQUESTS)
            self._requests[partition] = RequestQueue(requests, self._membership.committed(requests))
        except StorageBlocked:
            self._revoke(partition)
            raise
        self._queues[partition] = queue
        self._open_incidents[partition] = OpenIncidents(paired_partition(partition, INCIDENTS))
        return windows

    def _reply_all(self) -> int:
        """Reply to the fetched requests of people; return how many there were."""
        return sum(self._reply_in_partition(part) for part in list(self._queues))

    def _reply_in_partition(self, partition: str) -> int:
        def commit(requests: str, offset: int) -> None:
            self._keepalive_step()
            self._membership.commit(requests, offset, self._queues[partition].generation)

        return self._requests[partition].reply_all(self.log, self.watcher, commit)

    def _analyse(self, batch: Sequence[LogEntry]) -> list[EntryOutcome]:
        """Return the outcome of each entry; an unreadable one leaves the others unaffected."""
        outcomes, windows = dict[int, EntryOutcome](), dict[int, Window]()
        for nth, entry in enumerate(batch):
            try:
                windows[nth] = self._decode_window(entry)
            except Unreadable as error:
                outcomes[nth] = dead_letter_outcome(entry, error)
        answers = self.watcher.step_all(list(windows.values()))
        for nth, each in zip(windows, answers, strict=True):
            outcomes[nth] = outcome_of(batch[nth], each)
        return [outcomes[nth] for nth in range(len(batch))]

    def _decode_window(self, entry: LogEntry) -> Window:
        """Decode a window; raise Unreadable, also if its clock is ahead of ours."""
        window = window_of(entry)
        queue = self._queues.get(entry.topic)
        if queue is not None and queue.is_ahead(entry.offset):
            raise Unreadable(clock_ahead_reason(window.end, self._clock_guard.current_time))
        return window


def _window_stamp(entry: LogEntry) -> EntryTimestamp | None:
    try:
        end = window_of(entry).end
    except Unreadable:  # its batch makes it a dead letter
        return None
    return EntryTimestamp(camera=entry.key, at=end, appended_at=entry.at)
