"""The reference's shapes, and its way of chunk-based prefilling: one pass under a mask."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from analyzer.models.videoxl2.config import DROPPED_LAYERS, VideoXL2Config


def config_of(shapes: Mapping[str, Any]) -> VideoXL2Config:
    """Return the configuration of a model of the reference's small shapes."""
    tower, language = dict(shapes["vis"]), dict(shapes["llm"])
    tower["num_hidden_layers"] -= DROPPED_LAYERS
    theta = language.pop("rope_theta")
    language["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    side = tower["image_size"]
    return VideoXL2Config(
        height=side,
        width=side,
        grid=(24, 24),
        pool=2,
        stem="patch",
        previous=shapes["prev_blocks_num"],
        tower=tower,
        language=language,
    )


def block_of(anchors_T: Tensor, groups: int) -> Tensor:
    """Return the number of the block in which each token of a video stands.

    A block has so many groups; a group begins where text follows a visual token.
    """
    begins = torch.cat([torch.tensor([False]), anchors_T[1:] & ~anchors_T[:-1]])
    return begins.cumsum(0) // groups


def reference_mask(anchors_T: Tensor, block_T: Tensor, previous: int) -> Tensor:
    """Return the (T, T) mask: which tokens (rows) may see which (columns)."""
    near = block_T[:, None] - block_T[None, :] <= previous
    everywhere = anchors_T[:, None] | anchors_T[None, :]
    return (near | everywhere).tril()
