"""The analyzer as a process: windows from the log in, findings to the log out."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

import structlog

from analyzer.coverage import Outcome
from analyzer.handled import Handled, messages_of, outcome_of, set_aside
from analyzer.intake import Intake
from analyzer.plan import AT_ONCE
from analyzer.queue import OpenIncidents, Queue
from analyzer.rehearsal import Rehearsal, window_of
from analyzer.requests import Requests
from analyzer.shedding import Load, Waiting, by_need, in_order, shed
from analyzer.watcher import Watcher
from storage.errors import PositionMoved, StorageBlocked, Unreadable
from storage.instants import TOLERANCE, ClockGuard, ClockReading, Stamp, read_clock, refusal
from storage.log import (
    FINDINGS,
    INCIDENTS,
    REQUESTS,
    WINDOWS,
    Commit,
    Entry,
    Log,
    Message,
)
from storage.records import CoverageState, Window

READER = "analyzer"
PATIENCE = 120.0
"""Seconds that a step may take before the process counts as hung."""
BATCH = AT_ONCE
"""Windows that go through the model at a time."""
BACKLOG = 64
"""Windows of a part that are looked through under overload."""
IDLE, FULL = 0.5, 5.0
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
        promise: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        tolerance: timedelta = TOLERANCE,
        now: Callable[[], ClockReading] = read_clock,
    ) -> None:
        self.log = log
        self.watcher = watcher
        self._share = log.join(READER, WINDOWS)
        self._intake = Intake(log)
        self._rehearsal = Rehearsal(log, watcher, lambda: self.promise(PATIENCE))
        self._heard_of = promise
        self._clock = clock
        self._guard = ClockGuard(log, tolerance, now)
        self._queues: dict[str, Queue] = {}
        self._requests: dict[str, Requests] = {}
        self._load = Load()
        self._open: dict[str, OpenIncidents] = {}
        self._seen_at: dict[str, float] = {}
        self._shed = 0
        self._blocked = ""
        self._is_late = False

    def run(self, stop: threading.Event) -> None:
        """Handle windows until `stop` is set; wait where storage is blocked."""
        try:
            while not stop.is_set():
                try:
                    if not self.run_once(stop) + self._reply_all():
                        self._intake.wait(stop, IDLE)
                    self._blocked = ""
                except StorageBlocked as error:
                    self._wait_for_storage(stop, str(error))
        finally:
            self._share.close()
            self._intake.close()

    def _wait_for_storage(self, stop: threading.Event, reason: str) -> None:
        if reason != self._blocked:
            logger.error("analysis waits", reason=reason)
        self._blocked = reason
        stop.wait(FULL)

    def promise(self, seconds: float) -> None:
        """Say that this process will be heard of within so many seconds, to whom it concerns."""
        self._heard_of(seconds)
        self._share.promise(seconds)

    def rehearse(self) -> int:
        """Take up the parts that were gained, drop those that were lost; return windows read.

        The memories are built again from the windows that the log still holds. Nothing is
        answered twice; what was answered is taken from the log.
        """
        self.promise(PATIENCE)
        owned = {part: self._share.tenure(part) for part in self._share.parts()}
        for part, queue in list(self._queues.items()):
            if owned.get(part) != queue.tenure:
                self._drop(part)
        windows = sum(
            self._take_up(part, owned[part]) for part in sorted(owned.keys() - self._queues.keys())
        )
        if windows:
            logger.info("rehearsed", windows=windows)
        return windows

    def run_once(self, stop: threading.Event) -> int:
        """Handle the windows waiting now, of different cameras together; return how many."""
        self.rehearse()
        if not self._guard.look():
            self._intake.read(self._requests.values())
            return 0
        self._commit(set(self._queues))
        waiting = self._read_on()
        if not self._judge_instants():
            return 0
        if self._load.judge():
            return self._hurry(stop, waiting)
        handled = 0
        while waiting and not stop.is_set():
            batch = in_order(waiting)[:BATCH]
            self._decode_ahead(batch, waiting)
            if not self._step(stop, batch):
                break
            handled += len(batch)
            waiting = [each for each in waiting if each not in batch and self._has(each)]
        return handled

    def _decode_ahead(self, batch: Sequence[Waiting], waiting: Sequence[Waiting]) -> None:
        """Begin to decode this batch and the next one, where the device is another than the host's.

        The next one is decoded while the model reads this one.
        """
        if not self.watcher.decodes_ahead:
            return
        rest = [each for each in waiting if each not in batch]
        for each in (*batch, *in_order(rest)[:BATCH]):
            with suppress(Unreadable):  # it is set aside when its turn comes
                self.watcher.prepare(window_of(self._queues[each.part].entry(each.position)))

    def _read_on(self) -> list[Waiting]:
        """Read on in all parts, as far as there is room; return what waits, as it came.

        Which cameras have an open incident is only asked under overload.
        """
        for queue in self._queues.values():
            queue.limit = BACKLOG if self._load.is_over else BATCH
        incidents = self._open.values() if self._load.is_over else ()
        for each in incidents:
            each.begin(self.log)
        feeds = (*self._queues.values(), *self._requests.values(), *incidents)
        for page in self._intake.read(feeds):
            if page.part in self._queues:
                for entry in page:
                    self._load.arrive(page.part, entry.at.timestamp())
        waiting = [each for queue in self._queues.values() for each in queue.waiting()]
        return sorted(waiting, key=lambda each: each.at)

    def _judge_instants(self) -> bool:
        """Judge the instants of the windows that came; return whether our clock is believed."""
        for queue in self._queues.values():
            entries = queue.unjudged()
            ahead = self._guard.ahead([_stamp(entry) for entry in entries])
            if ahead is None:
                return False
            queue.judge([entries[nth].position for nth in ahead])
        present = self._guard.present
        self.watcher.forget_after(present.now + present.tolerance)
        return True

    def _hurry(self, stop: threading.Event, waiting: Sequence[Waiting]) -> int:
        """Shed what is too much, and read what is needed most; return how many were handled."""
        open_cameras = set[str]().union(*(each.cameras for each in self._open.values()))
        gone = shed(waiting, open_cameras)
        if not self._finish(stop, [self._pass_over(each) for each in gone]):
            return 0
        left = [each for each in waiting if each not in gone and self._has(each)]
        ranked = by_need(left, open_cameras, self._seen_at, self._clock())
        batch = ranked[: self._load.batch(BATCH)]
        stepped = bool(batch) and self._step(stop, batch)
        return len(gone) + (len(batch) if stepped else 0)

    def _pass_over(self, each: Waiting) -> Handled:
        entry = self._queues[each.part].entry(each.position)
        try:
            window = self._window(entry)
            if window.is_set_back:  # those after it would be taken as replays
                self.watcher.start_over(window.camera)
            outcome = Outcome(topic=FINDINGS, values=[], state=CoverageState.SHED, window=window)
        except Unreadable as error:
            outcome = set_aside(entry, error)
        self._shed += 1
        if self._shed & (self._shed - 1) == 0:
            logger.warning("analysis is slower than the cameras: windows shed", count=self._shed)
        return self._handled(entry, outcome)

    def _step(self, stop: threading.Event, batch: Sequence[Waiting]) -> bool:
        """Handle a batch; say whether it was done before `stop`."""
        self.promise(PATIENCE)
        entries = [self._queues[each.part].entry(each.position) for each in batch]
        began = self._clock()
        outcomes = self._handle(entries)
        ended = self._clock()
        self._load.work(ended - began, len(entries))
        self._seen_at |= dict.fromkeys((entry.key for entry in entries), ended)
        return self._finish(stop, list(map(self._handled, entries, outcomes)))

    def _handled(self, entry: Entry, outcome: Outcome) -> Handled:
        claims = self._queues[entry.topic].seen.claims(entry.key, outcome)
        return Handled(entry=entry, outcome=outcome, claims=claims)

    def _finish(self, stop: threading.Event, done: Sequence[Handled]) -> bool:
        """Write what came of entries and let go of them; return whether it was before `stop`."""
        while done:
            commits = self._commits(done)
            try:
                is_kept = self._write(stop, messages_of(done), commits)
            except PositionMoved as error:
                self._lose(error)
                done = [each for each in done if each.entry.topic in self._queues]
                continue
            if is_kept is None:
                return False
            for each in done:
                self._queues[each.entry.topic].done(each.entry.position)
            if is_kept:
                for part, commit in commits.items():
                    self._queues[part].committed = commit.position
            else:
                self._commit(set(commits))
            break
        return True

    def _commits(self, done: Sequence[Handled]) -> dict[str, Commit]:
        """Return where each part goes on once these are done, and under which tenure."""
        by_part: dict[str, set[int]] = {}
        for each in done:
            by_part.setdefault(each.entry.topic, set()).add(each.entry.position)
        queues = {part: self._queues[part] for part in by_part}
        return {
            part: Commit(queue.position_without(by_part[part]), queue.tenure)
            for part, queue in queues.items()
        }

    def _commit(self, parts: set[str]) -> None:
        """Commit what was done or passed; where that is not possible now, before the next look."""
        for part in parts & self._queues.keys():
            queue = self._queues[part]
            if queue.position == queue.committed:
                continue
            try:
                self._share.commit(part, queue.position, queue.tenure)
                queue.committed = queue.position
                self._is_late = False
            except PositionMoved as error:
                self._lose(error)
            except StorageBlocked as error:
                if not self._is_late:
                    logger.info("not committed yet", part=part, reason=str(error))
                self._is_late = True
                return

    def _lose(self, error: PositionMoved) -> None:
        logger.warning("another analyzer took over", part=error.topic, reason=str(error))
        self._drop(error.topic)

    def _has(self, each: Waiting) -> bool:
        return each.part in self._queues

    def _drop(self, part: str) -> None:
        """Forget a part, and all that is known of its cameras."""
        for camera in self.watcher.cameras:
            if self.log.part_of(WINDOWS, camera) == part:
                self.watcher.forget(camera)
        self._load.forget(part)
        for known in (self._queues, self._open, self._requests):
            known.pop(part, None)

    def _take_up(self, part: str, tenure: int) -> int:
        """Rehearse a part; return how many windows were read."""
        end = self._share.committed(part)
        queue = Queue(part, end, tenure)
        try:
            self._rehearsal.recall(self._twin(part, FINDINGS))
            windows = self._rehearsal.rehearse(queue, end)
            requests = self._twin(part, REQUESTS)
            self._requests[part] = Requests(requests, self._share.committed(requests))
        except StorageBlocked:
            self._drop(part)
            raise
        self._queues[part] = queue
        self._open[part] = OpenIncidents(self._twin(part, INCIDENTS))
        return windows

    def _twin(self, part: str, topic: str) -> str:
        """Return the part of another topic that pairs off with a part of the windows."""
        return self.log.parts(topic)[self.log.parts(WINDOWS).index(part)]

    def _reply_all(self) -> int:
        """Reply to the requests of people that were read; return how many were looked at."""
        return sum(self._reply_in(part) for part in list(self._queues))

    def _reply_in(self, part: str) -> int:
        """Reply to those that are in the part that pairs off with a part of the windows."""

        def commit(requests: str, position: int) -> None:
            self.promise(PATIENCE)
            self._share.commit(requests, position, self._queues[part].tenure)

        return self._requests[part].reply_all(self.log, self.watcher, commit)

    def _handle(self, batch: Sequence[Entry]) -> list[Outcome]:
        """Return what comes of each entry; what cannot be read costs the others nothing."""
        outcomes, windows = dict[int, Outcome](), dict[int, Window]()
        for nth, entry in enumerate(batch):
            try:
                windows[nth] = self._window(entry)
            except Unreadable as error:
                outcomes[nth] = set_aside(entry, error)
        answers = self.watcher.step_all(list(windows.values()))
        for nth, each in zip(windows, answers, strict=True):
            outcomes[nth] = outcome_of(batch[nth], each)
        return [outcomes[nth] for nth in range(len(batch))]

    def _window(self, entry: Entry) -> Window:
        """Read a window; raise Unreadable for one whose clock is ahead of ours, too."""
        window = window_of(entry)
        queue = self._queues.get(entry.topic)
        if queue is not None and queue.is_ahead(entry.position):
            raise Unreadable(refusal(window.end, self._guard.present))
        return window

    def _write(
        self, stop: threading.Event, messages: Sequence[Message], commits: Mapping[str, Commit]
    ) -> bool | None:
        """Append, waiting out a full disk; return whether positions were kept, None for `stop`.

        The windows are part of the memory by now and would be passed over if they were read
        again, so what came of them is held on to.
        """
        while not stop.is_set():
            try:
                return self._share.append(messages, commits)
            except StorageBlocked as error:
                logger.error("findings wait", reason=str(error))
                self.promise(PATIENCE)
                stop.wait(FULL)
        return None


def _stamp(entry: Entry) -> Stamp | None:
    try:
        end = window_of(entry).end
    except Unreadable:  # it is set aside when its turn comes
        return None
    return Stamp(camera=entry.key, at=end, appended_at=entry.at)
