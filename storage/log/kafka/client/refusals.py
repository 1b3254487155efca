"""What a server refuses at the moment, of what it allowed when we started."""

import time
from collections.abc import Callable
from typing import NamedTuple

RETRY_SECONDS = 30.0
"""Seconds until what was refused is tried again."""
_EXPIRY_SECONDS = 90.0
"""Seconds after which nobody tries any more what was refused and not tried again."""


class ResourceOperation(NamedTuple):
    """What is tried: a topic or a group, as the server calls it, and the right that it takes."""

    topic: str = ""
    operation: str = ""
    group: str = ""


class Refusals:
    """The refusals of one process, shared by all that use a place; called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reasons: dict[ResourceOperation, tuple[float, str]] = {}

    def record(self, operation: ResourceOperation, reason: str) -> None:
        """Note that something was tried and refused just now."""
        self._reasons[operation] = (self._clock(), reason)

    def clear(self, operation: ResourceOperation) -> None:
        """Note that something was tried and allowed."""
        self._reasons.pop(operation, None)

    def recent_reason(self, operation: ResourceOperation) -> str:
        """Return why something was refused that is too early to try again; else nothing."""
        at, reason = self._reasons.get(operation, (0.0, ""))
        return reason if any(operation) and reason and self._clock() < at + RETRY_SECONDS else ""

    def current_reasons(self) -> list[str]:
        """Return the reasons of all that is refused now."""
        since = self._clock() - _EXPIRY_SECONDS
        return sorted({reason for at, reason in list(self._reasons.values()) if at >= since})
