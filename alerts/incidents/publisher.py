"""Appends revisions and dead letters from the database to the log, in order."""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Event

import structlog

from storage.backoff import doubling_seconds
from storage.db.alert_store import AlertStore
from storage.db.transaction import PendingWork
from storage.db.unpublished import (
    AUDIT_TOPIC,
    PUBLISHER_GROUP,
    UnpublishedMessage,
    delete_dead_letters,
    unpublished_dead_letters,
    unpublished_revisions,
)
from storage.errors import OffsetMoved, StorageBlocked, StorageError, StorageUnfit, TooLarge
from storage.log.log import Log
from storage.loop import BLOCKED_SECONDS, repeat, wait_for
from storage.records.topics import DEAD_LETTERS, INCIDENTS

MAX_REVISIONS = 500
"""Revisions that are appended before the offset is saved."""
MAX_DEAD_LETTERS = 20
"""Dead letters, which may be large, that are appended before they are deleted."""
MAX_BACKOFF_SECONDS = 10.0
"""The longest pause after a refusal; the first is BLOCKED_SECONDS."""
LOG_AGAIN_SECONDS = 60.0
"""A reason is logged again if it did not occur for this long; a quota refuses now and then."""

logger = structlog.get_logger()


class Publisher:
    """Append revisions and dead letters, each at least once and in order per camera.

    A topic that refuses does not delay the other. After a kill, the same revisions are appended
    again in the same order.
    """

    def __init__(self, log: Log, store: AlertStore) -> None:
        self._store = store
        self._incidents = _TopicAppender(log, INCIDENTS)
        self._dead_letters = _TopicAppender(log, DEAD_LETTERS)
        self._offset: int | None = None
        self._rewinds = store.rewind_count

    def run(self, stop: Event) -> None:
        """Publish until stopped; waits out a log that refuses or does not answer."""
        repeat(self._step_and_log, stop, logger, wait=self._wait, eager=True)

    def run_once(self) -> int:
        """Append a batch of what waits; return how many messages.

        Raises StorageBlocked if a topic refuses and none was appended, also for StorageUnfit,
        which an operator can fix; and LeaseLost if another process publishes now.
        """
        for appender in self._appenders:
            appender.reset_backoff()
        handled = self._step()
        refusal = next((each.refusal for each in self._appenders if each.refusal), None)
        if refusal and not handled:
            raise refusal
        return handled

    @property
    def _appenders(self) -> tuple["_TopicAppender", "_TopicAppender"]:
        return self._incidents, self._dead_letters

    def _step_and_log(self) -> int:
        handled = self._step()
        for each in self._appenders:
            each.log_state()
        return handled

    def _step(self) -> int:
        return self._publish_revisions() + self._publish_dead_letters()

    def _wait(self, stop: Event, seconds: float) -> None:
        if any(each.refusal for each in self._appenders):
            seconds = BLOCKED_SECONDS
        wait_for(self._store.pending_work[PendingWork.PUBLISH], stop, seconds)

    def _publish_revisions(self) -> int:
        if self._incidents.is_backing_off:
            return 0
        offset = self._offset
        if offset is None or self._rewinds != self._store.rewind_count:
            self._rewinds = self._store.rewind_count
            offset = self._store.committed_offset(PUBLISHER_GROUP, AUDIT_TOPIC)
        waiting = unpublished_revisions(self._store, offset, MAX_REVISIONS)
        unsent, handled = self._append(self._incidents, waiting)
        end = waiting[-1].number + 1 if waiting else offset
        next_offset = unsent[0].number if unsent else end
        self._offset = offset if next_offset == offset else self._save_offset(offset, next_offset)
        if self._offset is not None:
            self._incidents.forget(each for each in waiting if each.number < next_offset)
        return handled

    def _append(
        self, appender: "_TopicAppender", waiting: Sequence[UnpublishedMessage]
    ) -> tuple[list[UnpublishedMessage], int]:
        if waiting:
            # A process that hung would append again what the present leader has appended.
            self._store.confirm_lease()
        return appender.append(waiting)

    def _save_offset(self, before: int, offset: int) -> int | None:
        """Save the offset; return None if another publisher moved it."""
        with suppress(OffsetMoved), self._store.transaction() as transaction:
            transaction.advance_offset(PUBLISHER_GROUP, AUDIT_TOPIC, before, offset)
            return offset
        return None

    def _publish_dead_letters(self) -> int:
        if self._dead_letters.is_backing_off:
            return 0
        waiting = unpublished_dead_letters(self._store, MAX_DEAD_LETTERS)
        unsent, handled = self._append(self._dead_letters, waiting)
        appended = [each for each in waiting if each not in unsent]
        if appended:
            with self._store.transaction() as transaction:
                delete_dead_letters(transaction, appended)
            self._dead_letters.forget(appended)
        return handled


class _TopicAppender:
    """Append the messages of one topic, each once unless an acknowledgement is lost."""

    def __init__(self, log: Log, topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.refusal: StorageBlocked | None = None
        """Why the topic refused a message at the last try."""
        self._log = log
        self._topic = topic
        self._clock = clock
        self._appended = set[UnpublishedMessage]()
        self._refusal_times = dict[str, float]()
        self._unlogged = ""
        self._was_logged = False
        self._failures = 0
        self._retry_at = float("-inf")

    @property
    def is_backing_off(self) -> bool:
        """Return whether the pause after a refusal lasts."""
        return self.refusal is not None and self._clock() < self._retry_at

    def reset_backoff(self) -> None:
        """End the pause after a refusal."""
        self._retry_at = float("-inf")

    def append(self, waiting: Sequence[UnpublishedMessage]) -> tuple[list[UnpublishedMessage], int]:
        """Append messages; return those that the log has not, and how many it newly has."""
        before = len(self._appended)
        self._appended.update(each for each in waiting if each.message is None)
        try:
            self._append([each for each in waiting if each not in self._appended])
        except (StorageBlocked, StorageUnfit) as error:
            self._record_refusal(error)
        else:
            self._record_success()
        unsent = [each for each in waiting if each not in self._appended]
        return unsent, len(self._appended) - before if unsent else len(waiting)

    def forget(self, appended: Iterable[UnpublishedMessage]) -> None:
        """Forget messages that no longer wait in the database."""
        self._appended.difference_update(appended)

    def _append(self, waiting: Sequence[UnpublishedMessage]) -> None:
        """Append messages, and record which the log has; skip those that are too large for it."""
        values = [(each.message.key, each.message.value) for each in waiting if each.message]
        try:
            if values:
                self._log.append_all(self._topic, values)
        except StorageBlocked as error:
            self._appended.update(waiting[index] for index in error.durable_indices)
            raise
        except TooLarge as error:
            if len(waiting) > 1:
                for each in waiting:
                    self._append([each])
                return
            logger.error("not published", topic=self._topic, camera=values[0][0], reason=str(error))
        self._appended.update(waiting)

    def log_state(self) -> None:
        """Log the reason of a refusal, once for a while, and its end."""
        if self._unlogged:
            logger.error(self._unlogged, topic=self._topic)
            self._unlogged, self._was_logged = "", True
        elif self._was_logged and self.refusal is None:
            logger.info("the log takes what waited", topic=self._topic)
            self._was_logged = False

    def _record_refusal(self, error: StorageError) -> None:
        """Record a refusal; a reason that did not occur lately is logged."""
        reason, now = str(error), self._clock()
        kind = re.sub(r"\d+", "", reason)  # offsets and times differ from try to try
        if now - self._refusal_times.get(kind, float("-inf")) > LOG_AGAIN_SECONDS:
            self._unlogged = reason
        self._refusal_times[kind] = now
        self._retry_at = now + doubling_seconds(self._failures, MAX_BACKOFF_SECONDS)
        self._failures += 1
        self.refusal = error if isinstance(error, StorageBlocked) else StorageBlocked(reason)

    def _record_success(self) -> None:
        self._unlogged, self._failures, self.refusal = "", 0, None
