"""Turn and mirror a picture to be upright."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.sidedata.sidedata import SideData, SideDataContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray

_MATRIX_FORMAT = struct.Struct("=9i")


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayMatrix:
    """The directions of a picture's axes on display (ISO 14496-12, 8.3.2).

    A point (x, y) is displayed at (a x + c y, b x + d y), y downwards.
    """

    a: int = 1
    b: int = 0
    c: int = 0
    d: int = 1

    @property
    def is_turned(self) -> bool:
        """Return whether width and height are swapped."""
        return abs(self.b) + abs(self.c) > abs(self.a) + abs(self.d)

    @property
    def rotation(self) -> int:
        """Return the clockwise turn in degrees: 0, 90, 180 or 270."""
        if self.is_turned:
            return 90 if self.b > 0 else 270
        return 180 if self.a < 0 and self.d < 0 else 0

    def upright(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return pixels (H, W, ...) turned and mirrored to be upright."""
        across, down = (self.c, self.b) if self.is_turned else (self.a, self.d)
        turned = pixels.swapaxes(0, 1) if self.is_turned else pixels
        turned = turned[:, ::-1] if across < 0 else turned
        return np.ascontiguousarray(turned[::-1] if down < 0 else turned)


_QUARTER_TURNS = (
    DisplayMatrix(),
    DisplayMatrix(a=0, b=1, c=-1, d=0),
    DisplayMatrix(a=-1, d=-1),
    DisplayMatrix(a=0, b=-1, c=1, d=0),
)
"""By the number of clockwise quarter turns."""


def display_matrix_of(picture: VideoFrame) -> DisplayMatrix:
    """Return the display matrix of a decoded picture."""
    try:
        # `picture.side_data` is a cycle: each picture would wait for the garbage collector.
        data = SideDataContainer(picture).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    except ValueError:  # PyAV does not know other side data, such as EXIF
        return _QUARTER_TURNS[round(-picture.rotation / 90) % 4]
    if not isinstance(data, SideData) or data.buffer_size < _MATRIX_FORMAT.size:
        return _QUARTER_TURNS[0]
    a, b, _, c, d, *_ = _MATRIX_FORMAT.unpack_from(bytes(data))
    return DisplayMatrix(a=a, b=b, c=c, d=d)


def rotation_of(picture: VideoFrame) -> int:
    """Return the clockwise turn that makes a picture upright, in degrees: 0, 90, 180 or 270."""
    return display_matrix_of(picture).rotation
