"""A log that opens when it is first used, for roles that can start without it."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Event

from storage.errors import StorageBlocked, StorageUnfit
from storage.log.log import GroupMembership, Log, LogMessage, LogPage, ReadRequest, TailReader

_RETRY_SECONDS = 1.0
"""How long callers get the error of a failed attempt to open the log."""


class LazyLog:
    """A log that opens when it is first used; any thread may use it.

    Every method raises StorageBlocked while the log cannot be opened, and StorageUnfit if it
    cannot be used. Once it was open, StorageUnfit is raised as StorageBlocked: a log that worked
    can be repaired.
    """

    def __init__(self, open_log: Callable[[], Log]) -> None:
        self._open_log = open_log
        self._lock = threading.Lock()
        self._log: Log | None = None
        self._last_error: StorageBlocked | None = None
        self._tried_at = float("-inf")

    def open(self) -> Log:
        """Open the log unless it is open; raises StorageBlocked and StorageUnfit."""
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
        """Return the partitions of a topic."""
        with self._opened_log() as log:
            return log.partitions(topic)

    def partition_for(self, topic: str, key: str) -> str:
        """Return the partition of a topic that a key is in."""
        with self._opened_log() as log:
            return log.partition_for(topic, key)

    def identity(self, partition: str) -> str:
        """Return an id of the log behind a partition."""
        with self._opened_log() as log:
            return log.identity(partition)

    def join_group(self, group: str, topic: str) -> GroupMembership:
        """Join the group that shares the partitions of a topic."""
        with self._opened_log() as log:
            return log.join_group(group, topic)

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Append all values; return the offset of the last one."""
        with self._opened_log() as log:
            return log.append(topic, key, *values)

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Append (key, value) pairs; return the offset of the last one."""
        with self._opened_log() as log:
            return log.append_all(topic, values)

    def append_messages(self, messages: Sequence[LogMessage]) -> None:
        """Append messages in order."""
        with self._opened_log() as log:
            log.append_messages(messages)

    def follow(self) -> TailReader:
        """Return a reader that follows the ends of partitions."""
        with self._opened_log() as log:
            return _LazyTailReader(log.follow())

    def read(
        self, partition: str, offset: int, limit: int = 100, key: str | None = None
    ) -> LogPage:
        """Return at most `limit` entries at or after `offset`."""
        with self._opened_log() as log:
            return log.read(partition, offset, limit, key)

    def start_offset(self, partition: str) -> int:
        """Return the first offset still kept."""
        with self._opened_log() as log:
            return log.start_offset(partition)

    def end_offset(self, partition: str) -> int:
        """Return the offset of the next append."""
        with self._opened_log() as log:
            return log.end_offset(partition)

    def committed(self, group: str, partition: str) -> int:
        """Return the next offset for a group."""
        with self._opened_log() as log:
            return log.committed(group, partition)

    def commit(self, group: str, partition: str, offset: int) -> None:
        """Commit the next offset for a group."""
        with self._opened_log() as log:
            log.commit(group, partition, offset)

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when there may be new entries, `stop` is set or time is up."""
        with self._opened_log() as log:
            log.wait(stop, seconds)

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries; return how many were dropped."""
        with self._opened_log() as log:
            return log.trim(topic, keep_bytes=keep_bytes, keep_for=keep_for)

    def close(self) -> None:
        """Close the log if it was opened."""
        with self._lock:
            log, self._log = self._log, None
        if log is not None:
            log.close()


class _LazyTailReader:
    """The tail reader of a log that was opened."""

    def __init__(self, reader: TailReader) -> None:
        self._reader = reader

    def read(self, requests: Mapping[str, ReadRequest]) -> list[LogPage]:
        """Return a page for each of these partitions that has new entries."""
        with _unfit_as_blocked():
            return self._reader.read(requests)

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when there are new entries, `stop` is set or time is up."""
        with _unfit_as_blocked():
            self._reader.wait(stop, seconds)

    def close(self) -> None:
        """Close the connections."""
        self._reader.close()


@contextmanager
def _unfit_as_blocked() -> Iterator[None]:
    try:
        yield
    except StorageUnfit as error:
        raise StorageBlocked(str(error)) from None
