"""Dynamic Token Synthesis: four stills become one (Video-XL-2's `sae`).

Channels are last, so that each convolution of one point is a linear layer. Weights have the
shapes of the checkpoint, where they belong to convolutions; no 3-d convolution is called.

Legend: G groups, T time steps, P positions (h*w), C channels, h w rows and columns, K groups of
channels, I J the attending and the attended time step, D the time steps under a kernel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analyzer.models.videoxl2.config import GROUP_NORM

MAX_TIME_DISTANCE = 64
"""Relative positions beyond this many time steps share one row of the table."""
KERNEL = 3


def linear(x_GTPC: Tensor, *pointwise: nn.Conv1d | nn.Conv3d) -> Tensor:
    """Apply convolutions of one point to the channels; return their outputs concatenated."""
    weights = [point.weight.flatten(1) for point in pointwise]
    biases = [point.bias for point in pointwise if point.bias is not None]
    if len(pointwise) == 1:
        return F.linear(x_GTPC, weights[0], biases[0])
    return F.linear(x_GTPC, torch.cat(weights), torch.cat(biases))


def group_normalise(norm: nn.GroupNorm, x_GTPC: Tensor, over: tuple[int, ...]) -> Tensor:
    """Normalise groups of channels over some of the dimensions before them, in float32."""
    groups, size = norm.num_groups, x_GTPC.shape[-1] // norm.num_groups

    def mean_of(values_GTPC: Tensor) -> Tensor:
        mean_GTPC = values_GTPC.mean(over, keepdim=True).unflatten(-1, (groups, size))
        return mean_GTPC.mean(-1, keepdim=True).expand_as(mean_GTPC).flatten(-2)

    centred_GTPC = x_GTPC.float()
    centred_GTPC = centred_GTPC - mean_of(centred_GTPC)
    scale_GTPC = (mean_of(centred_GTPC.square()) + norm.eps).rsqrt() * norm.weight
    return torch.addcmul(norm.bias, centred_GTPC, scale_GTPC).to(x_GTPC.dtype)


class SpatialAttention(nn.Module):
    """Single-head attention over the positions of each time step, without positional term."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUP_NORM, channels, eps=1e-6)
        self.q = nn.Conv3d(channels, channels, 1)
        self.k = nn.Conv3d(channels, channels, 1)
        self.v = nn.Conv3d(channels, channels, 1)
        self.proj_out = nn.Conv3d(channels, channels, 1)

    def forward(self, x_GTPC: Tensor) -> Tensor:
        """Return the same shape."""
        normed_GTPC = group_normalise(self.norm, x_GTPC, (1, 2))
        heads = linear(normed_GTPC, self.q, self.k, self.v).flatten(0, 1).unsqueeze(1)
        q, k, v = heads.chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x_GTPC + linear(attended.reshape(x_GTPC.shape), self.proj_out)


class RelativePosition(nn.Module):
    """A learned vector for each signed distance in time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embeddings_table = nn.Parameter(torch.zeros(2 * MAX_TIME_DISTANCE + 1, channels))
        nn.init.xavier_uniform_(self.embeddings_table)

    def forward(self, steps: int) -> Tensor:
        """Return (T, T, C): row t, column s holds the vector of distance s - t."""
        at = torch.arange(steps, device=self.embeddings_table.device)
        distance = (at[None, :] - at[:, None]).clamp(-MAX_TIME_DISTANCE, MAX_TIME_DISTANCE)
        return self.embeddings_table[distance + MAX_TIME_DISTANCE]


class TemporalAttention(nn.Module):
    """Single-head attention over the time steps of each position.

    There are at most four steps: products and sums over the channels are far faster than a tiny
    matrix product for each position.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUP_NORM, channels, eps=1e-6)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        self.relative_position_k = RelativePosition(channels)
        self.relative_position_v = RelativePosition(channels)

    def forward(self, x_GTPC: Tensor) -> Tensor:
        """Return the same shape."""
        steps, scale = x_GTPC.shape[1], x_GTPC.shape[-1] ** -0.25
        q, k, v = linear(group_normalise(self.norm, x_GTPC, (1,)), self.qkv).chunk(3, dim=-1)
        a_GIPJ = self._logits(q * scale, k * scale).softmax(-1).to(v.dtype)
        relative_IJC = self.relative_position_v(steps)
        attended = torch.stack([a_GIPJ[:, i] @ relative_IJC[i] for i in range(steps)], dim=1)
        for j in range(steps):
            attended = torch.addcmul(attended, a_GIPJ[..., j, None], v[:, j, None])
        return x_GTPC + linear(attended, self.proj_out)

    def _logits(self, q_GTPC: Tensor, k_GTPC: Tensor) -> Tensor:
        """Return (G, I, P, J) in float32."""
        steps = q_GTPC.shape[1]
        products = [
            (q_GTPC * k_GTPC[:, j, None]).sum(-1, dtype=torch.float32) for j in range(steps)
        ]
        # The published weights were trained with the relative logits transposed.
        relative_IJC = self.relative_position_k(steps)
        relative = [q_GTPC[:, j] @ relative_IJC[j].T for j in range(steps)]
        return torch.stack(products, -1) + torch.stack(relative, -1).transpose(1, 2)


class TemporalDownsample(nn.Module):
    """A 3x3x3 convolution with stride 2 in time; edges are repeated, time only at the start.

    It is computed as a 3x3 convolution over the concatenated channels of three time steps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, KERNEL, stride=(2, 1, 1))

    def forward(self, x_GTPC: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return (G, T / 2 rounded up, P, C) for positions of a grid."""
        G, T, P, C = x_GTPC.shape
        rows, columns = grid
        kernel_indices = downsample_indices(T, grid, x_GTPC.device)
        x_NhwC = (
            x_GTPC.flatten(1, 2)
            .index_select(1, kernel_indices)
            .view(-1, rows + 2, columns + 2, 3 * C)
        )
        weight = self.conv.weight.permute(0, 3, 4, 2, 1).flatten(3).permute(0, 3, 1, 2)
        out_NChw = F.conv2d(x_NhwC.permute(0, 3, 1, 2), weight, self.conv.bias)
        return out_NChw.permute(0, 2, 3, 1).reshape(G, -1, P, C)


def downsample_indices(steps: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return the inputs, flat over steps and positions, of the kernels of TemporalDownsample.

    They are ordered by output step, position of the grid with its edges, and input step.
    """
    rows, columns = (torch.arange(-1, side + 1, device=device).clamp(0, side - 1) for side in grid)
    positions_P = (rows[:, None] * grid[1] + columns).flatten()
    outputs = torch.arange(0, steps, 2, device=device)
    steps_OD = (outputs[:, None] + torch.arange(-1, 2, device=device)).clamp(0, steps - 1)
    return (steps_OD[:, None] * (grid[0] * grid[1]) + positions_P[:, None]).flatten()


class DynamicTokenSynthesis(nn.Module):
    """Merge each group of four stills into one; groups are independent."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.temporal_encoding = nn.Parameter(torch.zeros(4, channels))
        self.encoder = nn.Sequential(
            *(
                block(channels)
                for _ in range(2)
                for block in (SpatialAttention, TemporalAttention, TemporalDownsample)
            )
        )

    def forward(self, x_GCThw: Tensor) -> Tensor:
        """Return (G, C, h, w) for (G, C, 4, h, w)."""
        grid = x_GCThw.shape[-2], x_GCThw.shape[-1]
        x = x_GCThw.flatten(3).permute(0, 2, 3, 1).contiguous() + self.temporal_encoding[:, None]
        for block in self.encoder:
            x = block(x, grid) if isinstance(block, TemporalDownsample) else block(x)
        return x[:, 0].unflatten(1, grid).permute(0, 3, 1, 2)
