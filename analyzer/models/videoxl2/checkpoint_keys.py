"""The keys of a Video-XL-2 checkpoint."""

import re

from analyzer.models.videoxl2.config import VideoXL2Config

VISION = "model.vision_tower.vision_tower.vision_model"
LM_HEAD = "lm_head.weight"
OPTIONAL = f"{VISION}.post_layernorm."
"""The norm after the tower's last layer, which the method drops: a checkpoint may lack it."""


def reference_name(key: str) -> str:
    """Return the reference's name of one of our weights."""
    if key.startswith("language.decoder."):
        return key.removeprefix("language.decoder.")
    if key.startswith("vision_tower."):
        return f"model.vision_tower.{key}"
    return f"model.{key}"


def unused_kind(key: str, config: VideoXL2Config) -> str | None:
    """Return the kind of a key that the method never uses, else None."""
    dropped_layer = config.tower["num_hidden_layers"]
    kinds = {
        "text_mlp": r"model\.text_mlp\..*",
        "image_newline": r"model\.image_newline",
        "vision_resampler": r"model\.vision_resampler\..*",
        "rotary inv_freq": r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
        "position_ids": rf"{VISION}\.embeddings\.position_ids",
        "pooling head of the tower": rf"{VISION}\.head\..*",
        "dropped last layer of the tower": rf"{VISION}\.encoder\.layers\.{dropped_layer}\..*",
    }
    if config.is_tied and key == LM_HEAD:
        return "lm_head of tied embeddings"
    return next((kind for kind, keys in kinds.items() if re.fullmatch(keys, key)), None)
