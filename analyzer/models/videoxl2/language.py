"""The Qwen2 decoder, whose keys and values are kept outside of it.

Legend: B batch, H heads, K key heads, T new tokens, D head width, E width, F frequencies,
Q questions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from analyzer.kv.cache import KVCache, KVChunk
from analyzer.kv.forward import ForwardPass
from analyzer.kv.rotary import AngleTable, CosSin, angles


def attend(
    _module: nn.Module,
    q_BHTD: Tensor,
    k_BKTD: Tensor,
    v_BKTD: Tensor,
    _mask: Tensor | None,
    *,
    forward_context: ForwardPass,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as the pass defines (an attention function of transformers)."""
    return forward_context.attend(q_BHTD, k_BKTD, v_BKTD, scaling), None


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
        self._angles_of: tuple[Tensor, AngleTable] | None = None

    @property
    def head_count(self) -> int:
        """Return the number of query heads."""
        return self.config.num_attention_heads

    def rotary(self, positions_T: Tensor, like: Tensor) -> CosSin:
        """Return the cosines and sines (T, F) of integer positions, in the type of `like`."""
        inv_freq_F: Tensor = self.decoder.model.rotary_emb.inv_freq
        return angles(positions_T.to(inv_freq_F.device), inv_freq_F, like)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings of token ids, one (E) for each."""
        out: Tensor = self.decoder.model.embed_tokens(ids)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits over the vocabulary."""
        out: Tensor = self.decoder.lm_head(hidden)
        return out

    def margins(self, hidden_QE: Tensor, positive_id: int, negative_id: int) -> Tensor:
        """Return logit(`positive_id`) - logit(`negative_id`) of each state, at least in float32.

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
        """Run the layers for their keys and values alone: the last one does not attend."""
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
        """Run the first layers."""
        cos_sin = forward_context.begin(x_BTE, self.rotary)
        for layer in self._layers[:layers]:
            x_BTE = layer(x_BTE, position_embeddings=cos_sin, forward_context=forward_context)
        return x_BTE

    @property
    def _layers(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.decoder.model.layers
        return layers

    def cache(
        self, chunks: Sequence[KVChunk] = (), proportional_attention: bool = False, room: int = 0
    ) -> KVCache:
        """Return a cache of chunks, with `room` for more tokens."""
        config, weight = self.config, self.decoder.model.norm.weight
        heads = chunks[0].keys_NKTD.shape[1] if chunks else config.num_key_value_heads
        width = self.decoder.model.layers[0].self_attn.head_dim
        empty_NK0D = weight.new_empty(config.num_hidden_layers, heads, 0, width)
        cache = KVCache(empty_NK0D, self._angle_table(), proportional_attention)
        cache.reserve(sum(map(len, chunks)) + room)
        if chunks:
            cache.extend(chunks)
        return cache

    def _angle_table(self) -> AngleTable:
        inv_freq_F = self.decoder.model.rotary_emb.inv_freq
        if self._angles_of is None or self._angles_of[0] is not inv_freq_F:  # the weights moved
            self._angles_of = inv_freq_F, AngleTable(self.rotary)
        return self._angles_of[1]


def _fuse_norms(model: nn.Module) -> None:
    """Replace the RMS norm of transformers, seven kernels, by torch's, which is one."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Qwen2RMSNorm):
                (width,) = child.weight.shape
                setattr(module, name, nn.RMSNorm(width, child.variance_epsilon))
