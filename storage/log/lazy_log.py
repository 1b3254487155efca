"""A log that need not be there yet: who can work without it starts, and goes on, without it."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Event

from storage.errors import StorageBlocked, StorageUnfit
from storage.log.log import GroupMembership, Log, LogMessage, LogPage, ReadRequest, TailReader

_RETRY_SECONDS = 1.0
"""How long an attempt to open it that failed is the answer to all who ask."""


class LazyLog:
    """A log that is opened when it is first used; safe to use from any thread.

    Every method raises StorageBlocked while it cannot be opened, and StorageUnfit where it cannot
    be used. Once it was opened it is waited for, whatever is wrong with it: what worked can be
    mended, and StorageUnfit is raised as StorageBlocked.
    """

    def __init__(self, open_log: Callable[[], Log]) -> None:
        self._open_log = open_log
        self._lock = threading.Lock()
        self._log: Log | None = None
        self._last_error: StorageBlocked | None = None
        self._tried_at = float("-inf")

    def open(self) -> Log:
        """Open it, if it is not; raises StorageBlocked and StorageUnfit."""
        with self._lock:
            if self._log is not None:
                return self._log
            if self._last_error and time.monotonic() - self._tried_at < _RETRY_SECONDS:
                raise self._last_error.with_traceback(None)
            try:
                self._log = self._open_log()
            except StorageBlocked as error:
                self._last_error, self._tried_at = error, time.monotonic()
                raise
            return self._log

    @contextmanager
    def _opened_log(self) -> Iterator[Log]:
        log = self.open()
        with _unfit_as_blocked():
            yield log

    def partitions(self, topic: str) -> tuple[str, ...]:
        """Return the parts of a topic."""
        with self._opened_log() as log:
            return log.partitions(topic)

    def partition_for(self, topic: str, key: str) -> str:
        """Return the part of a topic that a key is in."""
        with self._opened_log() as log:
            return log.partition_for(topic, key)

    def identity(self, partition: str) -> str:
        """Return what tells the log that holds a part from any other."""
        with self._opened_log() as log:
            return log.identity(partition)

    def join_group(self, group: str, topic: str) -> GroupMembership:
        """Take a share of a topic."""
        with self._opened_log() as log:
            return log.join_group(group, topic)

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Write all values; return the position of the last."""
        with self._opened_log() as log:
            return log.append(topic, key, *values)

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Write values of different keys; return the position of the last."""
        with self._opened_log() as log:
            return log.append_all(topic, values)

    def append_messages(self, messages: Sequence[LogMessage]) -> None:
        """Write messages in order."""
        with self._opened_log() as log:
            log.append_messages(messages)

    def follow(self) -> TailReader:
        """Return a reader for who reads on all the time."""
        with self._opened_log() as log:
            return _LazyTailReader(log.follow())

    def read(
        self, partition: str, offset: int, limit: int = 100, key: str | None = None
    ) -> LogPage:
        """Return at most `limit` entries at or after `position`."""
        with self._opened_log() as log:
            return log.read(partition, offset, limit, key)

    def start_offset(self, partition: str) -> int:
        """Return the first position still kept."""
        with self._opened_log() as log:
            return log.start_offset(partition)

    def end_offset(self, partition: str) -> int:
        """Return the position that the next append will get."""
        with self._opened_log() as log:
            return log.end_offset(partition)

    def committed(self, group: str, partition: str) -> int:
        """Return the position where a reader goes on."""
        with self._opened_log() as log:
            return log.committed(group, partition)

    def commit(self, group: str, partition: str, offset: int) -> None:
        """Keep the position where a reader goes on."""
        with self._opened_log() as log:
            log.commit(group, partition, offset)

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when something may have been appended, `stop` is set, or the time is over."""
        with self._opened_log() as log:
            log.wait(stop, seconds)

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries; return how many went."""
        with self._opened_log() as log:
            return log.trim(topic, keep_bytes=keep_bytes, keep_for=keep_for)

    def close(self) -> None:
        """Let go of it, if it was opened."""
        with self._lock:
            log, self._log = self._log, None
        if log is not None:
            log.close()


class _LazyTailReader:
    """The follower of a log that was opened."""

    def __init__(self, reader: TailReader) -> None:
        self._reader = reader

    def read(self, requests: Mapping[str, ReadRequest]) -> list[LogPage]:
        """Return a page for each of these parts in which anything is there by now."""
        with _unfit_as_blocked():
            return self._reader.read(requests)

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when something came, `stop` is set, or the time is over."""
        with _unfit_as_blocked():
            self._reader.wait(stop, seconds)

    def close(self) -> None:
        """Let go of the connections."""
        self._reader.close()


@contextmanager
def _unfit_as_blocked() -> Iterator[None]:
    try:
        yield
    except StorageUnfit as error:
        raise StorageBlocked(str(error)) from None
