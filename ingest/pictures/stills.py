"""Make stills: upright, with square pixels, scaled, and compressed.

A camera may change the size of its pictures, once or every few seconds (an infrared filter that
switches on and off at dusk). If the size was steady before, the stills change at once. Otherwise
pictures are stretched to the old size until the new one has lasted. Stretching keeps each part of
the view in its place, for the model's memory, for `ingest.pictures.scene`, and for a person.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from numpy.typing import NDArray
from PIL import Image

from ingest.camera import Camera, Mask
from ingest.frames import Frame
from ingest.pictures.display_matrix import display_matrix_of
from ingest.pictures.masks import hidden_pixels
from ingest.pictures.outlines import Outline, draw_outlines

STEADY_WINDOWS = 2
"""Windows after which a size counts as steady."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg:
    """A compressed picture."""

    data: bytes
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Return the width and the height."""
        return self.width, self.height


class StillSize:
    """The size of a camera's stills: constant while the size of its pictures flickers."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        self._steady_count = STEADY_WINDOWS * camera.stills_per_window
        self._still_size: tuple[int, int] | None = None
        self._last_size: tuple[int, int] | None = None
        self._lasted_count = self._steady_count  # the first change is followed at once

    @property
    def is_stretched(self) -> bool:
        """Return whether the last picture has a different size from its still."""
        return self._last_size != self._still_size

    def update(self, picture: VideoFrame, pixel_aspect: float) -> tuple[int, int]:
        """Record the size of a picture; return the width and height of its still."""
        size = _upright_size(picture, pixel_aspect, self._camera.still_side)
        is_new = self._last_size not in (None, size)
        was_steady = self._lasted_count >= self._steady_count
        self._lasted_count, self._last_size = 1 if is_new else self._lasted_count + 1, size
        if self._still_size is None or was_steady or self._lasted_count >= self._steady_count:
            self._still_size = size
        return self._still_size


LUMA_WIDTH = 160
"""Pixels in a row of the small luma of a still, at most."""

_LEVELS = np.float32(257)
"""Levels of 16 bits in one level of 8 bits."""


class ScaledPicture:
    """An upright picture of a given width and height, black where the mask hides it.

    It is scaled in the camera's format, which has fewer samples than RGB, and then converted.
    """

    def __init__(self, picture: VideoFrame, size: tuple[int, int], mask: Mask = ()) -> None:
        self._size, self._mask = size, mask
        self._matrix = display_matrix_of(picture)
        stored_size = size[::-1] if self._matrix.is_turned else size
        name = picture.format.name
        pixel_format = name if name.startswith(("yuv", "nv12")) else "rgb24"
        self._picture = _reformat(picture, stored_size, pixel_format)

    def jpeg(self, quality: int, outlines: Sequence[Outline] = ()) -> Jpeg:
        """Return its JPEG, with outlines drawn on it."""
        width, height = self._size
        stored_size = self._picture.width, self._picture.height
        pixels = self._matrix.upright(_reformat(self._picture, stored_size, "rgb24").to_ndarray())
        if self._mask:
            pixels[hidden_pixels(self._mask, height, width)] = 0
        image, jpeg = Image.fromarray(pixels), io.BytesIO()
        if outlines:
            draw_outlines(image, outlines)
        image.save(jpeg, "JPEG", quality=quality)
        return Jpeg(data=jpeg.getvalue(), width=width, height=height)

    def luma(self) -> NDArray[np.float32]:
        """Return its unmasked luma (H, W), 0 to 255, LUMA_WIDTH wide at most.

        It is not rounded: averages have less noise than whole levels.
        """
        width, height = self._size
        size = min(width, LUMA_WIDTH), max(1, round(height * min(1.0, LUMA_WIDTH / width)))
        stored_size = size[::-1] if self._matrix.is_turned else size
        grey = _reformat(self._picture, stored_size, "gray16le", ColorRange.JPEG)
        return self._matrix.upright(grey.to_ndarray() / _LEVELS)


def _reformat(
    picture: VideoFrame, size: tuple[int, int], pixel_format: str, levels: ColorRange | None = None
) -> VideoFrame:
    """Scale and convert in this thread: FFmpeg would start one per CPU, each time."""
    width, height = size
    return picture.reformat(
        width, height, pixel_format, interpolation="AREA", dst_color_range=levels, threads=1
    )


def encode_still(
    picture: VideoFrame,
    camera: Camera,
    size: tuple[int, int],
    outlines: Sequence[Outline] = (),
) -> Jpeg:
    """Return the JPEG of a camera's still of a given width and height, with outlines."""
    return ScaledPicture(picture, size, camera.mask).jpeg(camera.jpeg_quality, outlines)


def still_from_frame(frame: Frame, camera: Camera, outlines: Sequence[Outline] = ()) -> Jpeg:
    """Return the still of a single frame, with outlines."""
    size = StillSize(camera).update(frame.picture, frame.pixel_aspect)
    return encode_still(frame.picture, camera, size, outlines)


def _upright_size(picture: VideoFrame, pixel_aspect: float, longest: int) -> tuple[int, int]:
    """Return the width and height of the upright picture with square pixels."""
    wide, high = picture.width * pixel_aspect, float(picture.height)
    if display_matrix_of(picture).is_turned:
        wide, high = high, wide
    scale = min(1.0, longest / max(wide, high))
    return max(1, round(wide * scale)), max(1, round(high * scale))
