"""Rotary position embedding of integer positions, counted from 0 along a stream.

A model family maps positions to angles; this package only adds positions up. It relies on one
property of the angles: a rotation by p and then by q is the rotation by p + q.

Legend: T tokens, F frequencies (half the head width), D head width, N layers, K key heads.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

CosSin: TypeAlias = tuple[Tensor, Tensor]
Rotary: TypeAlias = Callable[[Tensor, Tensor], CosSin]
"""Maps integer positions (T) to cosines and sines (T, F), in the type of a second tensor."""


def rotate(x_TD: Tensor, cos_TF: Tensor, sin_TF: Tensor) -> Tensor:
    """Apply RoPE to (..., T, D): feature n is paired with feature n + D / 2."""
    left, right = x_TD.chunk(2, dim=-1)
    return torch.cat([left * cos_TF - right * sin_TF, right * cos_TF + left * sin_TF], dim=-1)


def rotate_in_place(x_NKTD: Tensor, cos_TF: Tensor, sin_TF: Tensor) -> None:
    """Rotate in place, with a copy of an eighth of the whole at a time."""
    for x_KTD in x_NKTD.chunk(4):
        left, right = x_KTD.chunk(2, dim=-1)
        before = left.clone()
        left.mul_(cos_TF).addcmul_(right, sin_TF, value=-1)
        right.mul_(cos_TF).addcmul_(before, sin_TF)
        del before  # not held while the next one is made


def angles(positions_T: Tensor, inv_freq_F: Tensor, like: Tensor) -> CosSin:
    """Return cosines and sines (T, F) of one-dimensional RoPE, computed in double precision."""
    angle_TF = positions_T.double()[:, None] * inv_freq_F.double()
    return angle_TF.cos().to(like), angle_TF.sin().to(like)


class AngleTable:
    """The angles of positions from 0, computed once for all caches of a model."""

    def __init__(self, rotary: Rotary) -> None:
        self.rotary = rotary
        self._cached: CosSin | None = None

    def between(self, begin: int, end: int, like: Tensor) -> CosSin:
        """Return cosines and sines (T, F) of positions, in the type of `like`."""
        cached = self._cached
        if cached is None or len(cached[0]) < end or not _is_same_kind(cached[0], like):
            with torch.inference_mode(False), torch.no_grad():
                cached = self.rotary(torch.arange(max(end + end // 4, 1024)), like)
            self._cached = cached
        return cached[0][begin:end], cached[1][begin:end]


def _is_same_kind(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and first.device == second.device
