"""Operations that a server refuses now and allowed at our start."""

import time
from collections.abc import Callable
from typing import NamedTuple

RETRY_SECONDS = 30.0
"""Seconds until a refused operation is retried."""
_EXPIRY_SECONDS = 90.0
"""Seconds after which a refusal that was not repeated no longer counts."""


class ResourceOperation(NamedTuple):
    """An operation (READ, WRITE, ...) on a topic or a group, by its name on the server."""

    topic: str = ""
    operation: str = ""
    group: str = ""


class Refusals:
    """The refusals of one process, shared by its clients; any thread may use it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reasons: dict[ResourceOperation, tuple[float, str]] = {}

    def record(self, operation: ResourceOperation, reason: str) -> None:
        """Record that an operation was refused just now."""
        self._reasons[operation] = (self._clock(), reason)

    def clear(self, operation: ResourceOperation) -> None:
        """Record that an operation was allowed."""
        self._reasons.pop(operation, None)

    def recent_reason(self, operation: ResourceOperation) -> str:
        """Return the reason of a refusal that is too recent to retry, or empty."""
        at, reason = self._reasons.get(operation, (0.0, ""))
        return reason if any(operation) and reason and self._clock() < at + RETRY_SECONDS else ""

    def current_reasons(self) -> list[str]:
        """Return the reasons of all current refusals."""
        since = self._clock() - _EXPIRY_SECONDS
        return sorted({reason for at, reason in list(self._reasons.values()) if at >= since})
