"""Stills to tower features: preprocessing, the SigLIP tower, the resized grid, the groups.

Legend: N stills, C channels, H W pixels, h w rows and columns of patches, P patches, Q positions
of the grid, G groups, T the four stills of a group.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionModel
from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings

from analyzer.kv.encoded import Background
from analyzer.models.videoxl2.config import STILLS_PER_GROUP, VideoXL2Config

BACKGROUND_STILLS = 9
"""Stills whose median is the first background."""
BACKGROUND_STEP = 2 / 127.5
"""The largest step of the background towards a still: two of 255 levels."""
DIFFERENCE_GAIN = 3
"""The factor on the difference of a still from the background."""


def subtract_background(
    background: Background | None, pixels_NCHW: Tensor
) -> tuple[Tensor, Background]:
    """Return the difference of each still from the background so far, and the new background.

    The background is the median of the first stills, then a running median (McFarlane and
    Schofield, 1995): passing objects leave no trace, and objects that stay fade within a minute.
    It is causal, and continues from one window to the next.
    """
    differences_NCHW = torch.empty_like(pixels_NCHW)
    return differences_NCHW, subtract_background_into(differences_NCHW, background, pixels_NCHW)


def subtract_background_into(
    differences_NCHW: Tensor, background: Background | None, pixels_NCHW: Tensor
) -> Background:
    """Write the differences of `subtract_background`; return the new background."""
    first = list[Tensor]() if background is None else list(background.first_NCHW)
    picture = pixels_NCHW[0] if background is None else background.picture_CHW.clone()
    is_settled, moved = background is not None and not first, torch.empty_like(picture)
    for still, difference in zip(pixels_NCHW, differences_NCHW, strict=True):
        if is_settled:
            torch.clamp(
                torch.sub(still, picture, out=difference),
                -BACKGROUND_STEP,
                BACKGROUND_STEP,
                out=moved,
            )
            picture += moved
        else:
            first = _insert_sorted(first, still)
            picture = first[(len(first) - 1) // 2].clone()
            is_settled = len(first) == BACKGROUND_STILLS
        torch.sub(still, picture, out=difference)
    return Background(picture, pixels_NCHW[:0].clone() if is_settled else torch.stack(first))


def _insert_sorted(sorted_stills: list[Tensor], still_CHW: Tensor) -> list[Tensor]:
    """Return stills sorted in each pixel, with one more inserted."""
    lower = list[Tensor]()
    for sorted_CHW in sorted_stills:
        lower.append(torch.minimum(sorted_CHW, still_CHW))
        still_CHW = torch.maximum(sorted_CHW, still_CHW)
    return [*lower, still_CHW]


def normalise(levels_NCHW: Tensor) -> Tensor:
    """Return uint8 pictures as contiguous float32 from -1 to 1."""
    return levels_NCHW.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


def empty_pixels(config: VideoXL2Config, groups: int, device: torch.device) -> Tensor:
    """Return an uninitialised float32 input of the tower for groups of stills."""
    shape = STILLS_PER_GROUP * groups, config.pixel_channels, config.height, config.width
    return torch.empty(shape, device=device)


def fill_pixels(
    pixels_NCHW: Tensor, levels_NCHW: Tensor, background: Background | None
) -> Background | None:
    """Write uint8 stills as input of the tower; return the new background.

    The rest of the input repeats the last still. With six channels, for a convolutional stem,
    the amplified differences follow the three channels of the still.
    """
    stills, C = len(levels_NCHW), levels_NCHW.shape[1]
    shown_NCHW, differences_NCHW = pixels_NCHW[:stills, :C], pixels_NCHW[:stills, C:]
    shown_NCHW.copy_(levels_NCHW).div_(127.5).sub_(1)
    if differences_NCHW.shape[1]:
        background = subtract_background_into(differences_NCHW, background, shown_NCHW)
        differences_NCHW.mul_(DIFFERENCE_GAIN)
    pixels_NCHW[stills:] = pixels_NCHW[stills - 1]
    return background


class ConvStem(nn.Module):
    """A convolutional patch embedding over a still and three times its difference.

    Small towers learn far faster after convolutions than after one large patch
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
        if self.training:
            # On a CPU the convolutions take half the time with channels last.
            pixels_NCHW = pixels_NCHW.contiguous(memory_format=torch.channels_last)
            features_NChw = self.layers(pixels_NCHW)
        else:
            features_NChw = self._folded(pixels_NCHW)
        return features_NChw.permute(0, 2, 3, 1).flatten(1, 2) + self.position

    def _folded(self, x_NCHW: Tensor) -> Tensor:
        """Apply the layers, each norm folded into the convolution before it: twice as fast."""
        convs = [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]
        norms = [layer for layer in self.layers if isinstance(layer, nn.BatchNorm2d)]
        for conv, norm in zip(convs, norms, strict=True):
            mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            scale = norm.weight * (variance.float() + norm.eps).rsqrt()
            weight = (conv.weight * scale[:, None, None, None]).to(x_NCHW.dtype)
            bias = (norm.bias - mean * scale).to(x_NCHW.dtype)
            x_NCHW = F.conv2d(x_NCHW, weight, bias, conv.stride, conv.padding)
            x_NCHW = x_NCHW if conv is convs[-1] else x_NCHW.relu_()
        return x_NCHW


class VisionTower(nn.Module):
    """SigLIP without its last layer and its final norm, resized to the grid of the method."""

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
        self._onto_grid_QP: Tensor | None = None

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Return (N, C, h, w), features of each still on the grid; channels last in memory."""
        embeddings: nn.Module = self.vision_model.embeddings
        if isinstance(embeddings, SiglipVisionEmbeddings):
            embedded_NPC = embed_patches(embeddings, pixels_NCHW)
        else:
            embedded_NPC = embeddings(pixels_NCHW)
        features_NPC = self.vision_model.encoder(inputs_embeds=embedded_NPC).last_hidden_state
        if self.patches != self.grid:
            features_NPC = self._onto_grid(features_NPC) @ features_NPC
        return features_NPC.unflatten(1, self.grid).permute(0, 3, 1, 2)

    def _onto_grid(self, like: Tensor) -> Tensor:
        """Return the matrix (Q, P) that interpolates patches, cached for one device and dtype."""
        matrix = self._onto_grid_QP
        if matrix is None or (matrix.device, matrix.dtype) != (like.device, like.dtype):
            with torch.inference_mode(False):
                matrix = interpolation_matrix(self.patches, self.grid, like.device).to(like.dtype)
            self._onto_grid_QP = matrix
        return matrix


def embed_patches(embeddings: SiglipVisionEmbeddings, pixels_NCHW: Tensor) -> Tensor:
    """Return the embeddings (N, P, C), their convolution computed as a linear layer."""
    conv = embeddings.patch_embedding
    side = conv.weight.shape[-1]
    patches = pixels_NCHW.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5)
    x_NPC = F.linear(patches.flatten(3).flatten(1, 2), conv.weight.flatten(1), conv.bias)
    return x_NPC + embeddings.position_embedding.weight


def interpolation_matrix(
    before: tuple[int, int], after: tuple[int, int], device: torch.device
) -> Tensor:
    """Return the matrix (Q, P) of a bilinear interpolation from one grid to another."""
    patches = before[0] * before[1]
    eye_P1hw = torch.eye(patches, device=device).view(patches, 1, *before)
    return F.interpolate(eye_P1hw, after, mode="bilinear").flatten(1).T.contiguous()


def pad_to_group(stills_NCHW: Tensor) -> Tensor:
    """Return the stills with the last one repeated up to a multiple of four."""
    missing = -len(stills_NCHW) % STILLS_PER_GROUP
    if not missing:
        return stills_NCHW
    return torch.cat([stills_NCHW, stills_NCHW[-1:].repeat(missing, 1, 1, 1)])


def group_stills(features_NChw: Tensor) -> Tensor:
    """Return (G, C, 4, h, w), the last still repeated up to a multiple of four.

    The method reinterprets the memory of four stills as one group and does not permute it, so
    a time step holds a quarter of the channels of each still; the weights expect that. The
    channels, a multiple of four, may be last in memory.
    """
    of_four = pad_to_group(features_NChw).unflatten(1, (-1, STILLS_PER_GROUP))
    steps = of_four.unflatten(0, (-1, STILLS_PER_GROUP)).permute(0, 3, 4, 5, 1, 2)
    return steps.flatten(4).permute(0, 4, 1, 2, 3)
