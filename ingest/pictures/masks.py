"""Mask the areas of a camera's picture that must never be stored."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ingest.camera import Mask

_SUPERSAMPLING = 4
"""Polygons are drawn enlarged by this factor: a pixel is hidden if any part of it is, and perhaps
one beside it."""


@lru_cache(maxsize=16)
def hidden_pixels(mask: Mask, height: int, width: int) -> NDArray[np.bool_]:
    """Return which pixels (H, W) of an upright picture a mask hides, partly or wholly."""
    image = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    draw = ImageDraw.Draw(image)
    for corners in mask:
        points = [(x * image.width, y * image.height) for x, y in corners]
        draw.polygon(points, fill=1, outline=1)
        draw.line([*points, points[0]], fill=1, width=_SUPERSAMPLING)  # Pillow omits thin ends
    squares = np.asarray(image).reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING)
    hidden: NDArray[np.bool_] = np.any(squares, (1, 3))
    hidden.flags.writeable = False
    return hidden
