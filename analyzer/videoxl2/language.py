"""The Qwen2 decoder, reading a chunk or questions behind keys and values already held.

Keys are rotated by their place inside their own chunk and carry no absolute position: when a
chunk is read from further on, its keys are turned once by the distance, from the stored ones.

Legend: B batch, H heads, K key heads, T new tokens, L held tokens, D head width, E width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2Config, Qwen2ForCausalLM

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (B, K, T, D)."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Keys and values of `length` tokens in every layer, keys rotated from position 0."""

    held: tuple[KeysValues, ...]
    length: int

    @property
    def nbytes(self) -> int:
        """Return the bytes of all tensors held."""
        return sum(tensor.nbytes for pair in self.held for tensor in pair)


@dataclass(slots=True)
class Reading:
    """What one forward pass reads behind its own tokens, and the keys and values it makes.

    `mask_TL` says which held and new tokens each new token may see; None means all held
    ones and the new ones before it.
    """

    behind: Sequence[KeysValues]
    mask_TL: Tensor | None = None
    made: list[KeysValues] = field(default_factory=list)


def attend(
    module: nn.Module,
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
    reading.made.append((k_BKTD, v_BKTD))
    mask = reading.mask_TL
    if reading.behind:
        k_held, v_held = reading.behind[len(reading.made) - 1]
        if mask is None:
            mask = all_behind(q_BHTD.shape[2], k_held.shape[2], q_BHTD.device)
        k_BKTD = torch.cat([k_held, k_BKTD], dim=2)
        v_BKTD = torch.cat([v_held, v_BKTD], dim=2)
    read = F.scaled_dot_product_attention(
        q_BHTD, k_BKTD, v_BKTD, mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )
    return read.transpose(1, 2).contiguous(), None


def all_behind(new: int, held: int, device: torch.device) -> Tensor:
    """Return the (T, L + T) mask of new tokens that see all held ones and each other causally."""
    return torch.ones(new, held + new, dtype=torch.bool, device=device).tril(held)


def side_by_side(lengths: Sequence[int], held: int, device: torch.device) -> Tensor:
    """Return the mask of texts packed in one pass: each sees what is held and itself only."""
    blocks = [torch.ones(n, n, dtype=torch.bool, device=device).tril() for n in lengths]
    own = torch.block_diag(*blocks).bool()
    behind = torch.ones(len(own), held, dtype=torch.bool, device=device)
    return torch.cat([behind, own], dim=1)


AttentionInterface.register("longwatch", attend)
AttentionMaskInterface.register("longwatch", lambda *_, **__: None)


class Language(nn.Module):
    """Qwen2, fed with embeddings, its cache kept outside as plain tensors."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.decoder = Qwen2ForCausalLM(config)
        self.decoder.set_attn_implementation("longwatch")

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings of token ids, one (E) for each."""
        out: Tensor = self.decoder.model.embed_tokens(ids)
        return out

    def read(self, x_BTE: Tensor, positions_T: Tensor, reading: Reading) -> Tensor:
        """Return the (B, T, E) outputs of the final norm; `reading` collects what was made."""
        out: Tensor = self.decoder.model(
            inputs_embeds=x_BTE, position_ids=positions_T[None], use_cache=False, reading=reading
        ).last_hidden_state
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits over the vocabulary."""
        out: Tensor = self.decoder.lm_head(hidden)
        return out

    def gather(self, parts: Sequence[Layers]) -> tuple[list[KeysValues], int]:
        """Lay parts one behind the other, as seen from the token after the last.

        Returns the keys and values of every layer and their length L; keys are turned so that
        the next token stands at position 0 and what is held at -L to -1.
        """
        length = sum(part.length for part in parts)
        distances, begin = [], 0
        for part in parts:
            distances.append(begin - length)
            begin += part.length
        gathered = [
            (
                torch.cat(
                    [self.turn(pair[0], d) for pair, d in zip(layer, distances, strict=True)], 2
                ),
                torch.cat([pair[1] for pair in layer], dim=2),
            )
            for layer in zip(*(part.held for part in parts), strict=True)
        ]
        return gathered, length

    def turn(self, k_BKTD: Tensor, distance: int) -> Tensor:
        """Rotate keys by a distance in tokens, which may be negative."""
        angles = distance * self.decoder.model.rotary_emb.inv_freq.double()
        cos, sin = (torch.cat([f(angles)] * 2).to(k_BKTD) for f in (torch.cos, torch.sin))
        left, right = k_BKTD.chunk(2, dim=-1)
        return k_BKTD * cos + torch.cat([-right, left], dim=-1) * sin
