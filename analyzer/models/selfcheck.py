"""Compare the arena on this device with caches, on a small input.

Legend: V visual tokens, E width.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from analyzer.kv.arena.arena import ArenaChunk
from analyzer.kv.arena.decoder import ArenaDecoder, NewChunk
from analyzer.kv.arena.slots import ArenaPlan
from analyzer.kv.cache import KVCache, KVChunk
from analyzer.kv.forward import PrefillInput, TextStates
from analyzer.models.video_model import VideoModel

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""The largest error of outputs, relative to their norm."""
WINDOWS, RECENT = 7, 4
TIMESTAMP_IDS, QUESTION_IDS = (1, 2, 3), (3, 2, 1, 2)
"""Token ids of every vocabulary."""
STREAM_COUNT = 2

Chunk = TypeVar("Chunk", KVChunk, ArenaChunk)


def arena_difference(model: VideoModel, prefix: KVChunk, *, proportional_attention: bool) -> str:
    """Return how the results of the arena differ from those of caches, empty if they agree.

    The passes repeat often enough that graphs are captured. Raises FloatingPointError if the
    results with caches are not finite.
    """
    trial = _ArenaTrial(model, prefix, proportional_attention)
    try:
        for nth in range(WINDOWS):
            trial.prefill(nth)
        arena_states = [trial.forward_in_arena() for _ in range(3)][-1]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return f"it fails: {str(error).splitlines()[0]}"
    arena_hidden, plain_hidden = (
        torch.cat([each.hidden_QE for each in answers]).double()
        for answers in (arena_states, trial.forward_plain())
    )
    if not plain_hidden.isfinite().all():
        raise FloatingPointError("the outputs with caches are NaN or infinity")
    relative_error = float((arena_hidden - plain_hidden).norm() / plain_hidden.norm())
    tolerance = TOLERANCE[prefix.keys_NKTD.dtype]
    return (
        ""
        if relative_error <= tolerance
        else f"its outputs are off by {relative_error:.2g} of their norm, not {tolerance:g}"
    )


class _ArenaTrial:
    """The same streams in an arena and in caches."""

    def __init__(self, model: VideoModel, prefix: KVChunk, proportional_attention: bool) -> None:
        self.model, self.prefix, self.proportional_attention = model, prefix, proportional_attention
        visual = model.config.tokens_per_group
        self._timestamp_TE = model.language.embed(torch.tensor(TIMESTAMP_IDS, device=model.device))
        plan = ArenaPlan(
            slots=STREAM_COUNT,
            dense=(RECENT + 1) * (visual + len(TIMESTAMP_IDS)),
            text=(RECENT + 1) * len(TIMESTAMP_IDS),
            pooled=WINDOWS,
            pooled_text=WINDOWS * len(TIMESTAMP_IDS),
            staging=visual + len(TIMESTAMP_IDS),
            compression=visual,
        )
        config = model.config
        self.arena_decoder = ArenaDecoder(
            model.language,
            prefix,
            plan,
            config.previous,
            proportional_attention=proportional_attention,
        )
        self.slots = [self.arena_decoder.allocate_slot() for _ in range(STREAM_COUNT)]
        self.arena_chunks: list[list[ArenaChunk]] = [[] for _ in self.slots]
        self.plain_chunks: list[list[KVChunk]] = [[] for _ in self.slots]

    def prefill(self, nth: int) -> None:
        """Prefill one more window of each stream both ways."""
        is_text = torch.tensor(
            [True] * len(TIMESTAMP_IDS) + [False] * self.model.config.tokens_per_group
        )
        tokens = [self._tokens(2 * nth + stream) for stream in range(STREAM_COUNT)]
        new = [
            NewChunk(
                tokens_VE=own,
                anchors_T=is_text,
                ids=TIMESTAMP_IDS,
                context=self._context(held),
                slot=slot,
            )
            for own, held, slot in zip(tokens, self.arena_chunks, self.slots, strict=True)
        ]
        inputs = [
            PrefillInput(torch.cat([self._timestamp_TE, own]), is_text, self._cache(held))
            for own, held in zip(tokens, self.plain_chunks, strict=True)
        ]
        for stream, chunk in enumerate(self.arena_decoder.prefill(new)[0]):
            self.arena_chunks[stream].append(chunk)
        for stream, plain in enumerate(self.model.prefill_all(inputs)):
            self.plain_chunks[stream].append(plain)

    def forward_in_arena(self) -> Sequence[TextStates]:
        """Run a question against the streams in the arena."""
        return self.arena_decoder.forward_texts(
            [([QUESTION_IDS], self._context(held)) for held in self.arena_chunks]
        )

    def forward_plain(self) -> Sequence[TextStates]:
        """Run a question against caches of the streams."""
        return self.model.forward_texts(
            [([QUESTION_IDS], self._cache(held)) for held in self.plain_chunks]
        )

    def _context(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        older, compression = len(chunks) - RECENT, self.model.config.tokens_per_group
        return [
            chunk.pooled(compression) if nth < older else chunk for nth, chunk in enumerate(chunks)
        ]

    def _cache(self, chunks: Sequence[KVChunk]) -> KVCache:
        return self.model.cache([self.prefix, *self._context(chunks)], self.proportional_attention)

    def _tokens(self, seed: int) -> Tensor:
        shape = self.model.config.tokens_per_group, self._timestamp_TE.shape[1]
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator).to(self.prefix.keys_NKTD)
