"""The analyzer as a process: windows from the log in, findings to the log out."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

import structlog

from analyzer.intake.coverage import EntryOutcome
from analyzer.intake.outcomes import HandledEntry, dead_letter_outcome, messages_of, outcome_of
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
from storage.errors import OffsetMoved, StorageBlocked, Unreadable
from storage.log.clock_guard import ClockGuard, EntryTimestamp, clock_ahead_reason
from storage.log.log import Log, LogEntry, LogMessage, OffsetCommit
from storage.log.partitions import paired_partition
from storage.loop import repeat, retry_until_done
from storage.records.records import CoverageState, Window
from storage.records.topics import FINDINGS, INCIDENTS, REQUESTS, WINDOWS

GROUP = "analyzer"
STEP_TIMEOUT = 120.0
"""Seconds that a step may take before the process counts as hung."""
BATCH_SIZE = MAX_WINDOWS_PER_STEP
"""Windows that go through the model at a time."""
OVERLOAD_BACKLOG = 64
"""Windows of a part that are looked through under overload."""
IDLE_WAIT, BLOCKED_WAIT = 0.5, 5.0
"""Seconds between looks for parts that were gained, and between tries where storage is blocked."""

logger = structlog.get_logger()


class AnalyzerWorker:
    """Reads the windows of its share in order, and commits each after its findings are written.

    Of several analyzers each has a share of the parts. One that gains a part rehearses it from
    the log, one that loses a part forgets its cameras. Where analysis is slower than the cameras
    windows are shed, and each of them is claimed so. A window that is ahead of our clock by more
    than `tolerance` is set aside; while our own clock is in doubt, none is handled.
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
        self._restorer = StateRestorer(log, watcher, lambda: self.keepalive(STEP_TIMEOUT))
        self._keepalive = keepalive
        self._clock = clock
        self._clock_guard = ClockGuard(log, tolerance, now)
        self._queues: dict[str, WindowQueue] = {}
        self._requests: dict[str, RequestQueue] = {}
        self._load = AnalysisLoad()
        self._open_incidents: dict[str, OpenIncidents] = {}
        self._analysed_at: dict[str, float] = {}
        self._shed_count = 0
        self._is_commit_delayed = False

    def run(self, stop: threading.Event) -> None:
        """Handle windows until `stop` is set; wait where storage is blocked."""
        try:
            repeat(
                lambda: self.run_once(stop) + self._reply_all(),
                stop,
                logger,
                seconds=IDLE_WAIT,
                wait=self._reader.wait,
                eager=True,
                blocked_seconds=BLOCKED_WAIT,
            )
        finally:
            self._membership.close()
            self._reader.close()

    def keepalive(self, seconds: float) -> None:
        """Say that this process will be heard of within so many seconds, to whom it concerns."""
        self._keepalive(seconds)
        self._membership.keepalive(seconds)

    def rebalance(self) -> int:
        """Take up the parts that were gained, drop those that were lost; return windows read.

        The memories are built again from the windows that the log still holds. Nothing is
        answered twice; what was answered is taken from the log.
        """
        self.keepalive(STEP_TIMEOUT)
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
        """Handle the windows waiting now, of different cameras together; return how many."""
        self.rebalance()
        if not self._clock_guard.refresh():
            self._reader.read(self._requests.values())
            return 0
        self._commit(set(self._queues))
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
            pending = [each for each in pending if each not in batch and self._is_assigned(each)]
        return handled

    def _decode_ahead(
        self, batch: Sequence[PendingWindow], pending: Sequence[PendingWindow]
    ) -> None:
        """Begin to decode this batch and the next one, where the device is another than the host's.

        The next one is decoded while the model reads this one.
        """
        if not self.watcher.can_decode_ahead:
            return
        rest = [each for each in pending if each not in batch]
        for each in (*batch, *first_of_each_camera(rest)[:BATCH_SIZE]):
            with suppress(Unreadable):  # it is set aside when its turn comes
                self.watcher.prepare(window_of(self._queues[each.partition].entry(each.offset)))

    def _fetch(self) -> list[PendingWindow]:
        """Read on in all parts, as far as there is room; return what waits, as it came.

        Which cameras have an open incident is only asked under overload.
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
        """Judge the instants of the windows that came; return whether our clock is believed."""
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
        """Shed what is too much, and read what is needed most; return how many were handled."""
        open_cameras = set[str]().union(*(each.cameras for each in self._open_incidents.values()))
        to_shed = windows_to_shed(pending, open_cameras)
        if not self._write_and_release(stop, [self._shed_window(each) for each in to_shed]):
            return 0
        kept = [each for each in pending if each not in to_shed and self._is_assigned(each)]
        ranked = most_urgent_first(kept, open_cameras, self._analysed_at, self._clock())
        batch = ranked[: self._load.batch_size(BATCH_SIZE)]
        stepped = bool(batch) and self._step(stop, batch)
        return len(to_shed) + (len(batch) if stepped else 0)

    def _shed_window(self, pending: PendingWindow) -> HandledEntry:
        entry = self._queues[pending.partition].entry(pending.offset)
        try:
            window = self._decode_window(entry)
            if window.is_set_back:  # those after it would be taken as replays
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
        """Handle a batch; say whether it was done before `stop`."""
        self.keepalive(STEP_TIMEOUT)
        entries = [self._queues[each.partition].entry(each.offset) for each in batch]
        began = self._clock()
        outcomes = self._analyse(entries)
        ended = self._clock()
        self._load.record_batch(ended - began, len(entries))
        self._analysed_at |= dict.fromkeys((entry.key for entry in entries), ended)
        return self._write_and_release(stop, list(map(self._with_claims, entries, outcomes)))

    def _with_claims(self, entry: LogEntry, outcome: EntryOutcome) -> HandledEntry:
        claims = self._queues[entry.topic].gaps.record(entry.key, outcome)
        return HandledEntry(entry=entry, outcome=outcome, claims=claims)

    def _write_and_release(self, stop: threading.Event, handled: Sequence[HandledEntry]) -> bool:
        """Write what came of entries and let go of them; return whether it was before `stop`."""
        while handled:
            commits = self._commits(handled)
            try:
                is_committed = self._append(stop, messages_of(handled), commits)
            except OffsetMoved as error:
                self._hand_over(error)
                handled = [each for each in handled if each.entry.topic in self._queues]
                continue
            if is_committed is None:
                return False
            for each in handled:
                self._queues[each.entry.topic].release(each.entry.offset)
            if is_committed:
                for partition, commit in commits.items():
                    self._queues[partition].committed_offset = commit.offset
            else:
                self._commit(set(commits))
            break
        return True

    def _commits(self, handled: Sequence[HandledEntry]) -> dict[str, OffsetCommit]:
        """Return where each part goes on once these are done, and under which tenure."""
        offsets_by_partition: dict[str, set[int]] = {}
        for each in handled:
            offsets_by_partition.setdefault(each.entry.topic, set()).add(each.entry.offset)
        queues = {part: self._queues[part] for part in offsets_by_partition}
        return {
            part: OffsetCommit(
                queue.commit_offset_without(offsets_by_partition[part]), queue.generation
            )
            for part, queue in queues.items()
        }

    def _commit(self, partitions: set[str]) -> None:
        """Commit what was done or passed; where that is not possible now, before the next look."""
        for partition in partitions & self._queues.keys():
            queue = self._queues[partition]
            if queue.commit_offset == queue.committed_offset:
                continue
            try:
                self._membership.commit(partition, queue.commit_offset, queue.generation)
                queue.committed_offset = queue.commit_offset
                self._is_commit_delayed = False
            except OffsetMoved as error:
                self._hand_over(error)
            except StorageBlocked as error:
                if not self._is_commit_delayed:
                    logger.info("not committed yet", part=partition, reason=str(error))
                self._is_commit_delayed = True
                return

    def _hand_over(self, error: OffsetMoved) -> None:
        logger.warning("another analyzer took over", part=error.partition, reason=str(error))
        self._revoke(error.partition)

    def _is_assigned(self, pending: PendingWindow) -> bool:
        return pending.partition in self._queues

    def _revoke(self, partition: str) -> None:
        """Forget a part, and all that is known of its cameras."""
        for camera in self.watcher.cameras:
            if self.log.partition_for(WINDOWS, camera) == partition:
                self.watcher.forget(camera)
        self._load.forget(partition)
        for by_partition in (self._queues, self._open_incidents, self._requests):
            by_partition.pop(partition, None)

    def _assign(self, partition: str, generation: int) -> int:
        """Rehearse a part; return how many windows were read."""
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
        """Reply to the requests of people that were read; return how many were looked at."""
        return sum(self._reply_in_partition(part) for part in list(self._queues))

    def _reply_in_partition(self, partition: str) -> int:
        """Reply to those that are in the part that pairs off with a part of the windows."""

        def commit(requests: str, position: int) -> None:
            self.keepalive(STEP_TIMEOUT)
            self._membership.commit(requests, position, self._queues[partition].generation)

        return self._requests[partition].reply_all(self.log, self.watcher, commit)

    def _analyse(self, batch: Sequence[LogEntry]) -> list[EntryOutcome]:
        """Return what comes of each entry; what cannot be read costs the others nothing."""
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
        """Read a window; raise Unreadable for one whose clock is ahead of ours, too."""
        window = window_of(entry)
        queue = self._queues.get(entry.topic)
        if queue is not None and queue.is_ahead(entry.offset):
            raise Unreadable(clock_ahead_reason(window.end, self._clock_guard.current_time))
        return window

    def _append(
        self,
        stop: threading.Event,
        messages: Sequence[LogMessage],
        commits: Mapping[str, OffsetCommit],
    ) -> bool | None:
        """Append, waiting out a full disk; return whether positions were kept, None for `stop`.

        The windows are part of the memory by now and would be passed over if they were read
        again, so what came of them is held on to.
        """

        def append() -> bool:
            self.keepalive(STEP_TIMEOUT)
            return self._membership.append(messages, commits)

        return retry_until_done(append, stop, logger, seconds=BLOCKED_WAIT)


def _window_stamp(entry: LogEntry) -> EntryTimestamp | None:
    try:
        end = window_of(entry).end
    except Unreadable:  # it is set aside when its turn comes
        return None
    return EntryTimestamp(camera=entry.key, at=end, appended_at=entry.at)
