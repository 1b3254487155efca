"""Stills to tower features: preprocessing, the SigLIP tower, the grid change, the grouping.

Legend: N stills, C channels, H W pixels, h w rows and columns of patches, G groups, T the
four stills of a group.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import SiglipVisionModel

from analyzer.videoxl2.config import STILLS_PER_GROUP, VideoXL2Config
from storage.errors import Unreadable

SETTLED = 9
"""So many stills make the first background."""
STEP = 2 / 127.5
"""How far the background then moves towards each still: two of 255 levels."""


@dataclass(frozen=True, slots=True)
class Background:
    """What one camera sees when nothing happens: (3, H, W), and the first stills behind it.

    Those are sorted in each of their points.
    """

    picture_CHW: Tensor
    first_NCHW: Tensor


def follow(background: Background | None, pixels_NCHW: Tensor) -> tuple[Tensor, Background]:
    """Return the difference of each still from the background so far, and the new background.

    The background is the median of the first stills, then a running median (McFarlane and
    Schofield, 1995): what passes leaves no trace, and what stays fades within a minute. It
    never looks ahead, and it goes on from one window to the next.
    """
    first = pixels_NCHW[:0] if background is None else background.first_NCHW
    picture = pixels_NCHW[0] if background is None else background.picture_CHW
    differences = []
    for still in pixels_NCHW:
        if len(first) < SETTLED:
            first = _sorted_in(first, still)
            picture = first[(len(first) - 1) // 2]
        else:
            picture = picture + (still - picture).clamp(-STEP, STEP)
        differences.append(still - picture)
    return torch.stack(differences), Background(picture, first)


def _sorted_in(sorted_NCHW: Tensor, still_CHW: Tensor) -> Tensor:
    """Return stills sorted in each of their points, with one more sorted in."""
    lower = list[Tensor]()
    for held in sorted_NCHW:
        lower.append(torch.minimum(held, still_CHW))
        still_CHW = torch.maximum(held, still_CHW)
    return torch.stack([*lower, still_CHW])


def decode(jpegs: Sequence[bytes], height: int, width: int) -> tuple[np.ndarray, int]:
    """Decode JPEGs to (N, H, W, 3), squashed to the tower's still, aspect not kept.

    A corrupt one is replaced by the one before it (the first by the one behind it); the number
    of those is returned too. Raises Unreadable where none is whole.
    """
    pictures = [_squash(jpeg, height, width) for jpeg in jpegs]
    whole = [picture for picture in pictures if picture is not None]
    if not whole:
        raise Unreadable("no still is a whole JPEG")
    filled, last = [], whole[0]
    for picture in pictures:
        last = last if picture is None else picture
        filled.append(last)
    return np.stack(filled), len(pictures) - len(whole)


def normalise(stills_NHWC: np.ndarray) -> Tensor:
    """Map uint8 pictures to (N, 3, H, W) in -1..1."""
    return torch.from_numpy(stills_NHWC).permute(0, 3, 1, 2).float() / 127.5 - 1


def _squash(jpeg: bytes, height: int, width: int) -> np.ndarray | None:
    try:
        picture = Image.open(io.BytesIO(jpeg), formats=("JPEG",)).convert("RGB")
    except (OSError, Image.DecompressionBombError):
        return None
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


class ConvStem(nn.Module):
    """A convolutional patch embedding over a still and three times its difference.

    Small towers learn to see far sooner behind convolutions than behind one large patch
    (Xiao et al., "Early convolutions help transformers see better", 2021). The first one takes
    in whatever the side of a patch leaves to two halvings.
    """

    def __init__(self, channels: int, side: int, positions: int) -> None:
        super().__init__()
        step = side // 4
        widths, strides = (6, 16 + 8 * step, 64, channels), (step, 2, 2)
        layers: list[nn.Module] = []
        for (before, after), stride in zip(pairwise(widths), strides, strict=True):
            conv = nn.Conv2d(before, after, stride + 1, stride, stride // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.position = nn.Parameter(torch.randn(positions, channels) * 0.02)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Return (N, positions, C) for stills with their differences, (N, 6, H, W)."""
        # On a CPU the convolutions take half the time with channels last.
        features: Tensor = self.layers(pixels_NCHW.contiguous(memory_format=torch.channels_last))
        return features.flatten(2).transpose(1, 2) + self.position


class VisionTower(nn.Module):
    """SigLIP up to its last kept layer, before the final norm, on the grid of the method."""

    def __init__(self, config: VideoXL2Config) -> None:
        super().__init__()
        self.grid = config.grid
        side = config.tower["patch_size"]
        self.patches = config.height // side, config.width // side
        self.vision_model = SiglipVisionModel(config.tower_config())
        if config.stem == "conv":
            channels = config.tower["hidden_size"]
            positions = self.patches[0] * self.patches[1]
            self.vision_model.embeddings = ConvStem(channels, side, positions)  # type: ignore[assignment]

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Return (N, C, h, w), features of each still on the grid."""
        embedded = self.vision_model.embeddings(pixels_NCHW)
        features_NPC = self.vision_model.encoder(inputs_embeds=embedded).last_hidden_state
        features_NChw = features_NPC.transpose(1, 2).unflatten(2, self.patches)
        if self.patches == self.grid:
            return features_NChw
        resized = F.interpolate(features_NChw.float(), self.grid, mode="bilinear")
        return resized.to(features_NChw.dtype)


def filled(stills_NCHW: Tensor) -> Tensor:
    """Return the stills with the last one repeated up to a multiple of four."""
    missing = -len(stills_NCHW) % STILLS_PER_GROUP
    return torch.cat([stills_NCHW, stills_NCHW[-1:].repeat(missing, 1, 1, 1)])


def group(features_NChw: Tensor) -> Tensor:
    """Return (G, C, 4, h, w), the last still repeated up to a multiple of four.

    The method reinterprets the memory of four stills as one group and does not permute it, so
    a time step holds a quarter of the channels of each still; the weights expect that. In our
    memory the channels stand last. Channels are a multiple of four.
    """
    of_four = filled(features_NChw).unflatten(1, (-1, STILLS_PER_GROUP))
    steps = of_four.unflatten(0, (-1, STILLS_PER_GROUP)).permute(0, 3, 4, 5, 1, 2)
    return steps.flatten(4).permute(0, 4, 1, 2, 3)
