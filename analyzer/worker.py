"""The analyzer as a process: windows from the log in, findings to the log out."""

import threading
from collections.abc import Callable

import structlog

from analyzer.watcher import Watcher
from storage.errors import StorageFull, Unreadable
from storage.log import DEAD, FINDINGS, WINDOWS, Entry, Log
from storage.wire import Dead, decode_window, encode_dead, encode_finding

READER = "analyzer"
PATIENCE = 120.0
"""Seconds that a step may take before the process counts as hung."""
IDLE, FULL = 0.1, 5.0
"""Seconds between looks at an empty log, and between tries on a full disk."""

logger = structlog.get_logger()


class AnalyzerWorker:
    """Reads windows in order, and commits each only when its findings are in the log."""

    def __init__(self, log: Log, watcher: Watcher, promise: Callable[[float], None]) -> None:
        self.log = log
        self.watcher = watcher
        self.promise = promise

    def run(self, stop: threading.Event) -> None:
        """Handle windows until `stop` is set."""
        while not stop.is_set():
            self.promise(PATIENCE)
            if not self.run_once(stop):
                stop.wait(IDLE)

    def run_once(self, stop: threading.Event) -> int:
        """Handle the windows waiting now; return how many."""
        position = self._position()
        entries = self.log.read(WINDOWS, position, limit=8)
        for entry in entries:
            self.promise(PATIENCE)
            topic, values = self._handle(entry)
            if not self._write(stop, topic, entry.key, values):
                return 0
            self.log.commit(READER, WINDOWS, entry.position + 1)
        return len(entries)

    def _position(self) -> int:
        position, oldest = self.log.committed(READER, WINDOWS), self.log.oldest(WINDOWS)
        if position < oldest:
            logger.warning("windows were dropped before they were read", missed=oldest - position)
        return max(position, oldest)

    def _handle(self, entry: Entry) -> tuple[str, list[bytes]]:
        """Return the topic and the bytes that a window turns into."""
        try:
            window = decode_window(entry.value)
            return FINDINGS, [encode_finding(finding) for finding in self.watcher.step(window)]
        except Unreadable as error:
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
