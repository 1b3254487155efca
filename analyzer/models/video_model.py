"""A vision encoder with a decoder whose cache is outside of it: the passes of every family.

Legend: N stills, C channels, H W pixels, G groups, V visual tokens of a group, E decoder
width, T tokens, Q questions, N layers, H heads, D head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from analyzer.kv.cache import KVCache, KVChunk
from analyzer.kv.encoded import Background
from analyzer.kv.forward import (
    Decoder,
    ForwardContext,
    PrefillInput,
    StreamSlice,
    TextStates,
    attention_block,
    chunk_attention_blocks,
    packed_text_mask,
)
from analyzer.models.model_config import ModelConfig, Prompt


class VideoModel(nn.Module):
    """The model of a family; `prompt` is the wording that it was trained on."""

    config: ModelConfig
    prompt: Prompt
    language: Decoder

    def encode(self, pixels_NCHW: Tensor) -> Tensor:
        """Return the visual tokens (G, V, E) of normalised stills, the last group filled up."""
        raise NotImplementedError

    def empty_pixels(self, groups: int) -> Tensor:
        """Return an uninitialised float32 input for groups of stills."""
        raise NotImplementedError

    def fill_pixels(
        self, pixels_NCHW: Tensor, levels_NCHW: Tensor, background: Background | None
    ) -> Background | None:
        """Write uint8 stills as model input; return the new background."""
        raise NotImplementedError

    def shape_only_chunk(
        self, dtype: torch.dtype, stills: int, timestamp_tokens: int
    ) -> tuple[KVChunk, int]:
        """Return a chunk of this many stills on the meta device, and its visual tokens' bytes."""
        raise NotImplementedError

    def reference_name(self, key: str) -> str:
        """Return the checkpoint's name of a weight of the model."""
        raise NotImplementedError

    def unused_kind(self, key: str) -> str | None:
        """Return the kind of a checkpoint key that the model never uses, else None."""
        raise NotImplementedError

    def is_optional(self, key: str) -> bool:
        """Return whether a checkpoint may lack a weight of the model."""
        raise NotImplementedError

    def tie_weights(self) -> None:
        """Share weights that the configuration ties, after loading."""

    def cache(
        self, chunks: Sequence[KVChunk] = (), proportional_attention: bool = False, room: int = 0
    ) -> KVCache:
        """Return a cache of chunks, with `room` for more tokens."""
        return self.language.cache(chunks, proportional_attention, room)

    def prefill(self, x_TE: Tensor, anchors_T: Tensor, cache: KVCache) -> KVChunk:
        """Prefill one chunk of embeddings against a cache, which does not change.

        `anchors_T` (on the CPU) marks text. Prefilling a stream chunk by chunk, each appended to
        the cache, equals one pass under the mask of the reference.
        """
        return self.prefill_all([PrefillInput(x_TE, anchors_T, cache)])[0]

    def prefill_all(self, inputs: Sequence[PrefillInput]) -> list[KVChunk]:
        """Prefill chunks of several streams in one pass."""
        slices, positions, begin = list[StreamSlice](), list[Tensor](), 0
        for each in inputs:
            end = begin + len(each.x_TE)
            blocks = chunk_attention_blocks(each.anchors_T, each.cache, self.config.previous, begin)
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

    def forward_texts(
        self, texts_and_caches: Sequence[tuple[Sequence[Sequence[int]], KVCache]]
    ) -> list[TextStates]:
        """Run texts against several caches in one pass."""
        hidden, forward_context = self._forward_packed(texts_and_caches)
        ends, answers, first = forward_context.ends_Q, list[TextStates](), 0
        for texts, _ in texts_and_caches:
            own = slice(first, first + len(texts))
            queries = torch.stack(
                [layer[0, :, own].transpose(0, 1) for layer in forward_context.end_queries]
            )
            answers.append(TextStates(hidden[ends[own]], queries))
            first = own.stop
        return answers

    def generate(self, ids: Sequence[int], cache: KVCache, limit: int, stop_id: int) -> list[int]:
        """Return the greedy continuation of a text: at most `limit` ids, without `stop_id`."""
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
            mask = packed_text_mask(lengths)
            block = attention_block(cache.like, rows, cache.bias_groups(), mask)
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
        """Return the device of the weights."""
        return next(self.parameters()).device
