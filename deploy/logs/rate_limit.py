"""Limit the log lines of libraries to one a minute of each kind."""

import logging
import re
import threading
import time
from collections.abc import Callable

INTERVAL_SECONDS = 60.0
"""Seconds between two lines of a kind."""
_MAX_KINDS = 500
"""The most kinds; further records are of the kind of their logger."""
_VARIABLE_TEXT = re.compile(r"'[^']*'|\"[^\"]*\"|[0-9a-f]{8}-[0-9a-f-]{27}|\d+")


class RateLimitFilter(logging.Filter):
    """Let the first record of a kind through, and another a minute later.

    Records of a kind have one logger, one level, and one text apart from numbers and quotes.
    `left_out` of a record counts those of its kind that were dropped before it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._passed: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is let through."""
        now = self._clock()
        with self._lock:
            kind = self._kind(record)
            until, left_out = self._passed.get(kind, (now, 0))
            if now < until:
                self._passed[kind] = (until, left_out + 1)
                return False
            self._passed[kind] = (now + INTERVAL_SECONDS, 0)
        record.left_out = left_out
        return True

    def _kind(self, record: logging.LogRecord) -> tuple[str, int, str]:
        text = record.getMessage() if record.msg == "%s" else str(record.msg)
        kind = record.name, record.levelno, _VARIABLE_TEXT.sub("#", text)
        is_known = kind in self._passed or len(self._passed) < _MAX_KINDS
        return kind if is_known else (*kind[:2], "")
