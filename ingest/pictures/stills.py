"""Pictures as they are kept: upright, with square pixels, scaled, and compressed.

A camera may change the size of its pictures, once or every few seconds (an infrared filter that
comes and goes at dusk). A change is followed at once when the size had been steady. After one that
follows soon pictures are stretched to the size that is kept, until the new one has lasted. They are
stretched and not framed in black, because it is the same view: all stays in its place, for the
memory of the model, for `ingest.pictures.scene`, and for a person.
"""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.sidedata.sidedata import SideData, SideDataContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from numpy.typing import NDArray
from PIL import Image

from ingest.camera import Camera
from ingest.frames import Frame
from ingest.masks import Mask, hidden_pixels
from ingest.pictures.outlines import Outline, draw_outlines

STEADY_WINDOWS = 2
"""Windows for which a size must have lasted."""
_MATRIX_FORMAT = struct.Struct("=9i")


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
    """The size of a camera's stills: the same while that of its pictures comes and goes."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        self._steady_count = STEADY_WINDOWS * camera.stills_per_window
        self._still_size: tuple[int, int] | None = None
        self._last_size: tuple[int, int] | None = None
        self._lasted_count = (
            self._steady_count
        )  # the first change is followed however early it comes

    @property
    def is_stretched(self) -> bool:
        """Return whether the last picture has another size than its still."""
        return self._last_size != self._still_size

    def update(self, picture: VideoFrame, pixel_aspect: float) -> tuple[int, int]:
        """Return the width and height for the next still."""
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
"""So many levels of 16 bits are one of 8."""


class ScaledPicture:
    """A picture as its still shows it: upright, of a width and a height, what a mask hides black.

    It is scaled in the camera's own format, which has fewer samples than RGB, and then converted.
    """

    def __init__(self, picture: VideoFrame, size: tuple[int, int], mask: Mask = ()) -> None:
        self._size, self._mask = size, mask
        self._matrix = _display_matrix(picture)
        stored_size = size[::-1] if self._matrix.is_turned else size
        pixel_format = (
            picture.format.name if picture.format.name.startswith(("yuv", "nv12")) else "rgb24"
        )
        self._picture = _reformat(picture, stored_size, pixel_format)

    def jpeg(self, quality: int, outlines: Sequence[Outline] = ()) -> Jpeg:
        """Compress it, with outlines drawn on it."""
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
        """Return its luma (H, W), 0 to 255, LUMA_WIDTH wide at most; a mask hides nothing of it.

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
    """Scale and convert in this thread: FFmpeg would start one for each processor, each time."""
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
    """Return the JPEG of a camera's still, of a width and a height, with outlines drawn on it."""
    return ScaledPicture(picture, size, camera.mask).jpeg(camera.jpeg_quality, outlines)


def still_from_frame(frame: Frame, camera: Camera, outlines: Sequence[Outline] = ()) -> Jpeg:
    """Return the still that a frame alone makes, with outlines drawn on it."""
    size = StillSize(camera).update(frame.picture, frame.pixel_aspect)
    return encode_still(frame.picture, camera, size, outlines)


def rotation_of(picture: VideoFrame) -> int:
    """Return by how many degrees clockwise a picture is turned to be upright: 0, 90, 180 or 270."""
    return _display_matrix(picture).rotation


@dataclass(frozen=True, slots=True, kw_only=True)
class _DisplayMatrix:
    """Where the axes of a picture point to when it is shown (ISO 14496-12, 8.3.2).

    A point (x, y) is shown at (a x + c y, b x + d y), y downwards.
    """

    a: int = 1
    b: int = 0
    c: int = 0
    d: int = 1

    @property
    def is_turned(self) -> bool:
        """Return whether width and height change places."""
        return abs(self.b) + abs(self.c) > abs(self.a) + abs(self.d)

    @property
    def rotation(self) -> int:
        if self.is_turned:
            return 90 if self.b > 0 else 270
        return 180 if self.a < 0 and self.d < 0 else 0

    def upright(self, pixels: NDArray[Any]) -> NDArray[Any]:
        across, down = (self.c, self.b) if self.is_turned else (self.a, self.d)
        turned = pixels.swapaxes(0, 1) if self.is_turned else pixels
        turned = turned[:, ::-1] if across < 0 else turned
        return np.ascontiguousarray(turned[::-1] if down < 0 else turned)


_QUARTER_TURNS = (
    _DisplayMatrix(),
    _DisplayMatrix(a=0, b=1, c=-1, d=0),
    _DisplayMatrix(a=-1, d=-1),
    _DisplayMatrix(a=0, b=-1, c=1, d=0),
)
"""Turned clockwise by so many quarters."""


def _display_matrix(picture: VideoFrame) -> _DisplayMatrix:
    try:
        # `picture.side_data` is a cycle: each picture would wait for the garbage collector.
        data = SideDataContainer(picture).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    except ValueError:  # PyAV does not know the kind of something beside it, as of EXIF
        return _QUARTER_TURNS[round(-picture.rotation / 90) % 4]
    if not isinstance(data, SideData) or data.buffer_size < _MATRIX_FORMAT.size:
        return _QUARTER_TURNS[0]
    a, b, _, c, d, *_ = _MATRIX_FORMAT.unpack_from(bytes(data))
    return _DisplayMatrix(a=a, b=b, c=c, d=d)


def _upright_size(picture: VideoFrame, pixel_aspect: float, longest: int) -> tuple[int, int]:
    """Return the width and height of the upright picture with square pixels."""
    wide, high = picture.width * pixel_aspect, float(picture.height)
    if _display_matrix(picture).is_turned:
        wide, high = high, wide
    scale = min(1.0, longest / max(wide, high))
    return max(1, round(wide * scale)), max(1, round(high * scale))
