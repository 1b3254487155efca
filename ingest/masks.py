"""Masks: polygons of a camera's picture that nobody is to see; nothing of them is kept."""

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from storage.polygons import Point

Mask: TypeAlias = tuple[tuple[Point, ...], ...]
"""Polygons: corners (x, y) as shares of the width and height of the upright picture."""
_SUPERSAMPLING = 4
"""Polygons are drawn at so many times the size: a pixel is hidden where any of it is, and maybe one
beside it."""


@lru_cache(maxsize=16)
def hidden_pixels(mask: Mask, height: int, width: int) -> NDArray[np.bool_]:
    """Return which pixels of an upright picture a mask hides, in part or whole: (H, W)."""
    image = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    draw = ImageDraw.Draw(image)
    for corners in mask:
        points = [(x * image.width, y * image.height) for x, y in corners]
        draw.polygon(points, fill=1, outline=1)
        draw.line([*points, points[0]], fill=1, width=_SUPERSAMPLING)  # Pillow fills no thin ends
    squares = np.asarray(image).reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING)
    hidden: NDArray[np.bool_] = np.any(squares, (1, 3))
    hidden.flags.writeable = False
    return hidden
