"""What the vision part of a model makes of a window, before the decoder prefills it.

Legend: N stills, C channels, H W pixels, G groups, V visual tokens of a group, E decoder width.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Background:
    """The picture (3, H, W) of one camera without moving objects, and the stills it is made of.

    Those are sorted in each pixel; once the background has settled there are none.
    """

    picture_CHW: Tensor
    first_NCHW: Tensor


@dataclass(frozen=True, slots=True)
class EncodedWindow:
    """The visual tokens of a window, kept on the host, and how many stills were corrupt."""

    tokens_GVE: Tensor
    background: Background | None
    corrupt: int
