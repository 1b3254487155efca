"""The message that always comes: if it stops, the receiver knows that longwatch is dead."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from alerts.names import Name
from storage.settings import Duration

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Heartbeat(BaseModel):
    """How often a message is sent to which receivers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(minutes=1)
    notify: Annotated[tuple[Name, ...], Field(min_length=1)]

    def number(self, now: datetime) -> int:
        """Return the number of the beat of an instant, the same after a restart."""
        return (now - _EPOCH) // self.every

    def is_due(self, last: datetime | None, now: datetime) -> bool:
        """Return whether a beat is due, `last` being the time of the last one.

        A clock that was set back makes one due at once.
        """
        return last is None or self.number(last) != self.number(now)
