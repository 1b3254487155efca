"""The reference's way of chunk-based prefilling: one pass over everything, under a mask."""

import torch
from torch import Tensor


def block_of(anchors_T: Tensor, groups: int) -> Tensor:
    """Return the number of the block in which each token of a video stands.

    A block has so many groups; a group begins where text follows a visual token.
    """
    begins = torch.cat([torch.tensor([False]), anchors_T[1:] & ~anchors_T[:-1]])
    return begins.cumsum(0) // groups


def allowed(anchors_T: Tensor, block_T: Tensor, previous: int) -> Tensor:
    """Return the (T, T) mask: which tokens (rows) may see which (columns)."""
    near = block_T[:, None] - block_T[None, :] <= previous
    everywhere = anchors_T[:, None] | anchors_T[None, :]
    return (near | everywhere).tril()
