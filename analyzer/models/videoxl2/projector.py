"""From synthesised positions to the decoder's visual tokens.

Legend: G groups, C channels, h w rows and columns, V visual tokens of a group, E decoder width.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Sequential):
    """Two linear layers at every position, and the average pool.

    The reference pools after the second layer. A mean and a linear layer commute, so that
    pooling first is equal for a fraction of the products.
    """

    def __init__(self, channels: int, width: int, pool: int) -> None:
        super().__init__(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width))
        self.pool = pool

    def forward(self, x_GChw: Tensor) -> Tensor:
        """Return (G, V, E) in raster order."""
        first, activation, last = self
        hidden_GhwE = activation(first(x_GChw.permute(0, 2, 3, 1)))
        pooled_GEhw = F.avg_pool2d(hidden_GhwE.permute(0, 3, 1, 2), self.pool)
        tokens_GVE: Tensor = last(pooled_GEhw.flatten(2).transpose(1, 2))
        return tokens_GVE
