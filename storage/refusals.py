"""What a server refuses at the moment, of what it allowed when we started."""

import time
from collections.abc import Callable
from typing import NamedTuple

RETRY = 30.0
"""Seconds until what was refused is tried again."""
_FORGOTTEN = 90.0
"""Seconds after which nobody tries any more what was refused and not tried again."""


class Use(NamedTuple):
    """What is tried: a topic or a group, as the server calls it, and the right that it takes."""

    topic: str = ""
    right: str = ""
    group: str = ""


class Refusals:
    """The refusals of one process, shared by all that use a place; called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted: dict[Use, tuple[float, str]] = {}

    def note(self, use: Use, reason: str) -> None:
        """Note that something was tried and refused just now."""
        self._noted[use] = (self._clock(), reason)

    def forget(self, use: Use) -> None:
        """Note that something was tried and allowed."""
        self._noted.pop(use, None)

    def waiting(self, use: Use) -> str:
        """Return why something was refused that is too early to try again; else nothing."""
        at, reason = self._noted.get(use, (0.0, ""))
        return reason if any(use) and reason and self._clock() < at + RETRY else ""

    def current(self) -> list[str]:
        """Return the reasons of all that is refused now."""
        since = self._clock() - _FORGOTTEN
        return sorted({reason for at, reason in list(self._noted.values()) if at >= since})
