"""What passes take at their peak, beside weights and what is remembered, by the shapes alone.

Counted are the widest steps of a pass whose attention is fused: that a kernel asks for room of
its own only a measurement shows (`warmup`).
"""

import torch

from analyzer.models.videoxl2.config import VideoXL2Config

TOWER_STATES = 4
"""Tensors as wide as the tower at its widest step: input, residual, normed, sum."""
SYNTHESIS_STATES = 9
"""Tensors as wide as the tower's features at the widest step of Dynamic Token Synthesis."""
DECODER_STATES = 3
GATED_MLP_STATES = 3
"""Tensors of a gated MLP: gate, up and their product."""


def encode_bytes(config: VideoXL2Config, dtype: torch.dtype, stills: int) -> int:
    """Return the bytes that it takes to see stills in one pass, their pixels included.

    Those are in float32, and once more in half precision where the model is.
    """
    tower = config.tower
    width, intermediate = tower["hidden_size"], tower["intermediate_size"]
    patches = (config.height // tower["patch_size"]) * (config.width // tower["patch_size"])
    layers = patches * (TOWER_STATES * width + 2 * intermediate)
    synthesis = config.grid[0] * config.grid[1] * width * SYNTHESIS_STATES
    pixels = (6 if config.stem == "conv" else 3) * config.height * config.width
    pixel_bytes = torch.float32.itemsize + (dtype.itemsize if dtype != torch.float32 else 0)
    return stills * (
        pixels * pixel_bytes + dtype.itemsize * max(_stem_numbers(config), layers, synthesis)
    )


def prefill_bytes(config: VideoXL2Config, dtype: torch.dtype, tokens: int) -> int:
    """Return the bytes that it takes to read tokens in one pass, however many streams they are of.

    Their keys and values are included; what is laid to be read behind is not.
    """
    language = config.language
    width = language.get("head_dim") or language["hidden_size"] // language["num_attention_heads"]
    kv_numbers = 2 * language["num_hidden_layers"] * language["num_key_value_heads"] * width
    mlp_numbers = GATED_MLP_STATES * language["intermediate_size"]
    states = DECODER_STATES * language["hidden_size"]
    return tokens * dtype.itemsize * max(2 * kv_numbers, kv_numbers + mlp_numbers + states)


def _stem_numbers(config: VideoXL2Config) -> int:
    """Return the numbers of a still in a convolutional stem: what its first two layers make."""
    if config.stem == "patch":
        return 0
    step = config.tower["patch_size"] // 4
    first, second = 16 + 8 * step, 64
    return (first + second // 4) * (config.height // step) * (config.width // step)
