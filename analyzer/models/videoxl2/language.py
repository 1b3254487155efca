"""The Qwen2 decoder, reading chunks or questions behind keys and values held outside it.

A pass may hold tokens of several streams side by side: linear layers see them all at once,
attention keeps them apart.

Legend: B batch, H heads, K key heads, T new tokens, L held tokens, D head width, E width,
Q questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from analyzer.kv.attention import attend_with_cache
from analyzer.kv.cache import AngleTable, BiasGroup, KVCache, KVChunk, angles, rotate

Rows = slice | Tensor


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """Some rows of a pass and what they see: parts of what is held, and new tokens.

    `bias` (rows, T of the lane) is added to the logits of the new tokens; -inf hides one. What
    is held needs no mask: a column is seen by every row of a look or by none.
    """

    rows: Rows
    bias_groups: Sequence[BiasGroup]
    bias: Tensor


@dataclass(frozen=True, slots=True)
class StreamSlice:
    """The tokens of one stream in a pass, from `begin` to `end`, behind its cache.

    A later look overrules an earlier one of the same rows.
    """

    begin: int
    end: int
    cache: KVCache | None
    blocks: Sequence[AttentionBlock]


class ForwardPass(Protocol):
    """How the tokens of a pass attend, and what is kept of them."""

    def begin(self, x_BTE: Tensor, inv_freq_F: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosines and sines by which the layers rotate queries and keys."""
        ...

    def attend(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, scaling: float) -> Tensor:
        """Return what the tokens of a layer read, (B, T, H, D)."""
        ...

    def store_last_layer(self, k_BTKD: Tensor, v_BTKD: Tensor) -> None:
        """Take the keys, before RoPE, and the values of a layer that does not attend."""
        ...


@dataclass(slots=True)
class ForwardContext:
    """One pass: where its new tokens stand, what they see, and the keys and values made.

    `made` gets the keys before RoPE and the values of each layer, (B, K, T, D); `asked` the
    queries before RoPE of the tokens in `ends_Q`, (B, H, Q, D).
    """

    positions_T: Tensor
    slices: Sequence[StreamSlice]
    ends_Q: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    keys_values: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    end_queries: list[Tensor] = field(default_factory=list)
    angles: tuple[Tensor, Tensor] = field(init=False)

    def begin(self, x_BTE: Tensor, inv_freq_F: Tensor) -> tuple[Tensor, Tensor]:
        """Take the angles of the tokens, and leave the queries and keys of the layers unrotated."""
        self.angles = angles(self.positions_T, inv_freq_F, x_BTE)
        return x_BTE.new_ones(1, 1, 1), x_BTE.new_zeros(1, 1, 1)

    def attend(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, scaling: float) -> Tensor:
        """Attend over what is held and what is new; return (B, T, H, D).

        Streams of one batch are read alike: their heads are side by side, as if of one.
        """
        shape, layer = q_BHTD.shape, len(self.keys_values)
        q_BHTD, k_BKTD, v_BKTD = (x.reshape(1, -1, *x.shape[2:]) for x in (q_BHTD, k_BKTD, v_BKTD))
        self.keys_values.append((k_BKTD, v_BKTD))
        if len(self.ends_Q):
            self.end_queries.append(q_BHTD[:, :, self.ends_Q])
        q_BHTD, k_BKTD = rotate(q_BHTD, *self.angles), rotate(k_BKTD, *self.angles)
        out_BHTD = torch.empty_like(q_BHTD)
        for stream in self.slices:
            new_kv = (
                k_BKTD[:, :, stream.begin : stream.end],
                v_BKTD[:, :, stream.begin : stream.end],
            )
            for block in stream.blocks:
                slices = (
                    [stream.cache.kv_slice(layer, group) for group in block.bias_groups]
                    if stream.cache
                    else []
                )
                attended = attend_with_cache(
                    q_BHTD[:, :, block.rows], slices, new_kv, block.bias, scaling
                )
                # Under autocast the two differ.
                out_BHTD[:, :, block.rows] = attended.to(out_BHTD)
        return out_BHTD.reshape(shape).transpose(1, 2)

    def store_last_layer(self, k_BTKD: Tensor, v_BTKD: Tensor) -> None:
        """Take the keys, before RoPE, and the values of the last layer."""
        self.keys_values.append((_merge_streams(k_BTKD), _merge_streams(v_BTKD)))

    def chunk(self, stream: StreamSlice, anchors_T: Tensor) -> KVChunk:
        """Return what was made of the tokens of a lane."""
        keys, values = (
            torch.cat([kv[side][:, :, stream.begin : stream.end] for kv in self.keys_values])
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
    reading: ForwardPass,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as a pass says (an attention function of transformers)."""
    return reading.attend(q_BHTD, k_BKTD, v_BKTD, scaling), None


AttentionInterface.register("longwatch", attend)
AttentionMaskInterface.register("longwatch", lambda *_, **__: None)


class Language(nn.Module):
    """Qwen2, fed with embeddings, its cache kept outside."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.decoder = Qwen2ForCausalLM(config)
        _fuse_norms(self.decoder)
        self.decoder.set_attn_implementation("longwatch")
        self.config = config
        self._cached_angles = AngleTable(self.decoder.model.rotary_emb.inv_freq)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings of token ids, one (E) for each."""
        out: Tensor = self.decoder.model.embed_tokens(ids)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits over the vocabulary."""
        out: Tensor = self.decoder.lm_head(hidden)
        return out

    def margins(self, hidden_QE: Tensor, positive_id: int, negative_id: int) -> Tensor:
        """Return logit(`more`) - logit(`less`) of each state, in float32 at least.

        Two half-precision logits above 16 are 1/64 (float16) or 1/8 (bfloat16) apart at least.
        """
        dtype = torch.promote_types(hidden_QE.dtype, torch.float32)
        positive_E, negative_E = (
            self.decoder.lm_head.weight[token_id].to(dtype)
            for token_id in (positive_id, negative_id)
        )
        return hidden_QE.to(dtype) @ (positive_E - negative_E)

    def hidden_states(self, x_BTE: Tensor, forward_context: ForwardPass) -> Tensor:
        """Return the (B, T, E) outputs of the final norm."""
        out: Tensor = self.decoder.model.norm(
            self._forward_layers(x_BTE, forward_context, len(self._layers))
        )
        return out

    def collect_keys_values(self, x_BTE: Tensor, forward_context: ForwardPass) -> None:
        """Only collect the keys and values, for which the last layer need not attend."""
        hidden = self._forward_layers(x_BTE, forward_context, len(self._layers) - 1)
        last: Any = self._layers[-1]
        normed, attention = last.input_layernorm(hidden), last.self_attn
        forward_context.store_last_layer(
            *(
                project(normed).unflatten(-1, (-1, attention.head_dim))
                for project in (attention.k_proj, attention.v_proj)
            )
        )

    def _forward_layers(self, x_BTE: Tensor, forward_context: ForwardPass, layers: int) -> Tensor:
        """Read through the first layers."""
        cos_sin = forward_context.begin(x_BTE, self.inv_freq_F)
        for layer in self._layers[:layers]:
            x_BTE = layer(x_BTE, position_embeddings=cos_sin, reading=forward_context)
        return x_BTE

    @property
    def inv_freq_F(self) -> Tensor:
        """Return RoPE's frequencies."""
        found: Tensor = self.decoder.model.rotary_emb.inv_freq
        return found

    @property
    def _layers(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.decoder.model.layers
        return layers

    def cache(
        self, chunks: Sequence[KVChunk] = (), proportional_attention: bool = False, room: int = 0
    ) -> KVCache:
        """Return a cache with chunks laid into it, and `room` for more tokens."""
        config, weight = self.config, self.decoder.model.norm.weight
        heads = chunks[0].keys_NKTD.shape[1] if chunks else config.num_key_value_heads
        width = _head_width(config)
        empty_NK0D = weight.new_empty(config.num_hidden_layers, heads, 0, width)
        cache = KVCache(empty_NK0D, self._angle_table(), proportional_attention)
        cache.reserve(sum(map(len, chunks)) + room)
        if chunks:
            cache.extend(chunks)
        return cache

    def _angle_table(self) -> AngleTable:
        if self._cached_angles.inv_freq_F is not self.inv_freq_F:  # the weights were moved
            self._cached_angles = AngleTable(self.inv_freq_F)
        return self._cached_angles

    def attention_block(
        self, rows: Rows, bias_groups: Sequence[BiasGroup], allowed: Tensor
    ) -> AttentionBlock:
        """Return a look with a mask (rows, T) of the new tokens that each row may see."""
        weight = self.decoder.model.norm.weight
        bias = weight.new_zeros(allowed.shape).masked_fill(~allowed.to(weight.device), -torch.inf)
        return AttentionBlock(rows, bias_groups, bias)


def _fuse_norms(model: nn.Module) -> None:
    """Put torch's RMS norm, one kernel, in the place of that of transformers, which is seven."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Qwen2RMSNorm):
                (width,) = child.weight.shape
                setattr(module, name, nn.RMSNorm(width, child.variance_epsilon))


def _merge_streams(x_BTKD: Tensor) -> Tensor:
    """Return (1, B * K, T, D): the heads of all streams side by side."""
    return x_BTKD.transpose(1, 2).flatten(0, 1)[None]


def _head_width(config: Qwen2Config) -> int:
    width: int | None = getattr(config, "head_dim", None)
    return width or config.hidden_size // config.num_attention_heads


def chunk_attention_blocks(
    language: Language, anchors_T: Tensor, cache: KVCache, full_chunks: int, begin: int = 0
) -> list[AttentionBlock]:
    """Return what the tokens of a new chunk see (chunk-based prefilling, section 3.2).

    Visual tokens see all anchors, the last `previous` chunks and their own chunk up to
    themselves; anchors see everything before them.
    """
    causal = torch.ones(len(anchors_T), len(anchors_T), dtype=torch.bool).tril()
    all_rows = slice(begin, begin + len(anchors_T))
    visible, hidden_count = cache.visible_to_visual(full_chunks)
    if not hidden_count or anchors_T.all():
        return [language.attention_block(all_rows, cache.bias_groups(), causal)]
    blocks = [language.attention_block(all_rows, cache.bias_groups(visible), causal)]
    if anchors_T.any():
        text = anchors_T.nonzero()[:, 0]
        blocks.append(language.attention_block(begin + text, cache.bias_groups(), causal[text]))
    return blocks


def packed_text_mask(lengths: Sequence[int]) -> Tensor:
    """Return the mask of texts packed in one pass: each sees itself, causally, and no other."""
    blocks = [torch.ones(n, n, dtype=torch.bool).tril() for n in lengths]
    return torch.block_diag(*blocks).bool()
