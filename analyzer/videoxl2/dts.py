"""Dynamic Token Synthesis: four stills become one (Video-XL-2's `sae`).

Legend: G groups, C channels, T time steps, h w rows and columns, P positions (h*w).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FURTHEST = 64
"""Relative positions beyond this many time steps share one row of the table."""


class SpatialAttention(nn.Module):
    """Single-head attention over the positions of each time step, without positional term."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.q = nn.Conv3d(channels, channels, 1)
        self.k = nn.Conv3d(channels, channels, 1)
        self.v = nn.Conv3d(channels, channels, 1)
        self.proj_out = nn.Conv3d(channels, channels, 1)

    def forward(self, x_GCThw: Tensor) -> Tensor:
        """Return the same shape."""
        normed = self.norm(x_GCThw)
        q, k, v = (conv(normed).flatten(3).permute(0, 2, 3, 1) for conv in (self.q, self.k, self.v))
        read_GTPC = F.scaled_dot_product_attention(q, k, v)
        read = read_GTPC.permute(0, 3, 1, 2).reshape(x_GCThw.shape)
        return x_GCThw + self.proj_out(read)


class RelativePosition(nn.Module):
    """A learned vector for each signed distance in time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embeddings_table = nn.Parameter(torch.zeros(2 * FURTHEST + 1, channels))
        nn.init.xavier_uniform_(self.embeddings_table)

    def forward(self, steps: int) -> Tensor:
        """Return (T, T, C): row t, column s holds the vector of distance s - t."""
        at = torch.arange(steps, device=self.embeddings_table.device)
        distance = (at[None, :] - at[:, None]).clamp(-FURTHEST, FURTHEST)
        return self.embeddings_table[distance + FURTHEST]


class TemporalAttention(nn.Module):
    """Single-head attention over the time steps of each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        self.relative_position_k = RelativePosition(channels)
        self.relative_position_v = RelativePosition(channels)

    def forward(self, x_GCThw: Tensor) -> Tensor:
        """Return the same shape."""
        G, C, T, h, w = x_GCThw.shape
        x_NCT = x_GCThw.permute(0, 3, 4, 1, 2).reshape(G * h * w, C, T)
        q, k, v = self.qkv(self.norm(x_NCT)).transpose(1, 2).chunk(3, dim=-1)
        q, k = q * C**-0.25, k * C**-0.25
        # The published weights were trained with the relative logits transposed.
        relative_NTT = torch.einsum("ntc,tsc->nst", q, self.relative_position_k(T))
        a_NTT = (q @ k.transpose(1, 2) + relative_NTT).float().softmax(-1).to(q.dtype)
        read = a_NTT @ v + torch.einsum("nts,tsc->ntc", a_NTT, self.relative_position_v(T))
        y_NCT = x_NCT + self.proj_out(read.transpose(1, 2))
        return y_NCT.view(G, h, w, C, T).permute(0, 3, 4, 1, 2)


class HalveTime(nn.Module):
    """A 3x3x3 convolution with stride 2 in time; edges are repeated, time only in front."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 3, stride=(2, 1, 1))

    def forward(self, x_GCThw: Tensor) -> Tensor:
        """Return (G, C, T / 2 rounded up, h, w)."""
        padded = F.pad(x_GCThw.float(), (1, 1, 1, 1, 1, 0), mode="replicate")
        out: Tensor = self.conv(padded.to(x_GCThw.dtype))
        return out


class DynamicTokenSynthesis(nn.Module):
    """Merge each group of four stills into one; groups do not see each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.temporal_encoding = nn.Parameter(torch.zeros(4, channels))
        self.encoder = nn.Sequential(
            *(
                block(channels)
                for _ in range(2)
                for block in (SpatialAttention, TemporalAttention, HalveTime)
            )
        )

    def forward(self, x_GCThw: Tensor) -> Tensor:
        """Return (G, C, h, w) for (G, C, 4, h, w)."""
        encoded = x_GCThw + self.temporal_encoding.T[None, :, :, None, None]
        out: Tensor = self.encoder(encoded)
        return out.squeeze(2)
