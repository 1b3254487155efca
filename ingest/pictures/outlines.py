"""Draw outlines of areas on a picture for a person; stored stills have none."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image
from PIL.ImageDraw import Draw

from storage.polygons import Point

_LINES_PER_HEIGHT = 96
"""The picture's height divided by the width of a line, which is two pixels at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """An area: its corners as shares of the width and height, and the colour of its line in RGB."""

    corners: Sequence[Point]
    colour: tuple[int, int, int]


def draw_outlines(image: Image, outlines: Sequence[Outline]) -> None:
    """Draw outlines on a picture, later ones on top."""
    width = max(2, round(image.height / _LINES_PER_HEIGHT))
    for outline in outlines:
        points = [(x * (image.width - 1), y * (image.height - 1)) for x, y in outline.corners]
        # Draw the first side twice, to round the last corner, too.
        Draw(image).line([*points, *points[:2]], outline.colour, width, joint="curve")
