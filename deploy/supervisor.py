"""Keep one process per role alive: start it, watch its promise, start it again, stop it."""

import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_double
from multiprocessing import get_context, resource_tracker
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import RawValue

import structlog

from deploy.daemon import Role, enter
from deploy.errors import BadSettings

TICK = 0.2
START_UP = 120.0
"""Seconds from the start of a process until its first promise."""
STARTING = 4
"""So many processes start at a time: hundreds at once would all be late."""
GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL."""
STEADY = 60.0
"""A process that lived this long did not fail at its start."""
LONGEST_PAUSE = 30.0
UNFIT = 2
"""The exit code of a process that would end the same way however often it is started."""

_SPAWN = get_context("spawn")
_STOPPING = {signal.SIGINT, signal.SIGTERM}

logger = structlog.get_logger()


def pause_after(failures: int, chance: float) -> float:
    """Return the seconds to wait after so many failures in a row; `chance` is in 0..1."""
    longest = min(LONGEST_PAUSE, 2.0**failures)
    return 1.0 + chance * (longest - 1.0)


class Child:
    """The process of a role: one at a time, with a deadline that it moves itself."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.process: SpawnProcess | None = None
        self._deadline = RawValue(c_double, 0.0)
        self._started = 0.0
        self._failures = 0
        self._next_start = 0.0

    @property
    def is_starting(self) -> bool:
        """Tell whether the process has not been heard of yet."""
        return self.process is not None and self._deadline.value == self._started + START_UP

    def is_due(self, now: float) -> bool:
        """Tell whether the process should run and does not."""
        return self.process is None and now >= self._next_start

    def tend(self, now: float) -> None:
        """Kill the process if it broke its promise, note it if it died."""
        if self.process is None:
            return
        if not self.process.is_alive():
            self._note_death(self.process, now)
        elif now > self._deadline.value:
            logger.error("process hangs, killed", process=self.role.name)
            self.process.kill()
            self.process.join()

    def start(self, now: float) -> None:
        """Start the process."""
        self._deadline.value = now + START_UP
        self._started = now
        arguments = (self.role, self._deadline)
        process = _SPAWN.Process(target=enter, args=arguments, name=self.role.name, daemon=True)
        with _signals_held():
            process.start()
        self.process = process
        logger.info("process started", process=self.role.name, pid=process.pid)

    def _note_death(self, process: SpawnProcess, now: float) -> None:
        if process.exitcode == UNFIT:
            told = "cannot run as it is configured, see its last line"
            raise BadSettings(f"{self.role.name}: {told}")
        self._failures = 1 if now - self._started >= STEADY else self._failures + 1
        pause = pause_after(self._failures, random.random())
        logger.error(
            "process ended, started again",
            process=self.role.name,
            exit_code=process.exitcode,
            in_seconds=round(pause, 1),
        )
        self.process = None
        self._next_start = now + pause


class Supervisor:
    """The children of one longwatch."""

    def __init__(self, roles: Sequence[Role], grace: float = GRACE) -> None:
        self._grace = grace
        self.children = {role.name: Child(role) for role in roles}

    def run(self, stop: threading.Event) -> None:
        """Tend the children until `stop` is set, then end them."""
        try:
            while not stop.wait(TICK):
                self.tend()
        finally:
            self.end()

    def tend(self) -> None:
        """Look after each child once, and start those that are due."""
        now = time.monotonic()
        children = list(self.children.values())
        for child in children:
            child.tend(now)
        free = STARTING - sum(child.is_starting for child in children)
        for child in [child for child in children if child.is_due(now)][: max(0, free)]:
            child.start(now)

    def add(self, role: Role) -> None:
        """Take on one more role."""
        self.children[role.name] = Child(role)

    def end(self, *names: str) -> None:
        """Let the named children finish, all of them by default; kill what takes too long."""
        ending = [self.children.pop(name) for name in names or list(self.children)]
        processes = [child.process for child in ending if child.process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self._grace
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                logger.warning("process does not stop, killed", process=process.name)
                process.kill()
                process.join()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let a new process inherit blocked signals, until it can handle them."""
    # The tracker unblocks them when it starts, so it has to run before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
