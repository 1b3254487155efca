"""Video-XL-2 as one class: the 8B model and nano are configurations of it.

Legend: N stills, C channels, H W pixels, G groups, V visual tokens of a group, E decoder width.
"""

import torch
from torch import Tensor

from analyzer.kv.cache import KVChunk
from analyzer.kv.encoded import Background
from analyzer.models.model_config import Prompt
from analyzer.models.video_model import VideoModel
from analyzer.models.videoxl2 import checkpoint_keys, sizes, vision
from analyzer.models.videoxl2 import prompt as texts
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.dts import DynamicTokenSynthesis
from analyzer.models.videoxl2.language import Language
from analyzer.models.videoxl2.projector import Projector
from analyzer.models.videoxl2.vision import VisionTower, group_stills


class VideoXL2(VideoModel):
    """SigLIP tower, Dynamic Token Synthesis, projector and Qwen2 decoder."""

    prompt: Prompt = texts
    config: VideoXL2Config
    language: Language

    def __init__(self, config: VideoXL2Config) -> None:
        super().__init__()
        self.config = config
        language = config.language_config()
        channels = config.tower["hidden_size"]
        self.vision_tower = VisionTower(config)
        self.sae = DynamicTokenSynthesis(channels)
        self.mm_projector = Projector(channels, language.hidden_size, config.pool)
        self.language = Language(language)

    def encode(self, pixels_NCHW: Tensor) -> Tensor:
        """Return the visual tokens (G, V, E) of normalised stills, the last group filled up."""
        return self.encode_features(self.vision_tower(pixels_NCHW))

    def encode_features(self, features_NChw: Tensor) -> Tensor:
        """Return the visual tokens (G, V, E) of features of the tower."""
        tokens: Tensor = self.mm_projector(self.sae(group_stills(features_NChw)))
        return tokens

    def empty_pixels(self, groups: int) -> Tensor:
        """Return an uninitialised float32 input for groups of stills."""
        return vision.empty_pixels(self.config, groups, self.device)

    def fill_pixels(
        self, pixels_NCHW: Tensor, levels_NCHW: Tensor, background: Background | None
    ) -> Background | None:
        """Write uint8 stills as model input; return the new background."""
        return vision.fill_pixels(pixels_NCHW, levels_NCHW, background)

    def shape_only_chunk(
        self, dtype: torch.dtype, stills: int, timestamp_tokens: int
    ) -> tuple[KVChunk, int]:
        """Return a chunk of this many stills on the meta device, and its visual tokens' bytes."""
        return sizes.shape_only_chunk(self.config, dtype, stills, timestamp_tokens)

    def reference_name(self, key: str) -> str:
        """Return the checkpoint's name of a weight of the model."""
        return checkpoint_keys.reference_name(key)

    def unused_kind(self, key: str) -> str | None:
        """Return the kind of a checkpoint key that the model never uses, else None."""
        return checkpoint_keys.unused_kind(key, self.config)

    def is_optional(self, key: str) -> bool:
        """Return whether a checkpoint may lack a weight of the model."""
        return checkpoint_keys.OPTIONAL in key

    def tie_weights(self) -> None:
        """Share the embeddings with the last layer, if the configuration ties them."""
        decoder = self.language.decoder
        if self.config.is_tied:
            decoder.lm_head.weight = decoder.model.embed_tokens.weight


def build_meta_model(config: VideoXL2Config) -> VideoXL2:
    """Return a model whose weights have shapes and take no memory.

    Buffers that no checkpoint contains, because they are computed, are real.
    """
    with torch.device("meta"):
        model = VideoXL2(config)
    decoder = model.language.decoder.model
    decoder.rotary_emb = type(decoder.rotary_emb)(decoder.config)
    for module in model.modules():
        ids = module._buffers.get("position_ids")
        if ids is not None:
            module.register_buffer("position_ids", torch.arange(ids.shape[-1])[None], False)
    return model
