"""A role that a server refuses what it once allowed: it waits, and its data directory says so."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from storage.log.kafka.client.refusals import Refusals
from storage.role_problems import REFUSED_MARK, RoleProblem, clear_role_problem, write_role_problem

if TYPE_CHECKING:
    from deploy.config.data_dir import StorageLocations

_POLL_SECONDS = 2.0

logger = structlog.get_logger()


@contextmanager
def report_refusals(role: str, locations: "StorageLocations | None") -> Iterator[None]:
    """Write that a role is held back while what its log refuses makes it wait."""
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
        reported = _report_change(role, data, refusals.current_reasons(), reported)
    if reported:
        _report_change(role, data, [], reported)


def _report_change(
    role: str, data: Path, reasons: list[str], reported: list[str] | None
) -> list[str] | None:
    """Write what has changed; return what is written now, None where nothing ever was."""
    if reasons == reported:
        return reported
    try:
        if reasons:
            now = datetime.now(UTC)
            write_role_problem(
                data, RoleProblem(role=role, reason="; ".join(reasons), since=now), REFUSED_MARK
            )
        else:
            clear_role_problem(data, role, REFUSED_MARK)
    except OSError as error:
        logger.error("role held back: not written", reason=error.strerror)
    if reasons:
        logger.error("role held back until it is allowed", reason="; ".join(reasons))
    elif reported:
        logger.info("role runs again")
    return reasons
