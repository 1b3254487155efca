"""One model class: the 8B Video-XL-2 and nano are configurations of it.

Legend: N stills, C channels, H W pixels, G groups, V visual tokens of a group, E decoder
width, T tokens, Q questions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from analyzer.videoxl2.config import VideoXL2Config
from analyzer.videoxl2.dts import DynamicTokenSynthesis
from analyzer.videoxl2.kv import KVCache, KVChunk
from analyzer.videoxl2.language import Lane, Language, Reading, chunk_looks, side_by_side
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

    def cache(self, chunks: Sequence[KVChunk] = ()) -> KVCache:
        """Return a cache with chunks laid into it."""
        return self.language.cache(chunks)

    def prefill(self, x_TE: Tensor, anchors_T: Tensor, cache: KVCache) -> KVChunk:
        """Read one chunk of embeddings behind a cache, which stays as it is.

        `anchors_T` (on the CPU) marks text. Reading a stream chunk by chunk, each appended to
        the cache, equals one pass under the mask of the reference.
        """
        looks = chunk_looks(self.language, anchors_T, cache, self.config.previous)
        lane = Lane(0, len(x_TE), cache, looks)
        positions = torch.arange(cache.length, cache.length + len(x_TE), device=x_TE.device)
        reading = Reading(positions, [lane])
        self.language.remember(x_TE[None], reading)
        return reading.chunk(lane, anchors_T)

    def ask(self, texts_ids: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Return the logits (Q, vocabulary) after each of Q texts, all read in one pass.

        The texts do not see each other, and the cache stays as it is.
        """
        hidden, _ = self._read_texts(texts_ids, cache)
        last = torch.tensor([len(ids) for ids in texts_ids]).cumsum(0) - 1
        return self.language.logits(hidden[last.to(self.device)])

    def answer(self, ids: Sequence[int], cache: KVCache, limit: int, stop: int) -> list[int]:
        """Return the greedy continuation of a text: at most `limit` ids, without `stop`."""
        length, answer = cache.length, list[int]()
        while len(answer) < limit:
            hidden, chunk = self._read_texts([ids], cache)
            token = int(self.language.logits(hidden[-1]).argmax())
            if token == stop:
                break
            answer.append(token)
            cache.append(chunk)
            ids = [token]
        cache.crop(length)
        return answer

    def _read_texts(
        self, texts_ids: Sequence[Sequence[int]], cache: KVCache
    ) -> tuple[Tensor, KVChunk]:
        lengths = [len(ids) for ids in texts_ids]
        flat = torch.tensor([i for ids in texts_ids for i in ids], device=self.device)
        positions = cache.length + torch.cat([torch.arange(n) for n in lengths])
        look = self.language.look(slice(None), None, side_by_side(lengths))
        lane = Lane(0, len(flat), cache, [look])
        reading = Reading(positions.to(self.device), [lane])
        hidden = self.language.read(self.language.embed(flat)[None], reading)[0]
        return hidden, reading.chunk(lane, torch.ones(len(flat), dtype=torch.bool))

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return next(self.parameters()).device
