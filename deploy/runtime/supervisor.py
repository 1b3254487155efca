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

from deploy.errors import BadSettings
from deploy.runtime.daemon import (
    EXIT_UNFIT,
    MAX_REASON_BYTES,
    MODEL_LOAD_SECONDS,
    ProcessRole,
    run_role,
)
from deploy.runtime.forked import ForkedProcess, can_fork
from storage.backoff import MAX_SECONDS, backoff_seconds
from storage.role_problems import RoleProblem, clear_role_problem, write_role_problem

POLL_SECONDS = 0.2
STARTUP_SECONDS = 120.0
"""Seconds from the start of a process until its first promise."""
MAX_SPAWNING, MAX_FORKING = 4, 16
"""How many processes start at a time, new ones and forked ones: hundreds at once would be late."""
GRACE_SECONDS = 10.0
"""Seconds from SIGTERM to SIGKILL."""
STABLE_SECONDS = 60.0
"""A process that lived this long did not fail at its start."""
STARTED_SECONDS = MODEL_LOAD_SECONDS
"""A process that lived this long had started: no start takes longer."""
UNFIT_PAUSE_SECONDS = 300.0
"""The longest pause of a role that cannot run as it is configured: a server that takes its old
password again, or a topic that was mended, makes it run."""

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}

logger = structlog.get_logger()


class ChildProcess:
    """The process of a role: one at a time, with a deadline that it moves itself."""

    def __init__(self, role: ProcessRole) -> None:
        self.role = role
        self.is_forked = role.is_forked and can_fork()
        self.process: SpawnProcess | ForkedProcess | None = None
        self.problem = ""
        """Why it cannot run as it is configured; empty for one that runs, or is tried again."""
        self._deadline = RawValue(c_double, 0.0)
        self._reason = RawArray(c_char, MAX_REASON_BYTES + 1)
        self._started = 0.0
        self._lost_server = False
        self.failures = 0
        self.has_run = False
        """Whether it ran once: what can run is not given up."""
        self.next_start = 0.0

    @property
    def is_starting(self) -> bool:
        """Tell whether the process has not been heard of yet."""
        return self.process is not None and self._deadline.value == self._started + STARTUP_SECONDS

    def is_due(self, now: float) -> bool:
        """Return whether the process should run and does not."""
        return self.process is None and now >= self.next_start

    def poll(self, now: float) -> None:
        """Kill the process if it broke its promise, note it if it died."""
        if self.process is None:
            return
        if not self.process.is_alive():
            self.process.join()
            self._schedule_restart(self.process.exitcode, now)
        elif now > self._deadline.value:
            logger.error("process hangs, killed", process=self.role.name)
            self.process.kill()
            self.process.join()
        elif self.problem and now - self._started >= STABLE_SECONDS:
            logger.info("role runs again", process=self.role.name)
            self.problem = ""

    def take_lost_server(self) -> bool:
        """Return whether the process goes on without its fork server; True once for each."""
        process = self.process
        if self._lost_server or not isinstance(process, ForkedProcess):
            return False
        self._lost_server = process.has_lost_server
        return self._lost_server

    def start(self, now: float) -> None:
        """Start the process; where this machine has no room for it, later."""
        self._deadline.value = now + STARTUP_SECONDS
        self._started = now
        self._reason.value = b""
        process = self._new_process()
        try:
            with _signals_blocked():
                process.start()
        except (OSError, EOFError) as error:
            self._schedule_retry(error, now)
            return
        self.process = process
        self._lost_server = False
        logger.info("process started", process=self.role.name, pid=process.pid)

    def _new_process(self) -> SpawnProcess | ForkedProcess:
        kind = ForkedProcess if self.is_forked else SpawnProcess
        arguments = (self.role, self._deadline, self._reason)
        return kind(target=run_role, args=arguments, name=self.role.name, daemon=True)

    def _schedule_retry(self, error: OSError | EOFError, now: float) -> None:
        """Choose when a process that could not be started is tried again."""
        self.failures += 1
        pause = backoff_seconds(self.failures, random.random(), MAX_SECONDS)
        self.next_start = now + pause
        logger.error(
            "process not started: check the limits of open files, processes and memory",
            process=self.role.name,
            reason=str(error),
            in_seconds=round(pause, 1),
        )

    def _schedule_restart(self, exit_code: int | None, now: float) -> None:
        """Choose when a process that ended is started again."""
        self.process = None
        self.has_run = self.has_run or now - self._started >= STARTED_SECONDS
        is_unfit = exit_code == EXIT_UNFIT
        # What takes minutes to find out that it is unfit must not be started again at once.
        steady, longest = (
            (UNFIT_PAUSE_SECONDS, UNFIT_PAUSE_SECONDS)
            if is_unfit
            else (STABLE_SECONDS, MAX_SECONDS)
        )
        self.failures = 1 if now - self._started >= steady else self.failures + 1
        pause = backoff_seconds(self.failures, random.random(), longest)
        self.next_start = now + pause
        if is_unfit:
            self._record_problem(pause)
            return
        self.problem = ""
        logger.error(
            "process ended, started again",
            process=self.role.name,
            exit_code=exit_code,
            in_seconds=round(pause, 1),
        )

    def _record_problem(self, pause: float) -> None:
        reason = self._reason.value.decode(errors="replace")
        self.problem = reason or "it ended with exit code 2, see its last line"
        logger.error(
            "role held back, the others go on",
            process=self.role.name,
            reason=self.problem,
            in_seconds=round(pause, 1),
        )


class Supervisor:
    """The children of one longwatch; `data` is where it writes which of them are held back."""

    def __init__(
        self, roles: Sequence[ProcessRole], grace: float = GRACE_SECONDS, data: Path | None = None
    ) -> None:
        self._grace = grace
        self._data = data
        self._written_reasons = dict[str, str]()
        self.children = {role.name: ChildProcess(role) for role in roles}

    def run(self, stop: threading.Event) -> None:
        """Tend the children until `stop` is set, then end them."""
        try:
            while not stop.wait(POLL_SECONDS):
                self.run_once()
        finally:
            self.stop_children()

    def run_once(self) -> None:
        """Look after each child once, and start those that are due, the longest due first.

        Raises BadSettings where every role is held back and none ever ran: what cannot run at
        all must not look alive.
        """
        now = time.monotonic()
        children = list(self.children.values())
        for child in children:
            child.poll(now)
        lost = sum(child.take_lost_server() for child in children)
        if lost:
            logger.error("the fork server was killed: its processes go on", processes=lost)
        self._write_role_problems(children)
        if children and all(child.problem and not child.has_run for child in children):
            raise BadSettings(*(f"{child.role.name}: {child.problem}" for child in children))
        _start_due([child for child in children if not child.is_forked], MAX_SPAWNING, now)
        _start_due([child for child in children if child.is_forked], MAX_FORKING, now)

    def _write_role_problems(self, children: Sequence[ChildProcess]) -> None:
        """Write which roles are held back, where that has changed."""
        for child in children:
            name, reason = child.role.name, child.problem
            if self._data is None or self._written_reasons.get(name) == reason:
                continue
            self._written_reasons[name] = reason
            try:
                if reason:
                    problem = RoleProblem(role=name, reason=reason, since=datetime.now(UTC))
                    write_role_problem(self._data, problem)
                else:
                    clear_role_problem(self._data, name)
            except OSError as error:
                logger.error("role held back: not written", reason=error.strerror)

    def add(self, role: ProcessRole) -> None:
        """Take on one more role."""
        self.children[role.name] = ChildProcess(role)

    def stop_children(self, *names: str) -> None:
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


def _start_due(children: Sequence[ChildProcess], at_a_time: int, now: float) -> None:
    """Start the children that are due, the longest due first, so many at a time."""
    free = at_a_time - sum(child.is_starting for child in children)
    due = sorted(
        (child for child in children if child.is_due(now)), key=lambda child: child.next_start
    )
    for child in due[: max(0, free)]:
        child.start(now)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let a new process inherit blocked signals, until it can handle them."""
    # The tracker unblocks them when it starts, so it has to run before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
