"""What the database keeps for the log is appended to it, in order, by a thread of its own."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from threading import Event

import structlog

from alerts.loop import repeat, wait_for
from storage.errors import PositionMoved, StorageBlocked, StorageUnfit, TooLarge
from storage.incidents import IncidentStore
from storage.ledger import Work
from storage.log import Log, Message
from storage.unpublished import (
    PUBLISHER,
    TRAIL,
    dead_letters,
    forget_dead_letters,
    revisions,
)

AT_ONCE = 500
"""Revisions that are appended before their position is kept."""
FEW = 20
"""Dead letters, which may be large, that are appended before they are forgotten."""
_POLL_SECONDS = 1.0
"""How often to look for revisions of other processes."""

_say = structlog.get_logger("alerts.publisher")


class Publisher:
    """Append revisions and dead letters: at least once each, those of a camera in order.

    What a kill cuts is appended again, the same revisions in the same order.
    """

    def __init__(self, log: Log, store: IncidentStore) -> None:
        self._log = log
        self._store = store
        self._position: int | None = None
        self._rewinds = store.rewinds

    def run(self, stop: Event) -> None:
        """Publish until stopped; waits out a log that refuses, or does not answer."""
        wait = partial(wait_for, self._store.work[Work.PUBLISH])
        repeat(self.run_once, stop, _say, seconds=_POLL_SECONDS, wait=wait, eager=True)

    def run_once(self) -> int:
        """Append what waits, some at a time; return how much it was.

        Raises StorageBlocked, also where the log refuses: what is wrong with it can be mended;
        and LeaseLost where another process publishes now.
        """
        try:
            return self._publish_revisions() + self._publish_dead_letters()
        except StorageUnfit as error:
            raise StorageBlocked(str(error)) from None

    def _publish_revisions(self) -> int:
        position = self._position
        if position is None or self._rewinds != self._store.rewinds:
            self._rewinds = self._store.rewinds
            position = self._store.position(PUBLISHER, TRAIL)
        waiting, behind = revisions(self._store, position, AT_ONCE)
        if waiting:
            self._append(waiting)
        self._position = position if behind == position else self._keep(position, behind)
        return behind - position

    def _keep(self, before: int, position: int) -> int | None:
        """Keep the position; return None where another publisher has moved it."""
        with suppress(PositionMoved), self._store.transaction() as ledger:
            ledger.advance(PUBLISHER, TRAIL, before, position)
            return position
        return None

    def _publish_dead_letters(self) -> int:
        waiting = dead_letters(self._store, FEW)
        if waiting:
            self._append([each.message for each in waiting])
            with self._store.transaction() as ledger:
                forget_dead_letters(ledger, waiting)
        return len(waiting)

    def _append(self, messages: Sequence[Message]) -> None:
        """Append messages of one topic; leave out what the log will never take."""
        # Who hung meanwhile would append what the one that leads now has appended.
        self._store.confirm()
        topic = messages[0].topic
        try:
            self._log.append_all(topic, [(each.key, each.value) for each in messages])
        except TooLarge as error:
            if len(messages) > 1:
                for each in messages:
                    self._append([each])
            else:
                _say.error("not published", topic=topic, camera=messages[0].key, reason=str(error))
