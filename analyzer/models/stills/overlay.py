"""The outlines of zones, drawn on stills of the model's size.

Legend: N stills, C colours, H W pixels, P pixels of outlines.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from analyzer.zones import COLOURS, Zone
from storage.polygons import Point

MIN_LINE_WIDTH, HEIGHT_PER_LINE_WIDTH = 1.0, 96
"""An outline is HEIGHT_PER_LINE_WIDTH times thinner than the still is high, or MIN_LINE_WIDTH."""
_SUPERSAMPLING = 4
"""Outlines are drawn this many times larger and scaled down, for smooth edges."""


@dataclass(frozen=True, slots=True)
class ZoneOverlay:
    """The pixels of outlines: the share of the still that is kept there, and the colour added."""

    rows_P: Tensor
    columns_P: Tensor
    kept_P: Tensor
    added_CP: Tensor

    def draw(self, levels_NCHW: Tensor) -> None:
        """Draw the outlines on uint8 stills, in place."""
        under_NCP = levels_NCHW[:, :, self.rows_P, self.columns_P]
        drawn_NCP = (under_NCP * self.kept_P + self.added_CP).round_().to(torch.uint8)
        levels_NCHW[:, :, self.rows_P, self.columns_P] = drawn_NCP


def build_overlay(
    zones: Sequence[Zone], height: int, width: int, device: torch.device | None = None
) -> ZoneOverlay:
    """Return the outlines of zones for stills of one size, later ones on top."""
    kept_HW = np.ones((height, width), np.float32)
    added_CHW = np.zeros((3, height, width), np.float32)
    for zone in zones:
        coverage_HW = _outline_coverage(zone.corners, height, width)
        colour_C11 = np.array(COLOURS[zone.colour], np.float32)[:, None, None]
        kept_HW = kept_HW * (1 - coverage_HW)
        added_CHW = added_CHW * (1 - coverage_HW) + colour_C11 * coverage_HW
    rows_P, columns_P = np.nonzero(kept_HW < 1)
    parts = rows_P, columns_P, kept_HW[rows_P, columns_P], added_CHW[:, rows_P, columns_P]
    return ZoneOverlay(*(torch.from_numpy(part).to(device) for part in parts))


def _outline_coverage(corners: Sequence[Point], height: int, width: int) -> np.ndarray:
    """Return the share of each pixel that an outline covers, (H, W), 0 to 1."""
    line = max(MIN_LINE_WIDTH, height / HEIGHT_PER_LINE_WIDTH)
    at = [(x * width * _SUPERSAMPLING, y * height * _SUPERSAMPLING) for x, y in corners]
    image = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    # The first side twice, so that the last corner is round, too.
    ImageDraw.Draw(image).line([*at, *at[:2]], 255, round(line * _SUPERSAMPLING), joint="curve")
    small = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255
