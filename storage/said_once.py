"""What blocks storage, said once for as long as it does."""

import re

from structlog.typing import FilteringBoundLogger


class SaidOnce:
    """Log each different error once until storage works again."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        self._logger = logger
        self._said = set[str]()

    def say(self, error: Exception) -> None:
        """Log an error, unless nothing but its numbers differs from one that was logged."""
        kind = re.sub(r"\d+", "", str(error))
        if kind not in self._said:
            self._logger.error(str(error))
        self._said.add(kind)

    def forget(self) -> None:
        """Note that storage works: what is said next is news."""
        self._said.clear()
