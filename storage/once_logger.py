"""Log why storage is blocked, once for as long as it is."""

import re

from structlog.typing import FilteringBoundLogger


class OnceLogger:
    """Log each different error once until storage works again.

    The error is the log event, or the reason of `event` if one is given.
    """

    def __init__(self, logger: FilteringBoundLogger, event: str = "") -> None:
        self._logger = logger
        self._event = event
        self._logged = set[str]()

    def log_error(self, error: Exception) -> None:
        """Log an error, unless it differs only in its numbers from one already logged."""
        text = re.sub(r"\d+", "", str(error))
        if text not in self._logged:
            if self._event:
                self._logger.error(self._event, reason=str(error))
            else:
                self._logger.error(str(error))
        self._logged.add(text)

    def reset(self) -> None:
        """Note that storage works: log the next error again."""
        self._logged.clear()
