"""What every process of a role does: how it starts, keeps its deadline, and ends."""

import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from ctypes import Array, c_char, c_double
from dataclasses import dataclass
from multiprocessing import connection, parent_process

import structlog

from deploy.config.data_dir import PRIVATE_UMASK, StorageLocations
from deploy.errors import CannotRun
from deploy.logs.redaction import SecretRedactor
from deploy.logs.setup import LoggingConfig, configure_logging
from deploy.runtime.refusals import report_refusals
from storage.errors import LeaseLost, StorageBlocked, StorageUnfit

EXIT_UNFIT = 2
"""The exit code of a process that cannot run as it is configured."""
MAX_REASON_BYTES = 500
"""Bytes of the reason that an unfit process reports."""
ORPHAN_GRACE_SECONDS = 5.0
"""Seconds that a process may take to stop after its supervisor died."""

logger = structlog.get_logger()

Keepalive = Callable[[float], None]
"""`keepalive(seconds)` moves the deadline: the supervisor kills a process that passes it."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ProcessRole(ABC):
    """What one process does; picklable, and without a repr that shows secrets.

    `is_forked` says that the process shares the modules that all cameras load (`shared_modules`).
    """

    name: str
    logging: LoggingConfig
    locations: StorageLocations | None = None
    is_forked: bool = False

    @abstractmethod
    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        """Work until `stop` is set, and move the deadline meanwhile."""


def run_role(role: ProcessRole, deadline: c_double, reason: Array[c_char]) -> None:
    """Be the process of a role until SIGTERM, SIGINT, a crash or the supervisor's death.

    A role that cannot run as it is configured writes why to `reason` and exits with EXIT_UNFIT.
    """
    os.umask(PRIVATE_UMASK)
    stop = stop_on_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    threading.Thread(target=_exit_with_parent, args=(stop,), daemon=True).start()
    configure_logging(role.logging, role.name)

    def keepalive(seconds: float) -> None:
        deadline.value = time.monotonic() + seconds

    try:
        with report_refusals(role.name, role.locations):
            role.run(stop, keepalive)
    except (CannotRun, StorageUnfit) as error:
        message = SecretRedactor(role.logging.secrets).redact(error)
        reason.value = message.encode()[:MAX_REASON_BYTES]
        logger.critical(message)
        sys.exit(EXIT_UNFIT)
    except (StorageBlocked, LeaseLost) as error:
        logger.critical(str(error))
        sys.exit(1)
    except Exception:
        logger.critical("process crashed", exc_info=True)
        sys.exit(1)


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def limit_threads(number: int) -> None:
    """Limit the threads of numeric libraries that are loaded after this."""
    os.environ.setdefault("OMP_NUM_THREADS", str(number))
    # Threads that spin while they wait made a busy machine 15 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _exit_with_parent(stop: threading.Event) -> None:
    """Set `stop` when the parent process is gone, and exit soon after."""
    parent = parent_process()
    if parent is None:
        raise RuntimeError("a role runs in its own process")
    connection.wait([parent.sentinel])
    stop.set()
    last_resort = threading.Timer(ORPHAN_GRACE_SECONDS, os._exit, (1,))
    last_resort.daemon = True
    last_resort.start()
