"""One pass of a decoder: its new tokens, the caches that they attend to, and its results.

A pass may contain tokens of several streams: the linear layers process them together, and
attention keeps them apart.

Legend: B batch, H heads, K key heads, T new tokens, D head width, E width, Q questions, N layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from analyzer.kv.attention import attend_with_cache
from analyzer.kv.cache import BiasGroup, KVCache, KVChunk
from analyzer.kv.rotary import CosSin, Rotary, rotate

Rows = slice | Tensor


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """Rows of a pass and what they attend to: groups of cached columns, and new tokens.

    `bias` (rows, T of the stream) is added to the logits of the new tokens; -inf hides one.
    Cached tokens need no mask: all rows of a block attend to the same columns.
    """

    rows: Rows
    bias_groups: Sequence[BiasGroup]
    bias: Tensor


@dataclass(frozen=True, slots=True)
class StreamSlice:
    """The new tokens of one stream in a pass, from `begin` to `end`, and its cache.

    A later block overrules an earlier one of the same rows.
    """

    begin: int
    end: int
    cache: KVCache | None
    blocks: Sequence[AttentionBlock]


class ForwardPass(Protocol):
    """How the tokens of one pass attend, and which keys and values are stored."""

    def begin(self, x_BTE: Tensor, rotary: Rotary) -> CosSin:
        """Return the cosines and sines by which the layers rotate queries and keys."""

    def attend(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, scaling: float) -> Tensor:
        """Return the attention output of a layer, (B, T, H, D)."""

    def store_last_layer(self, k_BTKD: Tensor, v_BTKD: Tensor) -> None:
        """Store the keys, before RoPE, and the values of a layer that does not attend."""


class Decoder(Protocol):
    """A language model whose attention and cache are outside of it."""

    @property
    def head_count(self) -> int:
        """Return the number of query heads."""

    def rotary(self, positions_T: Tensor, like: Tensor) -> CosSin:
        """Return the cosines and sines (T, F) of integer positions, in the type of `like`."""

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings of token ids."""

    def hidden_states(self, x_BTE: Tensor, forward_context: ForwardPass) -> Tensor:
        """Return the (B, T, E) outputs of the final norm."""

    def collect_keys_values(self, x_BTE: Tensor, forward_context: ForwardPass) -> None:
        """Run the layers for their keys and values alone."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits over the vocabulary."""

    def margins(self, hidden_QE: Tensor, positive_id: int, negative_id: int) -> Tensor:
        """Return logit(`positive_id`) - logit(`negative_id`) of each state, at least in float32."""

    def cache(
        self, chunks: Sequence[KVChunk] = (), proportional_attention: bool = False, room: int = 0
    ) -> KVCache:
        """Return a cache of chunks, with `room` for more tokens."""


@dataclass(frozen=True, slots=True)
class PrefillInput:
    """A chunk to prefill: embeddings, which of them are text (on the CPU), and its context."""

    x_TE: Tensor
    anchors_T: Tensor
    cache: KVCache


@dataclass(frozen=True, slots=True)
class TextStates:
    """The last hidden state of each text, and the queries of its last token before RoPE."""

    hidden_QE: Tensor
    queries_NQHD: Tensor


@dataclass(slots=True)
class ForwardContext:
    """One pass over caches: the positions of its tokens, what they attend to, and its results.

    `keys_values` collects the keys before RoPE and the values of each layer, (B, K, T, D);
    `end_queries` the queries before RoPE of the tokens in `ends_Q`, (B, H, Q, D).
    """

    positions_T: Tensor
    slices: Sequence[StreamSlice]
    ends_Q: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    keys_values: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    end_queries: list[Tensor] = field(default_factory=list)
    cos_sin: CosSin = field(init=False)

    def begin(self, x_BTE: Tensor, rotary: Rotary) -> CosSin:
        """Compute the angles of the tokens; the layers leave queries and keys unrotated."""
        self.cos_sin = rotary(self.positions_T, x_BTE)
        return x_BTE.new_ones(1, 1, 1), x_BTE.new_zeros(1, 1, 1)

    def attend(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, scaling: float) -> Tensor:
        """Attend to cached and new tokens; return (B, T, H, D).

        The streams of one batch share positions and masks: their heads are folded into one.
        """
        shape, layer = q_BHTD.shape, len(self.keys_values)
        q_BHTD, k_BKTD, v_BKTD = (x.reshape(1, -1, *x.shape[2:]) for x in (q_BHTD, k_BKTD, v_BKTD))
        self.keys_values.append((k_BKTD, v_BKTD))
        if len(self.ends_Q):
            self.end_queries.append(q_BHTD[:, :, self.ends_Q])
        q_BHTD, k_BKTD = rotate(q_BHTD, *self.cos_sin), rotate(k_BKTD, *self.cos_sin)
        out_BHTD = torch.empty_like(q_BHTD)
        for stream in self.slices:
            new_kv = (
                k_BKTD[:, :, stream.begin : stream.end],
                v_BKTD[:, :, stream.begin : stream.end],
            )
            for block in stream.blocks:
                slices = [
                    stream.cache.kv_slice(layer, group)
                    for group in block.bias_groups
                    if stream.cache
                ]
                attended = attend_with_cache(
                    q_BHTD[:, :, block.rows], slices, new_kv, block.bias, scaling
                )
                # Under autocast the two differ.
                out_BHTD[:, :, block.rows] = attended.to(out_BHTD)
        return out_BHTD.reshape(shape).transpose(1, 2)

    def store_last_layer(self, k_BTKD: Tensor, v_BTKD: Tensor) -> None:
        """Store the keys, before RoPE, and the values of the last layer."""
        self.keys_values.append((_merge_streams(k_BTKD), _merge_streams(v_BTKD)))

    def chunk(self, stream: StreamSlice, anchors_T: Tensor) -> KVChunk:
        """Return the keys and values of the tokens of a stream."""
        keys, values = (
            torch.cat([kv[side][:, :, stream.begin : stream.end] for kv in self.keys_values])
            for side in (0, 1)
        )
        return KVChunk(keys, values, anchors_T)


def attention_block(
    like: Tensor, rows: Rows, bias_groups: Sequence[BiasGroup], allowed: Tensor
) -> AttentionBlock:
    """Return a block with a mask (rows, T) of the new tokens that each row attends to."""
    bias = like.new_zeros(allowed.shape).masked_fill(~allowed.to(like.device), -torch.inf)
    return AttentionBlock(rows, bias_groups, bias)


def chunk_attention_blocks(
    anchors_T: Tensor, cache: KVCache, full_chunks: int, begin: int = 0
) -> list[AttentionBlock]:
    """Return what the tokens of a new chunk attend to (chunk-based prefilling, section 3.2).

    Visual tokens attend to all anchors, the last `full_chunks` chunks and their own chunk up to
    themselves; anchors attend to all earlier tokens.
    """
    causal = torch.ones(len(anchors_T), len(anchors_T), dtype=torch.bool).tril()
    all_rows = slice(begin, begin + len(anchors_T))
    visible, hidden_count = cache.visible_to_visual(full_chunks)
    if not hidden_count or anchors_T.all():
        return [attention_block(cache.like, all_rows, cache.bias_groups(), causal)]
    blocks = [attention_block(cache.like, all_rows, cache.bias_groups(visible), causal)]
    if anchors_T.any():
        text = anchors_T.nonzero()[:, 0]
        rows = begin + text
        blocks.append(attention_block(cache.like, rows, cache.bias_groups(), causal[text]))
    return blocks


def packed_text_mask(lengths: Sequence[int]) -> Tensor:
    """Return the mask of texts packed in one pass: each attends to itself, causally."""
    blocks = [torch.ones(n, n, dtype=torch.bool).tril() for n in lengths]
    return torch.block_diag(*blocks).bool()


def _merge_streams(x_BTKD: Tensor) -> Tensor:
    """Return (1, B * K, T, D): the heads of all streams side by side."""
    return x_BTKD.transpose(1, 2).flatten(0, 1)[None]
