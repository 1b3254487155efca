"""Processes that are forked from a fork server, which has loaded their shared modules.

`multiprocessing` watches such a process through the server: if that is killed, running processes
look dead. So a descriptor (`pidfd_open(2)`) watches and signals each process, which also means
that no signal reaches another process with the same number.
"""

import os
import select
import signal
from contextlib import suppress
from multiprocessing import forkserver, get_all_start_methods
from multiprocessing.context import ForkServerProcess

PRELOADED_MODULE = "deploy.runtime.shared_modules"
"""The module that the fork server loads."""
_EXIT_CODE_SECONDS = 1.0
"""Seconds in which the fork server reports the exit code of a process that ended."""


def can_fork() -> bool:
    """Return whether processes can be forked here: on Linux 5.3 and later."""
    if "forkserver" not in get_all_start_methods() or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an older kernel, or a container that forbids it
        return False
    return True


class ForkedProcess(ForkServerProcess):
    """A process that is forked from the fork server, and can outlive it."""

    _descriptor: int | None = None

    def start(self) -> None:
        """Start the process, and a fork server if there is none; raise OSError, EOFError.

        The fork server, and so its processes, inherit the blocked signals of this process.
        """
        forkserver.set_forkserver_preload([PRELOADED_MODULE])
        super().start()
        try:
            self._descriptor = os.pidfd_open(self.pid or 0)
        except ProcessLookupError:
            return  # it has ended already
        except OSError:
            super().kill()
            raise
        # In this order: the descriptor reports the end of a process before the server does.
        self._poll = select.poll()
        self._poll.register(self.sentinel, select.POLLIN)
        self._poll.register(self._descriptor, select.POLLIN)

    @property
    def has_lost_server(self) -> bool:
        """Return whether the process runs while its fork server does not."""
        return self._descriptor is not None and self._readable(0) == {self.sentinel}

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._descriptor is not None and self._descriptor not in self._readable(0)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the process, and for its exit code."""
        if self._descriptor is not None:
            waiter = select.poll()
            waiter.register(self._descriptor, select.POLLIN)
            if not waiter.poll(None if timeout is None else timeout * 1000):
                return
            self._reap(self._descriptor)
        super().join(_EXIT_CODE_SECONDS)

    def terminate(self) -> None:
        """Send SIGTERM, unless the process has ended."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        self._signal(signal.SIGKILL)

    def _readable(self, milliseconds: int) -> set[int]:
        return {descriptor for descriptor, _ in self._poll.poll(milliseconds)}

    def _reap(self, descriptor: int) -> None:
        """Reap the process: it became our child if its server ended and we are process 1."""
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)
        os.close(descriptor)
        self._descriptor = None

    def _signal(self, number: signal.Signals) -> None:
        if self._descriptor is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)
