"""Chunks without content: what a memory will take, reckoned before anything is remembered."""

import torch

from analyzer.kv.cache import KVChunk
from analyzer.models.videoxl2.config import STILLS_PER_GROUP, VideoXL2Config


def shape_only_chunk(
    config: VideoXL2Config, dtype: torch.dtype, stills: int, timestamp_tokens: int
) -> tuple[KVChunk, int]:
    """Return a chunk of the meta device, and the bytes of its visual tokens.

    It stands for so many stills, with timestamps of `stamp` tokens.
    """
    groups, visual = -(-stills // STILLS_PER_GROUP), config.tokens_per_group
    anchors_T = torch.tensor(([True] * timestamp_tokens + [False] * visual) * groups)
    language = config.language
    heads, layers = language["num_key_value_heads"], language["num_hidden_layers"]
    width = language.get("head_dim") or language["hidden_size"] // language["num_attention_heads"]
    shape_NKTD = layers, heads, len(anchors_T), width
    keys_NKTD = torch.empty(shape_NKTD, dtype=dtype, device="meta")
    tokens_GVE = keys_NKTD.new_empty(groups, visual, language["hidden_size"])
    return KVChunk(keys_NKTD, keys_NKTD, anchors_T), tokens_GVE.nbytes
