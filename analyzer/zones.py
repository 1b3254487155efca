"""Zones: named areas of a camera's picture, outlined on the stills that the model sees.

A camera has one memory for all its questions. So its stills carry the outlines of all zones that
questions name, each in a colour of its own, and a question says in which colour its zone is.
Only the model sees the outlines: stills that are kept as evidence stay as they were.
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
"""What the zones of a camera are outlined in, in the order of the settings: RGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """A named area of a camera's picture: its corners as shares of the sides, its colour."""

    name: str
    corners: Sequence[Point]
    colour: str


def zone_question(zone: Zone, ask: str) -> str:
    """Return a question about a zone as the model reads it."""
    return f'The zone "{zone.name}" is outlined in {zone.colour}. {ask}'


def zones_of(polygons: Mapping[str, Sequence[Point]]) -> tuple[Zone, ...]:
    """Return the zones of a camera, each with its colour; ValueError where these run out."""
    if len(polygons) > len(COLOURS):
        raise ValueError(f"{len(polygons)} zones: a camera has at most {len(COLOURS)}")
    return tuple(
        Zone(name=name, corners=corners, colour=colour)
        for (name, corners), colour in zip(polygons.items(), COLOURS, strict=False)
    )
