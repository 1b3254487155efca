"""Open storage that may not answer yet."""

import sys
from collections.abc import Callable
from threading import Event
from typing import TypeVar

import structlog

from storage.errors import StorageBlocked
from storage.log.lazy_log import LazyLog
from storage.log.log import Log
from storage.loop import retry_until_done

Resource = TypeVar("Resource")
_KEEPALIVE_SECONDS, _RETRY_SECONDS = 60.0, 1.0

logger = structlog.get_logger()


def open_with_retry(
    open_resource: Callable[[], Resource], stop: Event, keepalive: Callable[[float], None]
) -> Resource:
    """Open, and retry while storage is blocked; exit with 0 once stopped. Raise StorageUnfit."""

    def attempt() -> Resource:
        keepalive(_KEEPALIVE_SECONDS)
        return open_resource()

    resource = retry_until_done(attempt, stop, logger, seconds=_RETRY_SECONDS)
    if resource is None:
        sys.exit(0)
    return resource


def open_or_defer(open_log: Callable[[], Log], keepalive: Callable[[float], None]) -> LazyLog:
    """Return a log that is open, or opens once storage answers. Raise StorageUnfit."""
    keepalive(_KEEPALIVE_SECONDS)
    log = LazyLog(open_log)
    try:
        log.open()
    except StorageBlocked as error:
        logger.error(str(error))
    return log
