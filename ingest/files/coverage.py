"""What of a recorded video was looked at, and what not and why, as values."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class SkipReason(StrEnum):
    """Why a part of a recording was not looked at."""

    PAUSE = "pause"
    DAMAGED = "damaged"
    TOO_SHORT = "too_short"
    NO_PICTURE = "no_picture"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedSpan:
    """A part of a recording that was not looked at."""

    start: datetime
    end: datetime
    reason: SkipReason

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.end - self.start).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCoverage:
    """What of a recording was looked at: with what was skipped it adds up to all of it.

    Between two recordings that were joined lies a time that nobody knows; it counts as none.
    """

    start: datetime
    end: datetime
    skipped: tuple[SkippedSpan, ...]
    joins: int

    @property
    def seconds(self) -> float:
        """How long the recording is."""
        return (self.end - self.start).total_seconds()

    @property
    def watched_seconds(self) -> float:
        """How many seconds of it were looked at."""
        return self.seconds - sum(each.seconds for each in self.skipped)
