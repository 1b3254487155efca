"""A role that a server refuses what it once allowed: it waits, and its data directory says so."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from storage.held_back import REFUSED, HeldBack, hold_back, release
from storage.refusals import Refusals

if TYPE_CHECKING:
    from deploy.data import Places

_LOOK_SECONDS = 2.0

logger = structlog.get_logger("deploy.refused")


@contextmanager
def refusals_shown(role: str, places: "Places | None") -> Iterator[None]:
    """Write that a role is held back while what its log refuses makes it wait."""
    if places is None or isinstance(places.log, Path):
        yield
        return
    stop = threading.Event()
    arguments = (role, places.data, places.log.refusals, stop)
    thread = threading.Thread(target=_show, args=arguments, name="refusals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show(role: str, data: Path, refusals: Refusals, stop: threading.Event) -> None:
    shown: list[str] | None = None
    while not stop.wait(_LOOK_SECONDS):
        shown = _show_once(role, data, refusals.current(), shown)
    if shown:
        _show_once(role, data, [], shown)


def _show_once(
    role: str, data: Path, reasons: list[str], shown: list[str] | None
) -> list[str] | None:
    """Write what has changed; return what is written now, None where nothing ever was."""
    if reasons == shown:
        return shown
    try:
        if reasons:
            now = datetime.now(UTC)
            hold_back(data, HeldBack(role=role, reason="; ".join(reasons), since=now), REFUSED)
        else:
            release(data, role, REFUSED)
    except OSError as error:
        logger.error("role held back: not written", reason=error.strerror)
    if reasons:
        logger.error("role held back until it is allowed", reason="; ".join(reasons))
    elif shown:
        logger.info("role runs again")
    return reasons
