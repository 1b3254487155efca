"""The message that always comes: its silence tells an outside receiver that longwatch is dead."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """How often which receivers are told."""

    every: timedelta
    notify: tuple[str, ...]

    def number(self, now: datetime) -> int:
        """Return which beat an instant belongs to: the same whoever asks, after a crash, too."""
        return (now - _EPOCH) // self.every

    def is_due(self, last: datetime | None, now: datetime) -> bool:
        """Tell whether a beat is due, the last one sent being of `last`.

        A clock that was set back makes one due at once, and the beats go on from there.
        """
        return last is None or self.number(last) != self.number(now)
