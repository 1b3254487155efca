"""Which parts of a recorded video were watched, and why others were not."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class SkipReason(StrEnum):
    """Why a part of a recording was not watched."""

    PAUSE = "pause"
    DAMAGED = "damaged"
    TOO_SHORT = "too_short"
    NO_PICTURE = "no_picture"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedSpan:
    """A part of a recording that was not watched."""

    start: datetime
    end: datetime
    reason: SkipReason

    @property
    def seconds(self) -> float:
        """Return its length in seconds."""
        return (self.end - self.start).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCoverage:
    """Which parts of a recording were watched; watched and skipped seconds add up to its length.

    The unknown time between two joined recordings counts as zero.
    """

    start: datetime
    end: datetime
    skipped: tuple[SkippedSpan, ...]
    joins: int

    @property
    def seconds(self) -> float:
        """Return the length of the recording in seconds."""
        return (self.end - self.start).total_seconds()

    @property
    def watched_seconds(self) -> float:
        """Return how many seconds of it were watched."""
        return self.seconds - sum(each.seconds for each in self.skipped)
