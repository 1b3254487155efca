"""Log repeated warnings once a minute."""

from collections.abc import Callable

import structlog

_INTERVAL = 60.0


class ThrottledWarnings:
    """Log each warning about a camera once a minute at most; `steady` returns seconds."""

    def __init__(self, camera: str, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._next_allowed: dict[str, float] = {}
        self._logger = structlog.get_logger().bind(camera=camera)

    def warn(self, event: str, **fields: object) -> None:
        """Log a warning, unless the same was logged within the last minute."""
        now = self._steady()
        if now >= self._next_allowed.get(event, now):
            self._next_allowed[event] = now + _INTERVAL
            self._logger.warning(event, **fields)
