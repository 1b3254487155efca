"""Zones: named areas of a camera's picture, outlined on the stills that the model sees.

All questions of a camera share one memory. So its stills have the outlines of all zones that
questions name, each in a different colour, and a question names the colour of its zone.
Only the model sees the outlines; stills that are kept as evidence have none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.polygons import Point

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (255, 30, 30),
    "yellow": (255, 225, 0),
    "blue": (40, 90, 255),
    "green": (0, 230, 60),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
}
"""The RGB colours of a camera's zones, in the order of the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """A named area of a camera's picture, with corners as fractions of width and height."""

    name: str
    corners: Sequence[Point]
    colour: str


def zone_question(zone: Zone, ask: str) -> str:
    """Return a question about a zone as the model reads it."""
    return f'The zone "{zone.name}" is outlined in {zone.colour}. {ask}'


def zones_of(polygons: Mapping[str, Sequence[Point]]) -> tuple[Zone, ...]:
    """Return the zones of a camera, each with its colour; raises ValueError for too many."""
    if len(polygons) > len(COLOURS):
        raise ValueError(f"{len(polygons)} zones: a camera has at most {len(COLOURS)}")
    return tuple(
        Zone(name=name, corners=corners, colour=colour)
        for (name, corners), colour in zip(polygons.items(), COLOURS, strict=False)
    )
