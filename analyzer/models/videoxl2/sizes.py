"""Bytes of passes and chunks, computed from the shapes of a model.

A pass is counted at its widest step, with fused attention and without weights and memories. The
workspace of a kernel is not included: `warmup` measures it.
"""

import torch

from analyzer.kv.cache import KVChunk
from analyzer.models.videoxl2.config import STILLS_PER_GROUP, VideoXL2Config

TOWER_STATES = 4
"""Tensors as wide as the tower at its widest step: input, residual, normed, sum."""
SYNTHESIS_STATES = 9
"""Tensors as wide as the tower's features at the widest step of Dynamic Token Synthesis."""
DECODER_STATES = 3
GATED_MLP_STATES = 3
"""Tensors of a gated MLP: gate, up and their product."""


def encode_bytes(config: VideoXL2Config, dtype: torch.dtype, stills: int) -> int:
    """Return the peak bytes of encoding stills in one pass, their pixels included.

    Pixels are in float32, and once more in half precision if the model is.
    """
    tower = config.tower
    width, intermediate = tower["hidden_size"], tower["intermediate_size"]
    patches = (config.height // tower["patch_size"]) * (config.width // tower["patch_size"])
    layers = patches * (TOWER_STATES * width + 2 * intermediate)
    synthesis = config.grid[0] * config.grid[1] * width * SYNTHESIS_STATES
    pixels = config.pixel_channels * config.height * config.width
    pixel_bytes = torch.float32.itemsize + (dtype.itemsize if dtype != torch.float32 else 0)
    return stills * (
        pixels * pixel_bytes + dtype.itemsize * max(_stem_numbers(config), layers, synthesis)
    )


def prefill_bytes(config: VideoXL2Config, dtype: torch.dtype, tokens: int) -> int:
    """Return the peak bytes of prefilling tokens in one pass, of one stream or many.

    Their own keys and values are included; copies of their context are not.
    """
    language = config.language
    heads = language["num_key_value_heads"]
    kv_numbers = 2 * language["num_hidden_layers"] * heads * config.head_width
    mlp_numbers = GATED_MLP_STATES * language["intermediate_size"]
    states = DECODER_STATES * language["hidden_size"]
    return tokens * dtype.itemsize * max(2 * kv_numbers, kv_numbers + mlp_numbers + states)


def shape_only_chunk(
    config: VideoXL2Config, dtype: torch.dtype, stills: int, timestamp_tokens: int
) -> tuple[KVChunk, int]:
    """Return a chunk of stills on the meta device, and the bytes of its visual tokens."""
    groups, visual = -(-stills // STILLS_PER_GROUP), config.tokens_per_group
    anchors_T = torch.tensor(([True] * timestamp_tokens + [False] * visual) * groups)
    language = config.language
    heads, layers = language["num_key_value_heads"], language["num_hidden_layers"]
    shape_NKTD = layers, heads, len(anchors_T), config.head_width
    keys_NKTD = torch.empty(shape_NKTD, dtype=dtype, device="meta")
    tokens_GVE = keys_NKTD.new_empty(groups, visual, language["hidden_size"])
    return KVChunk(keys_NKTD, keys_NKTD, anchors_T), tokens_GVE.nbytes


def _stem_numbers(config: VideoXL2Config) -> int:
    """Return the numbers that the first two layers of a convolutional stem make of a still."""
    if config.stem == "patch":
        return 0
    step = config.tower["patch_size"] // 4
    first, second = 16 + 8 * step, 64
    return (first + second // 4) * (config.height // step) * (config.width // step)
