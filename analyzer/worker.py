"""The analyzer as a process: windows from the log in, findings to the log out."""

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import structlog

from analyzer.asking import reply
from analyzer.plan import AT_ONCE
from analyzer.watcher import Watcher
from storage.asks import decode_request, encode_reply
from storage.errors import StorageFull, Unreadable
from storage.log import DEAD, FINDINGS, REPLIES, REQUESTS, WINDOWS, Entry, Log
from storage.records import Window
from storage.wire import Dead, decode_finding, decode_window, encode_dead, encode_finding

READER = "analyzer"
PATIENCE = 120.0
"""Seconds that a step may take before the process counts as hung."""
BATCH = AT_ONCE
"""Windows that are read from the log at a time."""
RECALLED = 20_000
"""Findings that are looked back upon after a restart."""
LATE = timedelta(minutes=2)
"""How much later than its end a window may be appended, one with another."""
ASKED = 4
"""Requests of people that are replied to between windows."""
IDLE, FULL = 0.1, 5.0
"""Seconds between looks at an empty log, and between tries on a full disk."""

logger = structlog.get_logger()


class AnalyzerWorker:
    """Reads windows in order, and commits each only when its findings are in the log."""

    def __init__(self, log: Log, watcher: Watcher, promise: Callable[[float], None]) -> None:
        self.log = log
        self.watcher = watcher
        self.promise = promise
        self._heard = 0

    def run(self, stop: threading.Event) -> None:
        """Rehearse, then handle windows until `stop` is set."""
        self.rehearse()
        while not stop.is_set():
            self.promise(PATIENCE)
            if not self.run_once(stop) + self._reply_all():
                stop.wait(IDLE)

    def rehearse(self) -> int:
        """Build the memories again from the windows that the log still holds; return how many.

        Nothing is answered twice; what was answered is taken from the log.
        """
        last = self.log.next(FINDINGS)
        first = max(self.log.oldest(FINDINGS), last - RECALLED)
        for entry in self.log.read(FINDINGS, first, limit=last - first):
            self.watcher.recall(decode_finding(entry.value))
        windows = 0
        for entry in self._retained(self.log.committed(READER, WINDOWS)):
            self.promise(PATIENCE)
            try:
                self.watcher.rehearse(_window(entry))
                windows += 1
            except Unreadable:
                continue  # it was set aside when it was first read
        if windows:
            logger.info("rehearsed", windows=windows)
        return windows

    def run_once(self, stop: threading.Event) -> int:
        """Handle the windows waiting now, of different cameras together; return how many."""
        entries = self.log.read(WINDOWS, self._position(), limit=BATCH)
        for batch in _batches(entries):
            self.promise(PATIENCE)
            for entry, (topic, values) in zip(batch, self._handle(batch), strict=True):
                if not self._write(stop, topic, entry.key, values):
                    return 0
            self.log.commit(READER, WINDOWS, batch[-1].position + 1)
        return len(entries)

    def _reply_all(self) -> int:
        """Reply to the first requests of people that wait; return how many were looked at.

        Each is committed before it is looked at and none is looked at twice, whatever it does to
        the process or the disk: who asks waits a while, and can ask again.
        """
        heard = max(self._heard, self.log.committed(READER, REQUESTS))
        entries = self.log.read(REQUESTS, heard, limit=ASKED)
        for entry in entries:
            self.promise(PATIENCE)
            self._heard = entry.position + 1
            try:
                self.log.commit(READER, REQUESTS, self._heard)
                request = decode_request(entry.value)
                if datetime.now(UTC) < request.expires_at:
                    told = encode_reply(reply(self.watcher, request))
                    self.log.append(REPLIES, request.camera, told)
            except (StorageFull, Unreadable) as error:
                logger.warning("no reply", position=entry.position, reason=str(error))
        return len(entries)

    def _position(self) -> int:
        position, oldest = self.log.committed(READER, WINDOWS), self.log.oldest(WINDOWS)
        if position < oldest:
            logger.warning("windows were dropped before they were read", missed=oldest - position)
        return max(position, oldest)

    def _retained(self, end: int) -> Iterator[Entry]:
        """Yield the windows before `end` that may reach into the horizon of the last one."""
        first, oldest = end, self.log.oldest(WINDOWS)
        while first > oldest:
            page = self.log.read(WINDOWS, max(oldest, first - BATCH), limit=BATCH)
            if first == end:
                since = page[-1].at - self.watcher.plan.horizon - LATE
            first = page[0].position
            if page[0].at < since:
                break
        for start in range(first, end, BATCH):
            for entry in self.log.read(WINDOWS, start, limit=min(BATCH, end - start)):
                if entry.at >= since:
                    yield entry

    def _handle(self, batch: Sequence[Entry]) -> list[tuple[str, list[bytes]]]:
        """Return the topic and the bytes that each window turns into.

        Where one cannot be read, each is tried by itself.
        """
        try:
            windows = [_window(entry) for entry in batch]
            findings = list(self.watcher.step_all(windows))
        except Unreadable as error:
            if len(batch) > 1:
                return [handled for entry in batch for handled in self._handle([entry])]
            return [self._set_aside(batch[0], error)]
        return [
            (FINDINGS, [encode_finding(f) for f in findings if f.window_id == window.id])
            for window in windows
        ]

    def _set_aside(self, entry: Entry, error: Unreadable) -> tuple[str, list[bytes]]:
        logger.warning("window set aside", camera=entry.key, reason=error.reason)
        dead = Dead(
            topic=entry.topic,
            position=entry.position,
            key=entry.key,
            reason=error.reason,
            value=entry.value,
        )
        return DEAD, [encode_dead(dead)]

    def _write(self, stop: threading.Event, topic: str, camera: str, values: list[bytes]) -> bool:
        """Append, waiting out a full disk; say whether it was done before `stop`.

        The window is part of the memory by now and would be passed over if it were read
        again, so its findings are held on to.
        """
        while values and not stop.is_set():
            try:
                self.log.append(topic, camera, *values)
                return True
            except StorageFull as error:
                logger.error("findings wait", camera=camera, reason=str(error))
                self.promise(PATIENCE)
                stop.wait(FULL)
        return not values


def _window(entry: Entry) -> Window:
    window = decode_window(entry.value)
    if window.camera != entry.key:
        raise Unreadable("the window of another camera")
    return window


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Part entries, in order, into batches in which no camera comes twice."""
    batch = list[Entry]()
    for entry in entries:
        if any(entry.key == other.key for other in batch):
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch
