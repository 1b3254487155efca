"""Write to the data directory which roles are held back, and why."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import structlog

from deploy.config.data_dir import StorageLocations
from storage.log.kafka.client.refusals import Refusals
from storage.role_problems import REFUSED_MARK, RoleProblem, clear_role_problem, write_role_problem

_POLL_SECONDS = 2.0

logger = structlog.get_logger()


def write_problem(data: Path, role: str, reason: str, mark: str = "") -> None:
    """Write why a role is held back; clear it if the reason is empty."""
    try:
        if reason:
            problem = RoleProblem(role=role, reason=reason, since=datetime.now(UTC))
            write_role_problem(data, problem, mark)
        else:
            clear_role_problem(data, role, mark)
    except OSError as error:
        logger.error("role held back: not written", reason=error.strerror)


@contextmanager
def report_refusals(role: str, locations: StorageLocations | None) -> Iterator[None]:
    """Report a role as held back while the brokers refuse what it needs."""
    if locations is None or isinstance(locations.log, Path):
        yield
        return
    stop = threading.Event()
    arguments = (role, locations.data, locations.log.refusals, stop)
    thread = threading.Thread(
        target=_report_until_stopped, args=arguments, name="refusals", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _report_until_stopped(role: str, data: Path, refusals: Refusals, stop: threading.Event) -> None:
    reported: list[str] | None = None
    while not stop.wait(_POLL_SECONDS):
        reasons = refusals.current_reasons()
        if reasons != reported:
            _report(role, data, reasons, was_held_back=bool(reported))
        reported = reasons
    if reported:
        _report(role, data, [], was_held_back=True)


def _report(role: str, data: Path, reasons: list[str], *, was_held_back: bool) -> None:
    reason = "; ".join(reasons)
    write_problem(data, role, reason, REFUSED_MARK)
    if reason:
        logger.error("role held back until it is allowed", reason=reason)
    elif was_held_back:
        logger.info("role runs again")
