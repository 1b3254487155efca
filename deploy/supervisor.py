"""Keep one process per role alive: start it, watch its promise, start it again, stop it."""

import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_char, c_double
from datetime import UTC, datetime
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import RawArray, RawValue
from pathlib import Path

import structlog

from deploy.daemon import LOADING, LONGEST_REASON, UNFIT, Role, enter
from deploy.errors import BadSettings
from deploy.forked import ForkedProcess, can_fork
from storage.backoff import LONGEST, backoff
from storage.held_back import HeldBack, hold_back, release

TICK = 0.2
START_UP = 120.0
"""Seconds from the start of a process until its first promise."""
STARTING, FORKING = 4, 16
"""How many processes start at a time, new ones and forked ones: hundreds at once would be late."""
GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL."""
STEADY = 60.0
"""A process that lived this long did not fail at its start."""
STARTED = LOADING
"""A process that lived this long had started: no start takes longer."""
HELD_BACK = 300.0
"""The longest pause of a role that cannot run as it is configured: a server that takes its old
password again, or a topic that was mended, makes it run."""

_STOPPING = {signal.SIGINT, signal.SIGTERM}

logger = structlog.get_logger()


class Child:
    """The process of a role: one at a time, with a deadline that it moves itself."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.is_forked = role.is_forked and can_fork()
        self.process: SpawnProcess | ForkedProcess | None = None
        self.held_back = ""
        """Why it cannot run as it is configured; empty for one that runs, or is tried again."""
        self._deadline = RawValue(c_double, 0.0)
        self._reason = RawArray(c_char, LONGEST_REASON + 1)
        self._started = 0.0
        self._lost_server = False
        self.failures = 0
        self.has_run = False
        """Whether it ran once: what can run is not given up."""
        self.next_start = 0.0

    @property
    def is_starting(self) -> bool:
        """Tell whether the process has not been heard of yet."""
        return self.process is not None and self._deadline.value == self._started + START_UP

    def is_due(self, now: float) -> bool:
        """Return whether the process should run and does not."""
        return self.process is None and now >= self.next_start

    def tend(self, now: float) -> None:
        """Kill the process if it broke its promise, note it if it died."""
        if self.process is None:
            return
        if not self.process.is_alive():
            self.process.join()
            self._note_end(self.process.exitcode, now)
        elif now > self._deadline.value:
            logger.error("process hangs, killed", process=self.role.name)
            self.process.kill()
            self.process.join()
        elif self.held_back and now - self._started >= STEADY:
            logger.info("role runs again", process=self.role.name)
            self.held_back = ""

    def take_lost_server(self) -> bool:
        """Return whether the process goes on without its fork server; True once for each."""
        process = self.process
        if self._lost_server or not isinstance(process, ForkedProcess):
            return False
        self._lost_server = process.has_lost_server
        return self._lost_server

    def start(self, now: float) -> None:
        """Start the process; where this machine has no room for it, later."""
        self._deadline.value = now + START_UP
        self._started = now
        self._reason.value = b""
        process = self._new_process()
        try:
            with _signals_held():
                process.start()
        except (OSError, EOFError) as error:
            self._start_later(error, now)
            return
        self.process = process
        self._lost_server = False
        logger.info("process started", process=self.role.name, pid=process.pid)

    def _new_process(self) -> SpawnProcess | ForkedProcess:
        kind = ForkedProcess if self.is_forked else SpawnProcess
        arguments = (self.role, self._deadline, self._reason)
        return kind(target=enter, args=arguments, name=self.role.name, daemon=True)

    def _start_later(self, error: OSError | EOFError, now: float) -> None:
        """Choose when a process that could not be started is tried again."""
        self.failures += 1
        pause = backoff(self.failures, random.random(), LONGEST)
        self.next_start = now + pause
        logger.error(
            "process not started: check the limits of open files, processes and memory",
            process=self.role.name,
            reason=str(error),
            in_seconds=round(pause, 1),
        )

    def _note_end(self, exit_code: int | None, now: float) -> None:
        """Choose when a process that ended is started again."""
        self.process = None
        self.has_run = self.has_run or now - self._started >= STARTED
        is_unfit = exit_code == UNFIT
        # What takes minutes to find out that it is unfit must not be started again at once.
        steady, longest = (HELD_BACK, HELD_BACK) if is_unfit else (STEADY, LONGEST)
        self.failures = 1 if now - self._started >= steady else self.failures + 1
        pause = backoff(self.failures, random.random(), longest)
        self.next_start = now + pause
        if is_unfit:
            self._hold_back(pause)
            return
        self.held_back = ""
        logger.error(
            "process ended, started again",
            process=self.role.name,
            exit_code=exit_code,
            in_seconds=round(pause, 1),
        )

    def _hold_back(self, pause: float) -> None:
        reason = self._reason.value.decode(errors="replace")
        self.held_back = reason or "it ended with exit code 2, see its last line"
        logger.error(
            "role held back, the others go on",
            process=self.role.name,
            reason=self.held_back,
            in_seconds=round(pause, 1),
        )


class Supervisor:
    """The children of one longwatch; `data` is where it writes which of them are held back."""

    def __init__(
        self, roles: Sequence[Role], grace: float = GRACE, data: Path | None = None
    ) -> None:
        self._grace = grace
        self._data = data
        self._written = dict[str, str]()
        self.children = {role.name: Child(role) for role in roles}

    def run(self, stop: threading.Event) -> None:
        """Tend the children until `stop` is set, then end them."""
        try:
            while not stop.wait(TICK):
                self.tend()
        finally:
            self.end()

    def tend(self) -> None:
        """Look after each child once, and start those that are due, the longest due first.

        Raises BadSettings where every role is held back and none ever ran: what cannot run at
        all must not look alive.
        """
        now = time.monotonic()
        children = list(self.children.values())
        for child in children:
            child.tend(now)
        lost = sum(child.take_lost_server() for child in children)
        if lost:
            logger.error("the fork server was killed: its processes go on", processes=lost)
        self._write_held_back(children)
        if children and all(child.held_back and not child.has_run for child in children):
            raise BadSettings(*(f"{child.role.name}: {child.held_back}" for child in children))
        _start_due([child for child in children if not child.is_forked], STARTING, now)
        _start_due([child for child in children if child.is_forked], FORKING, now)

    def _write_held_back(self, children: Sequence[Child]) -> None:
        """Write which roles are held back, where that has changed."""
        for child in children:
            name, reason = child.role.name, child.held_back
            if self._data is None or self._written.get(name) == reason:
                continue
            self._written[name] = reason
            try:
                if reason:
                    held = HeldBack(role=name, reason=reason, since=datetime.now(UTC))
                    hold_back(self._data, held)
                else:
                    release(self._data, name)
            except OSError as error:
                logger.error("role held back: not written", reason=error.strerror)

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


def _start_due(children: Sequence[Child], at_a_time: int, now: float) -> None:
    """Start the children that are due, the longest due first, so many at a time."""
    free = at_a_time - sum(child.is_starting for child in children)
    due = sorted(
        (child for child in children if child.is_due(now)), key=lambda child: child.next_start
    )
    for child in due[: max(0, free)]:
        child.start(now)


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
