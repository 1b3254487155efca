"""The Qwen2 decoder, reading chunks or questions behind keys and values held outside it.

A pass may hold tokens of several streams side by side: linear layers see them all at once,
attention keeps them apart.

Legend: B batch, H heads, K key heads, T new tokens, L held tokens, D head width, E width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2Config, Qwen2ForCausalLM

from analyzer.videoxl2.kv import KVCache, KVChunk, angles, rotate

Rows = slice | Tensor


@dataclass(frozen=True, slots=True)
class Look:
    """Which new tokens see which: rows of the pass, columns of what is held and then new.

    No `columns` means all; `bias` is added to the logits of (rows, columns), -inf hides.
    """

    rows: Rows
    columns: Tensor | None
    bias: Tensor


@dataclass(frozen=True, slots=True)
class Lane:
    """The tokens of one stream in a pass, from `begin` to `end`, behind its cache.

    A later look overrules an earlier one of the same rows.
    """

    begin: int
    end: int
    cache: KVCache | None
    looks: Sequence[Look]


@dataclass(slots=True)
class Reading:
    """One pass: where its new tokens stand, what they see, and the keys and values made.

    `made` gets the keys before RoPE and the values of each layer, (B, K, T, D).
    """

    positions_T: Tensor
    lanes: Sequence[Lane]
    made: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    angles: tuple[Tensor, Tensor] | None = None

    def chunk(self, lane: Lane, anchors_T: Tensor) -> KVChunk:
        """Return what was made of the tokens of a lane."""
        keys, values = (
            torch.cat([made[side][:, :, lane.begin : lane.end] for made in self.made])
            for side in (0, 1)
        )
        return KVChunk(keys, values, anchors_T)


def attend(
    _module: nn.Module,
    q_BHTD: Tensor,
    k_BKTD: Tensor,
    v_BKTD: Tensor,
    _mask: Tensor | None,
    *,
    reading: Reading,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend over what is held and what is new (an attention function of transformers)."""
    assert reading.angles
    layer = len(reading.made)
    reading.made.append((k_BKTD, v_BKTD))
    q_BHTD, k_BKTD = rotate(q_BHTD, *reading.angles), rotate(k_BKTD, *reading.angles)
    out_BHTD = torch.empty_like(q_BHTD)
    for lane in reading.lanes:
        k, v = k_BKTD[:, :, lane.begin : lane.end], v_BKTD[:, :, lane.begin : lane.end]
        if lane.cache is not None:
            k, v = lane.cache.lay(layer, k, v)
        for look in lane.looks:
            seen = (
                (k, v) if look.columns is None else (k[:, :, look.columns], v[:, :, look.columns])
            )
            out_BHTD[:, :, look.rows] = _look(q_BHTD[:, :, look.rows], *seen, look.bias, scaling)
    return out_BHTD.transpose(1, 2), None


def _look(q_BHTD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, bias: Tensor, scaling: float) -> Tensor:
    """Attend with the query heads of a key head folded into its rows.

    Every kernel takes that; grouped heads together with a mask only some do.
    """
    B, H, T, D = q_BHTD.shape
    K = k_BKLD.shape[1]
    folded = q_BHTD.reshape(B, K, H // K * T, D)
    out = F.scaled_dot_product_attention(folded, k_BKLD, v_BKLD, bias, scale=scaling)
    return out.view(B, H, T, D)


AttentionInterface.register("longwatch", attend)
AttentionMaskInterface.register("longwatch", lambda *_, **__: None)


class Language(nn.Module):
    """Qwen2, fed with embeddings, its cache kept outside."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.decoder = Qwen2ForCausalLM(config)
        self.decoder.set_attn_implementation("longwatch")
        self.config = config

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings of token ids, one (E) for each."""
        out: Tensor = self.decoder.model.embed_tokens(ids)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits over the vocabulary."""
        out: Tensor = self.decoder.lm_head(hidden)
        return out

    def read(self, x_BTE: Tensor, reading: Reading) -> Tensor:
        """Return the (B, T, E) outputs of the final norm; `reading` collects what was made.

        The decoder is told position 0 throughout, so that it hands its queries and keys on
        unrotated; `attend` rotates them.
        """
        inv_freq = self.decoder.model.rotary_emb.inv_freq
        reading.angles = angles(reading.positions_T, inv_freq, x_BTE)
        for lane in reading.lanes:
            if lane.cache is not None:
                lane.cache.reserve(lane.end - lane.begin)
        out: Tensor = self.decoder.model(
            inputs_embeds=x_BTE,
            position_ids=torch.zeros_like(reading.positions_T)[None],
            use_cache=False,
            reading=reading,
        ).last_hidden_state
        return out

    def cache(self, chunks: Sequence[KVChunk] = ()) -> KVCache:
        """Return a cache with chunks laid into it."""
        config, weight = self.config, self.decoder.model.norm.weight
        heads, width = config.num_key_value_heads, _head_width(config)
        empty_NK0D = weight.new_empty(config.num_hidden_layers, heads, 0, width)
        cache = KVCache(empty_NK0D, self.decoder.model.rotary_emb.inv_freq)
        cache.reserve(sum(map(len, chunks)))
        for chunk in chunks:
            cache.append(chunk)
        return cache

    def look(self, rows: Rows, columns: Tensor | None, allowed: Tensor) -> Look:
        """Return a look at what is `allowed`, a mask of (rows, columns)."""
        config = self.config
        per_key_head = config.num_attention_heads // config.num_key_value_heads
        weight = self.decoder.model.norm.weight
        bias = weight.new_zeros(allowed.shape).masked_fill(~allowed.to(weight.device), -torch.inf)
        return Look(rows, columns, bias.repeat(per_key_head, 1))


def _head_width(config: Qwen2Config) -> int:
    width: int | None = getattr(config, "head_dim", None)
    return width or config.hidden_size // config.num_attention_heads


def chunk_looks(
    language: Language, anchors_T: Tensor, cache: KVCache, previous: int, begin: int = 0
) -> list[Look]:
    """Return what the tokens of a new chunk see (chunk-based prefilling, section 3.2).

    Visual tokens see all anchors, the last `previous` chunks and their own chunk up to
    themselves; anchors see everything before them.
    """
    new = len(anchors_T)
    everything = torch.arange(cache.length + new)
    causal = torch.ones(new, new, dtype=torch.bool).tril()
    near, far = cache.near(previous)
    near = torch.cat([near, everything[cache.length :]])
    rows = slice(begin, begin + new)
    looks = []
    if far and not anchors_T.all():
        seen = torch.cat([torch.ones(new, len(near) - new, dtype=torch.bool), causal], dim=1)
        looks.append(language.look(rows, near.to(language.decoder.device), seen))
        rows = begin + anchors_T.nonzero()[:, 0]
        causal = causal[anchors_T]
    behind = torch.ones(len(causal), cache.length, dtype=torch.bool)
    if len(causal):
        looks.append(language.look(rows, None, torch.cat([behind, causal], dim=1)))
    return looks


def side_by_side(lengths: Sequence[int], held: int) -> Tensor:
    """Return the mask of texts packed in one pass: each sees what is held and itself only."""
    blocks = [torch.ones(n, n, dtype=torch.bool).tril() for n in lengths]
    own = torch.block_diag(*blocks).bool()
    return torch.cat([torch.ones(len(own), held, dtype=torch.bool), own], dim=1)
