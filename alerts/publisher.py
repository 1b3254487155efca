"""What the database keeps for the log is appended to it, in order, by a thread of its own."""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Event

import structlog

from alerts.loop import BLOCKED_SECONDS, repeat, wait_for
from storage.errors import PositionMoved, StorageBlocked, StorageError, StorageUnfit, TooLarge
from storage.incidents import IncidentStore
from storage.ledger import Work
from storage.log import DEAD, INCIDENTS, Log
from storage.unpublished import (
    PUBLISHER,
    TRAIL,
    Waiting,
    dead_letters,
    forget_dead_letters,
    revisions,
)

AT_ONCE = 500
"""Revisions that are appended before their position is kept."""
FEW = 20
"""Dead letters, which may be large, that are appended before they are forgotten."""
LONGEST_REST = 10.0
"""Seconds until a topic that refused is tried again; at first it is BLOCKED_SECONDS."""
PEACE = 60.0
"""Seconds without a reason after which it is said again: a quota takes some from time to time."""
_POLL_SECONDS = 1.0
"""How often to look for revisions of other processes."""

_say = structlog.get_logger("alerts.publisher")


class Publisher:
    """Append revisions and dead letters: at least once each, those of a camera in order.

    A topic that refuses them holds up no other. What a kill cuts is appended again, the same
    revisions in the same order.
    """

    def __init__(self, log: Log, store: IncidentStore) -> None:
        self._store = store
        self._incidents = _Outlet(log, INCIDENTS)
        self._dead = _Outlet(log, DEAD)
        self._position: int | None = None
        self._rewinds = store.rewinds

    def run(self, stop: Event) -> None:
        """Publish until stopped; waits out a log that refuses, or does not answer."""
        repeat(self._step_aloud, stop, _say, seconds=_POLL_SECONDS, wait=self._wait, eager=True)

    def run_once(self) -> int:
        """Append what waits, some at a time; return how much it was.

        Raises StorageBlocked where nothing was appended and the log refuses something, also for
        StorageUnfit: what is wrong with it can be mended; and LeaseLost where another process
        publishes now.
        """
        for outlet in self._outlets:
            outlet.retry()
        handled = self._step()
        refused = next((each.refused for each in self._outlets if each.refused), None)
        if refused and not handled:
            raise refused
        return handled

    @property
    def _outlets(self) -> tuple["_Outlet", "_Outlet"]:
        return self._incidents, self._dead

    def _step_aloud(self) -> int:
        handled = self._step()
        for each in self._outlets:
            each.say()
        return handled

    def _step(self) -> int:
        return self._publish_revisions() + self._publish_dead_letters()

    def _wait(self, stop: Event, seconds: float) -> None:
        if any(each.refused for each in self._outlets):
            seconds = BLOCKED_SECONDS
        wait_for(self._store.work[Work.PUBLISH], stop, seconds)

    def _publish_revisions(self) -> int:
        if self._incidents.is_resting:
            return 0
        position = self._position
        if position is None or self._rewinds != self._store.rewinds:
            self._rewinds = self._store.rewinds
            position = self._store.position(PUBLISHER, TRAIL)
        waiting = revisions(self._store, position, AT_ONCE)
        left, handled = self._append(self._incidents, waiting)
        end = waiting[-1].number + 1 if waiting else position
        behind = left[0].number if left else end
        self._position = position if behind == position else self._keep(position, behind)
        if self._position is not None:
            self._incidents.forget(each for each in waiting if each.number < behind)
        return handled

    def _append(self, outlet: "_Outlet", waiting: Sequence[Waiting]) -> tuple[list[Waiting], int]:
        if waiting:
            # Who hung meanwhile would append what the one that leads now has appended.
            self._store.confirm()
        return outlet.append(waiting)

    def _keep(self, before: int, position: int) -> int | None:
        """Keep the position; return None where another publisher has moved it."""
        with suppress(PositionMoved), self._store.transaction() as ledger:
            ledger.advance(PUBLISHER, TRAIL, before, position)
            return position
        return None

    def _publish_dead_letters(self) -> int:
        if self._dead.is_resting:
            return 0
        waiting = dead_letters(self._store, FEW)
        left, handled = self._append(self._dead, waiting)
        done = [each for each in waiting if each not in left]
        if done:
            with self._store.transaction() as ledger:
                forget_dead_letters(ledger, done)
            self._dead.forget(done)
        return handled


class _Outlet:
    """Append the messages of one topic, each once unless an answer is lost."""

    def __init__(self, log: Log, topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.refused: StorageBlocked | None = None
        """Why the topic took nothing, or not all, at the last try."""
        self._log = log
        self._topic = topic
        self._clock = clock
        self._done = set[Waiting]()
        self._refused_at = dict[str, float]()
        self._news = ""
        self._was_said = False
        self._rest = 0.0
        self._again_at = float("-inf")

    @property
    def is_resting(self) -> bool:
        """Return whether the topic refused something too short a time ago to try it again."""
        return self.refused is not None and self._clock() < self._again_at

    def retry(self) -> None:
        """Rest no longer."""
        self._again_at = float("-inf")

    def append(self, waiting: Sequence[Waiting]) -> tuple[list[Waiting], int]:
        """Append what was not yet; return what the log has not, and how much is new of the rest."""
        before = len(self._done)
        self._done.update(each for each in waiting if each.message is None)
        try:
            self._append([each for each in waiting if each not in self._done])
        except (StorageBlocked, StorageUnfit) as error:
            self._refuse(error)
        else:
            self._accept()
        left = [each for each in waiting if each not in self._done]
        return left, len(self._done) - before if left else len(waiting)

    def forget(self, done: Iterable[Waiting]) -> None:
        """Forget what waits no longer in the database."""
        self._done.difference_update(done)

    def _append(self, waiting: Sequence[Waiting]) -> None:
        """Append messages, and note which the log has; leave out what it will never take."""
        values = [(each.message.key, each.message.value) for each in waiting if each.message]
        try:
            if values:
                self._log.append_all(self._topic, values)
        except StorageBlocked as error:
            self._done.update(waiting[index] for index in error.kept)
            raise
        except TooLarge as error:
            if len(waiting) > 1:
                for each in waiting:
                    self._append([each])
                return
            _say.error("not published", topic=self._topic, camera=values[0][0], reason=str(error))
        self._done.update(waiting)

    def say(self) -> None:
        """Log why the topic refuses what waits, once for a time, and that it takes it again."""
        if self._news:
            _say.error(self._news, topic=self._topic)
            self._news, self._was_said = "", True
        elif self._was_said and self.refused is None:
            _say.info("the log takes what waited", topic=self._topic)
            self._was_said = False

    def _refuse(self, error: StorageError) -> None:
        """Note why nothing more is taken for now; it is news where it was not so of late."""
        told, now = str(error), self._clock()
        kind = re.sub(r"\d+", "", told)  # offsets and times differ from try to try
        if now - self._refused_at.get(kind, float("-inf")) > PEACE:
            self._news = told
        self._refused_at[kind] = now
        self._rest = min(max(BLOCKED_SECONDS, 2 * self._rest), LONGEST_REST)
        self._again_at = now + self._rest
        self.refused = error if isinstance(error, StorageBlocked) else StorageBlocked(told)

    def _accept(self) -> None:
        self._news, self._rest, self.refused = "", 0.0, None
