"""One model class: the 8B Video-XL-2 and nano are configurations of it.

Legend: N stills, C channels, H W pixels, G groups, V visual tokens of a group, E decoder
width, T tokens, Q questions, N layers, H heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analyzer.kv.cache import KVCache, KVChunk
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.dts import DynamicTokenSynthesis
from analyzer.models.videoxl2.language import (
    ForwardContext,
    Language,
    StreamSlice,
    chunk_attention_blocks,
    packed_text_mask,
)
from analyzer.models.videoxl2.projector import Projector
from analyzer.models.videoxl2.vision import VisionTower, group_stills


@dataclass(frozen=True, slots=True)
class PrefillInput:
    """A chunk to read: embeddings, which of them are text (on the CPU), and what lies before."""

    x_TE: Tensor
    anchors_T: Tensor
    cache: KVCache


@dataclass(frozen=True, slots=True)
class TextLogits:
    """The decoder's last state after each text, and the queries of its last token.

    The queries are of every layer, before RoPE.
    """

    hidden_QE: Tensor
    queries_NQHD: Tensor


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

    def encode(self, pixels_NCHW: Tensor) -> Tensor:
        """Return the visual tokens (G, V, E) of normalised stills, the last group filled up."""
        return self.encode_features(self.vision_tower(pixels_NCHW))

    def encode_features(self, features_NChw: Tensor) -> Tensor:
        """Return the visual tokens (G, V, E) of what the tower made of the stills."""
        tokens: Tensor = self.mm_projector(self.sae(group_stills(features_NChw)))
        return tokens

    def cache(
        self, chunks: Sequence[KVChunk] = (), proportional_attention: bool = False, room: int = 0
    ) -> KVCache:
        """Return a cache with chunks laid into it, and `room` for more tokens."""
        return self.language.cache(chunks, proportional_attention, room)

    def prefill(self, x_TE: Tensor, anchors_T: Tensor, cache: KVCache) -> KVChunk:
        """Read one chunk of embeddings behind a cache, which stays as it is.

        `anchors_T` (on the CPU) marks text. Reading a stream chunk by chunk, each appended to
        the cache, equals one pass under the mask of the reference.
        """
        return self.prefill_all([PrefillInput(x_TE, anchors_T, cache)])[0]

    def prefill_all(self, inputs: Sequence[PrefillInput]) -> list[KVChunk]:
        """Read chunks of several streams in one pass."""
        slices, positions, begin = list[StreamSlice](), list[Tensor](), 0
        for each in inputs:
            end = begin + len(each.x_TE)
            blocks = chunk_attention_blocks(
                self.language, each.anchors_T, each.cache, self.config.previous, begin
            )
            slices.append(StreamSlice(begin, end, each.cache, blocks))
            positions.append(each.cache.length + torch.arange(end - begin))
            begin = end
        forward_context = ForwardContext(torch.cat(positions).to(self.device), slices)
        self.language.collect_keys_values(
            torch.cat([each.x_TE for each in inputs])[None], forward_context
        )
        return [
            forward_context.chunk(stream, each.anchors_T)
            for stream, each in zip(slices, inputs, strict=True)
        ]

    def text_logits(self, texts_ids: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Return the logits (Q, vocabulary) after each of Q texts, all read in one pass.

        The texts do not see each other, and the cache stays as it is.
        """
        return self.language.logits(self.forward_texts([(texts_ids, cache)])[0].hidden_QE)

    def forward_texts(
        self, texts_and_caches: Sequence[tuple[Sequence[Sequence[int]], KVCache]]
    ) -> list[TextLogits]:
        """Read texts behind several caches in one pass."""
        hidden, forward_context = self._forward_packed(texts_and_caches)
        ends, answers, first = forward_context.ends_Q, list[TextLogits](), 0
        for texts, _ in texts_and_caches:
            own = slice(first, first + len(texts))
            queries = torch.stack(
                [layer[0, :, own].transpose(0, 1) for layer in forward_context.end_queries]
            )
            answers.append(TextLogits(hidden[ends[own]], queries))
            first = own.stop
        return answers

    def generate(self, ids: Sequence[int], cache: KVCache, limit: int, stop_id: int) -> list[int]:
        """Return the greedy continuation of a text: at most `limit` ids, without `stop`."""
        length, answer = cache.length, list[int]()
        while len(answer) < limit:
            hidden, forward_context = self._forward_packed([([ids], cache)])
            token = int(self.language.logits(hidden[-1]).argmax())
            if token == stop_id:
                break
            answer.append(token)
            text = torch.ones(len(ids), dtype=torch.bool)
            cache.append(forward_context.chunk(forward_context.slices[0], text))
            ids = [token]
        cache.crop(length)
        return answer

    def _forward_packed(
        self, texts_and_caches: Sequence[tuple[Sequence[Sequence[int]], KVCache]]
    ) -> tuple[Tensor, ForwardContext]:
        slices, positions, begin = list[StreamSlice](), list[Tensor](), 0
        for texts, cache in texts_and_caches:
            lengths = [len(ids) for ids in texts]
            rows = slice(begin, begin + sum(lengths))
            block = self.language.attention_block(
                rows, cache.bias_groups(), packed_text_mask(lengths)
            )
            slices.append(StreamSlice(begin, rows.stop, cache, [block]))
            positions += [cache.length + torch.arange(length) for length in lengths]
            begin = rows.stop
        flat = torch.tensor([i for texts, _ in texts_and_caches for ids in texts for i in ids])
        ends = torch.tensor([len(own) for own in positions]).cumsum(0) - 1
        forward_context = ForwardContext(
            torch.cat(positions).to(self.device), slices, ends_Q=ends.to(self.device)
        )
        x_TE = self.language.embed(flat.to(self.device))
        return self.language.hidden_states(x_TE[None], forward_context)[0], forward_context

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return next(self.parameters()).device
