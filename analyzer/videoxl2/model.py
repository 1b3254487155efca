"""One model class: the 8B Video-XL-2 and nano are configurations of it.

Legend: N stills, C channels, H W pixels, G groups, V visual tokens of a group, E decoder
width, T tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from analyzer.videoxl2.config import VideoXL2Config
from analyzer.videoxl2.dts import DynamicTokenSynthesis
from analyzer.videoxl2.language import Language, Layers, Reading, side_by_side
from analyzer.videoxl2.projector import Projector
from analyzer.videoxl2.vision import VisionTower, group


class VideoXL2(nn.Module):
    """SigLIP tower, Dynamic Token Synthesis, projector and Qwen2 decoder."""

    def __init__(self, config: VideoXL2Config) -> None:
        super().__init__()
        self.config = config
        language = config.language_config()
        channels = config.tower["hidden_size"]
        self.vision_tower = VisionTower(config)
        self.sae = DynamicTokenSynthesis(channels)
        self.mm_projector = Projector(channels, language.hidden_size, config.pool)
        self.language = Language(language)

    def see(self, pixels_NCHW: Tensor) -> Tensor:
        """Return the visual tokens (G, V, E) of normalised stills, the last group filled up."""
        return self.see_features(self.vision_tower(pixels_NCHW))

    def see_features(self, features_NChw: Tensor) -> Tensor:
        """Return the visual tokens (G, V, E) of what the tower made of the stills."""
        tokens: Tensor = self.mm_projector(self.sae(group(features_NChw)))
        return tokens

    def prefill(self, x_TE: Tensor, behind: Sequence[Layers]) -> Layers:
        """Read one chunk of embeddings behind what is held and return its keys and values."""
        held, _ = self.language.gather(behind)
        reading = Reading(held)
        positions = torch.arange(len(x_TE), device=x_TE.device)
        self.language.read(x_TE[None], positions, reading)
        return Layers(tuple(reading.made), len(x_TE))

    def ask(self, texts_ids: Sequence[Sequence[int]], behind: Sequence[Layers]) -> Tensor:
        """Return the logits (Q, vocabulary) after each of Q texts, all read in one pass.

        The texts do not see each other, and nothing held is changed.
        """
        held, length = self.language.gather(behind)
        lengths = [len(ids) for ids in texts_ids]
        flat = torch.tensor([i for ids in texts_ids for i in ids], device=self.device)
        positions = torch.cat([torch.arange(n, device=self.device) for n in lengths])
        reading = Reading(held, side_by_side(lengths, length, self.device))
        hidden = self.language.read(self.language.embed(flat)[None], positions, reading)[0]
        last = torch.tensor(lengths, device=self.device).cumsum(0) - 1
        return self.language.logits(hidden[last])

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return next(self.parameters()).device
