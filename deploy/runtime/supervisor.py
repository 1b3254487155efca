"""Keep one process per role alive: start it, watch its deadline, restart it, stop it."""

import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_char, c_double
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import RawArray, RawValue
from pathlib import Path

import structlog

from deploy.errors import BadSettings
from deploy.runtime.forked import ForkedProcess, can_fork
from deploy.runtime.process import EXIT_UNFIT, MAX_REASON_BYTES, ProcessRole, run_role
from deploy.runtime.refusals import write_problem
from deploy.runtime.roles import MODEL_LOAD_SECONDS
from storage.backoff import MAX_SECONDS, backoff_seconds

POLL_SECONDS = 0.2
STARTUP_SECONDS = 120.0
"""Seconds from the start of a process until its first keepalive."""
MAX_SPAWNING, MAX_FORKING = 4, 16
"""The most processes that start at a time, spawned and forked: hundreds would miss deadlines."""
GRACE_SECONDS = 10.0
"""Seconds from SIGTERM to SIGKILL."""
STABLE_SECONDS = 60.0
"""A process that ran this long did not fail at its start."""
STARTED_SECONDS = MODEL_LOAD_SECONDS
"""A process that ran this long has started: no start takes longer."""
UNFIT_PAUSE_SECONDS = 300.0
"""The longest pause of a role that cannot run as it is configured: a server may be repaired."""

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}

logger = structlog.get_logger()


class ChildProcess:
    """The process of a role, with a deadline that it moves itself."""

    def __init__(self, role: ProcessRole) -> None:
        self.role = role
        self.is_forked = role.is_forked and can_fork()
        self.process: SpawnProcess | ForkedProcess | None = None
        self.problem = ""
        """Why the role cannot run as it is configured; empty if it can."""
        self._deadline = RawValue(c_double, 0.0)
        self._reason = RawArray(c_char, MAX_REASON_BYTES + 1)
        self._started = 0.0
        self._lost_server = False
        self.failures = 0
        self.has_run = False
        """Whether it ran once: such a role never ends the supervisor."""
        self.next_start = 0.0

    @property
    def is_starting(self) -> bool:
        """Return whether the process has sent no keepalive yet."""
        return self.process is not None and self._deadline.value == self._started + STARTUP_SECONDS

    def is_due(self, now: float) -> bool:
        """Return whether it is time to start the process."""
        return self.process is None and now >= self.next_start

    def poll(self, now: float) -> None:
        """Kill the process if its deadline has passed; schedule a restart if it ended."""
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
        """Return whether the process has lost its fork server; True once for each loss."""
        process = self.process
        if self._lost_server or not isinstance(process, ForkedProcess):
            return False
        self._lost_server = process.has_lost_server
        return self._lost_server

    def start(self, now: float) -> None:
        """Start the process, or schedule a retry if the machine refuses."""
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
        """Schedule another attempt to start the process."""
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
        """Schedule the restart of a process that ended."""
        self.process = None
        self.has_run = self.has_run or now - self._started >= STARTED_SECONDS
        is_unfit = exit_code == EXIT_UNFIT
        # A process may need minutes to find that it is unfit: it must not restart at once.
        stable, longest = STABLE_SECONDS, MAX_SECONDS
        if is_unfit:
            stable = longest = UNFIT_PAUSE_SECONDS
        self.failures = 1 if now - self._started >= stable else self.failures + 1
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
    """The processes of one longwatch; it writes to `data` which roles are held back."""

    def __init__(
        self, roles: Sequence[ProcessRole], grace: float = GRACE_SECONDS, data: Path | None = None
    ) -> None:
        self._grace = grace
        self._data = data
        self._written_reasons = dict[str, str]()
        self.children = {role.name: ChildProcess(role) for role in roles}

    def run(self, stop: threading.Event) -> None:
        """Keep the children alive until `stop` is set, then stop them."""
        try:
            while not stop.wait(POLL_SECONDS):
                self.run_once()
        finally:
            self.stop_children()

    def run_once(self) -> None:
        """Check each child once, and start those that are due.

        Raises BadSettings if every role is held back and none ever ran: a supervisor without any
        role must not look alive.
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
        """Write which roles are held back, if that has changed."""
        for child in children:
            name, reason = child.role.name, child.problem
            if self._data is None or self._written_reasons.get(name) == reason:
                continue
            self._written_reasons[name] = reason
            write_problem(self._data, name, reason)

    def add(self, role: ProcessRole) -> None:
        """Add a role."""
        self.children[role.name] = ChildProcess(role)

    def stop_children(self, *names: str) -> None:
        """Stop the named children, all by default; kill those that do not stop in time."""
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
    """Start the children that are due, the longest due first, a few at a time."""
    free = at_a_time - sum(child.is_starting for child in children)
    due = [child for child in children if child.is_due(now)]
    for child in sorted(due, key=lambda child: child.next_start)[: max(0, free)]:
        child.start(now)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let a new process inherit blocked signals; it unblocks them once it can handle them."""
    # The tracker unblocks signals when it starts, so start it first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
