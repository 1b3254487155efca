"""Standing questions: their text, cameras, interval and look-back."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from analyzer.zones import Zone, zone_question


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A yes/no question; no `cameras` means all, no `look_back` the whole memory.

    A question with a `zone` concerns only the cameras in `zones`, which have a zone of that name.
    """

    name: str
    ask: str
    cameras: Collection[str]
    every: timedelta
    look_back: timedelta | None
    zone: str | None = None
    zones: Mapping[str, Zone] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Return a digest of the text, the zone and the look-back, as 8 hex digits."""
        text = f"{self.ask}\n{self.look_back}" + (f"\n{self.zone}" if self.zone else "")
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def is_asked_of(self, camera: str) -> bool:
        """Return whether the question concerns a camera."""
        if self.zone is not None and camera not in self.zones:
            return False
        return not self.cameras or camera in self.cameras

    def text_for(self, camera: str) -> str:
        """Return the text that the model reads, with the colour of the zone on this camera."""
        return self.ask if self.zone is None else zone_question(self.zones[camera], self.ask)


def zones_by_camera(questions: Iterable[Question]) -> dict[str, dict[str, Zone]]:
    """Return the zones that questions name, by camera and name."""
    zones = dict[str, dict[str, Zone]]()
    for question in questions:
        for camera, zone in question.zones.items():
            zones.setdefault(camera, {})[zone.name] = zone
    return zones
