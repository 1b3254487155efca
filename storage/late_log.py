"""A log that need not be there yet: who can work without it starts, and goes on, without it."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Event

from storage.errors import StorageBlocked, StorageUnfit
from storage.log import Follower, Log, Message, Page, Share, Want

_AGAIN_SECONDS = 1.0
"""How long an attempt to open it that failed is the answer to all who ask."""


class LateLog:
    """A log that is opened when it is first used; safe to use from any thread.

    Every method raises StorageBlocked while it cannot be opened, and StorageUnfit where it cannot
    be used. Once it was opened it is waited for, whatever is wrong with it: what worked can be
    mended, and StorageUnfit is raised as StorageBlocked.
    """

    def __init__(self, opening: Callable[[], Log]) -> None:
        self._opening = opening
        self._lock = threading.Lock()
        self._log: Log | None = None
        self._failed: StorageBlocked | None = None
        self._tried_at = float("-inf")

    def open(self) -> Log:
        """Open it, if it is not; raises StorageBlocked and StorageUnfit."""
        with self._lock:
            if self._log is not None:
                return self._log
            if self._failed and time.monotonic() - self._tried_at < _AGAIN_SECONDS:
                raise self._failed.with_traceback(None)
            try:
                self._log = self._opening()
            except StorageBlocked as error:
                self._failed, self._tried_at = error, time.monotonic()
                raise
            return self._log

    @contextmanager
    def _opened(self) -> Iterator[Log]:
        log = self.open()
        with _waited_for():
            yield log

    def parts(self, topic: str) -> tuple[str, ...]:
        """Return the parts of a topic."""
        with self._opened() as log:
            return log.parts(topic)

    def part_of(self, topic: str, key: str) -> str:
        """Return the part of a topic that a key is in."""
        with self._opened() as log:
            return log.part_of(topic, key)

    def identity(self, part: str) -> str:
        """Return what tells the log that holds a part from any other."""
        with self._opened() as log:
            return log.identity(part)

    def join(self, reader: str, topic: str) -> Share:
        """Take a share of a topic."""
        with self._opened() as log:
            return log.join(reader, topic)

    def append(self, topic: str, key: str, *values: bytes) -> int:
        """Write all values; return the position of the last."""
        with self._opened() as log:
            return log.append(topic, key, *values)

    def append_all(self, topic: str, values: Sequence[tuple[str, bytes]]) -> int:
        """Write values of different keys; return the position of the last."""
        with self._opened() as log:
            return log.append_all(topic, values)

    def append_messages(self, messages: Sequence[Message]) -> None:
        """Write messages in order."""
        with self._opened() as log:
            log.append_messages(messages)

    def follow(self) -> Follower:
        """Return a reader for who reads on all the time."""
        with self._opened() as log:
            return _LateFollower(log.follow())

    def read(self, part: str, position: int, limit: int = 100, key: str | None = None) -> Page:
        """Return at most `limit` entries at or after `position`."""
        with self._opened() as log:
            return log.read(part, position, limit, key)

    def oldest(self, part: str) -> int:
        """Return the first position still kept."""
        with self._opened() as log:
            return log.oldest(part)

    def next(self, part: str) -> int:
        """Return the position that the next append will get."""
        with self._opened() as log:
            return log.next(part)

    def committed(self, reader: str, part: str) -> int:
        """Return the position where a reader goes on."""
        with self._opened() as log:
            return log.committed(reader, part)

    def commit(self, reader: str, part: str, position: int) -> None:
        """Keep the position where a reader goes on."""
        with self._opened() as log:
            log.commit(reader, part, position)

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when something may have been appended, `stop` is set, or the time is over."""
        with self._opened() as log:
            log.wait(stop, seconds)

    def trim(self, topic: str, *, keep_bytes: int, keep_for: timedelta) -> int:
        """Drop the oldest entries; return how many went."""
        with self._opened() as log:
            return log.trim(topic, keep_bytes=keep_bytes, keep_for=keep_for)

    def close(self) -> None:
        """Let go of it, if it was opened."""
        with self._lock:
            log, self._log = self._log, None
        if log is not None:
            log.close()


class _LateFollower:
    """The follower of a log that was opened."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def read(self, wanted: Mapping[str, Want]) -> list[Page]:
        """Return a page for each of these parts in which anything is there by now."""
        with _waited_for():
            return self._follower.read(wanted)

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when something came, `stop` is set, or the time is over."""
        with _waited_for():
            self._follower.wait(stop, seconds)

    def close(self) -> None:
        """Let go of the connections."""
        self._follower.close()


@contextmanager
def _waited_for() -> Iterator[None]:
    try:
        yield
    except StorageUnfit as error:
        raise StorageBlocked(str(error)) from None
