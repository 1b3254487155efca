"""Standing questions: what is asked of which cameras, how often, about how much of the past."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A yes/no question; no `cameras` means all, no `look_back` the whole memory."""

    name: str
    ask: str
    cameras: frozenset[str]
    every: timedelta
    look_back: timedelta | None

    @property
    def version(self) -> str:
        """Return what changes when the words or the reach of the question change."""
        text = f"{self.ask}\n{self.look_back}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def concerns(self, camera: str) -> bool:
        """Say whether this camera is asked."""
        return not self.cameras or camera in self.cameras
