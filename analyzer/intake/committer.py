"""Append the results of log entries, and commit the offsets of the partitions they came from."""

import threading
from collections.abc import Callable, Mapping, Sequence

import structlog

from analyzer.intake.outcomes import HandledEntry, messages_of
from analyzer.intake.queue import WindowQueue
from storage.errors import OffsetMoved, StorageBlocked
from storage.log.log import GroupMembership, LogMessage, OffsetCommit
from storage.loop import retry_until_done

BLOCKED_WAIT = 5.0
"""Seconds between attempts while storage is blocked."""

logger = structlog.get_logger()


class OffsetCommitter:
    """Commits entries of the assigned partitions after their results are appended.

    `revoke(partition)` is called when another analyzer owns a partition now, and removes it from
    `queues`; `keepalive()` before each attempt.
    """

    def __init__(
        self,
        membership: GroupMembership,
        queues: Mapping[str, WindowQueue],
        revoke: Callable[[str], None],
        keepalive: Callable[[], None],
    ) -> None:
        self._membership = membership
        self._queues = queues
        self._revoke = revoke
        self._keepalive = keepalive
        self._is_commit_delayed = False

    def finish(self, stop: threading.Event, handled: Sequence[HandledEntry]) -> bool:
        """Append the results of entries and release these; return False if `stop` came first.

        Entries of partitions that another analyzer owns now are left to it.
        """
        while handled:
            commits = self._commits(handled)
            try:
                is_committed = self._append(stop, messages_of(handled), commits)
            except OffsetMoved as error:
                if error.partition not in commits:
                    raise  # another attempt would fail in the same way
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
                self.commit(set(commits))
            break
        return True

    def commit(self, partitions: set[str]) -> None:
        """Commit what is done in partitions; if storage is blocked, the next call does it."""
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

    def _commits(self, handled: Sequence[HandledEntry]) -> dict[str, OffsetCommit]:
        """Return the offset and generation to commit per partition once these entries are done."""
        done: dict[str, set[int]] = {}
        for each in handled:
            done.setdefault(each.entry.topic, set()).add(each.entry.offset)
        return {
            partition: OffsetCommit(queue.commit_offset_without(offsets), queue.generation)
            for partition, offsets in done.items()
            for queue in (self._queues[partition],)
        }

    def _append(
        self,
        stop: threading.Event,
        messages: Sequence[LogMessage],
        commits: Mapping[str, OffsetCommit],
    ) -> bool | None:
        """Append, again while storage is blocked; return whether offsets were committed as well.

        Return None after `stop`. The results are kept meanwhile: the memory contains these
        windows by now and would skip them if they were read again.
        """

        def append() -> bool:
            self._keepalive()
            return self._membership.append(messages, commits)

        return retry_until_done(
            append, stop, logger, seconds=BLOCKED_WAIT, blocked_event="findings wait"
        )

    def _hand_over(self, error: OffsetMoved) -> None:
        logger.warning("another analyzer took over", part=error.partition, reason=str(error))
        self._revoke(error.partition)
