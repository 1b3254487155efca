"""Whether the arena computes on this device what the plain way does, tried on a small input.

Legend: V visual tokens, E width.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from analyzer.videoxl2.arena import ArenaChunk
from analyzer.videoxl2.kv import KVCache, KVChunk
from analyzer.videoxl2.model import Asked, Piece, VideoXL2
from analyzer.videoxl2.slots import ArenaPlan
from analyzer.videoxl2.streams import NewChunk, Streams

CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far the outputs may be off, as a part of their norm."""
WINDOWS, RECENT = 7, 4
STAMP, QUESTION = (1, 2, 3), (3, 2, 1, 2)
"""Tokens that every vocabulary has."""
LANES = 2

Chunk = TypeVar("Chunk", KVChunk, ArenaChunk)


def difference_from_plain(model: VideoXL2, prefix: KVChunk, *, corrected: bool) -> str:
    """Say how the arena differs from the plain way; nothing where they agree.

    Streams of some windows are read, those that are not recent pooled, and asked, often enough
    that graphs are captured. Raises FloatingPointError where the plain way makes what is no number.
    """
    trial = _Trial(model, prefix, corrected)
    try:
        for nth in range(WINDOWS):
            trial.read(nth)
        asked = [trial.ask_arena() for _ in range(3)][-1]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return f"it fails: {str(error).splitlines()[0]}"
    ours, plain = (
        torch.cat([one.hidden_QE for one in answers]).double()
        for answers in (asked, trial.ask_plain())
    )
    if not plain.isfinite().all():
        raise FloatingPointError("what the plain way makes is no number")
    off = float((ours - plain).norm() / plain.norm())
    close = CLOSE[prefix.keys_NKTD.dtype]
    return "" if off <= close else f"its outputs are off by {off:.2g} of their norm, not {close:g}"


class _Trial:
    """The same streams in an arena and outside of it."""

    def __init__(self, model: VideoXL2, prefix: KVChunk, corrected: bool) -> None:
        self.model, self.prefix, self.corrected = model, prefix, corrected
        visual = model.config.tokens_per_group
        plan = ArenaPlan(
            slots=LANES,
            dense=(RECENT + 1) * (visual + len(STAMP)),
            text=(RECENT + 1) * len(STAMP),
            pooled=WINDOWS,
            pooled_text=WINDOWS * len(STAMP),
            loans=visual + len(STAMP),
            compression=visual,
        )
        config = model.config
        self.streams = Streams(model.language, prefix, plan, config.previous, corrected=corrected)
        self.slots = [self.streams.slot() for _ in range(LANES)]
        self.ours: list[list[ArenaChunk]] = [[] for _ in self.slots]
        self.plain: list[list[KVChunk]] = [[] for _ in self.slots]

    def read(self, nth: int) -> None:
        """Read one more window of each stream both ways."""
        is_text = torch.tensor([True] * len(STAMP) + [False] * self.model.config.tokens_per_group)
        tokens = [self._tokens(2 * nth + lane) for lane in range(LANES)]
        new = [
            NewChunk(
                tokens_VE=own, anchors_T=is_text, ids=STAMP, behind=self._view(held), slot=slot
            )
            for own, held, slot in zip(tokens, self.ours, self.slots, strict=True)
        ]
        stamp_TE = self.model.language.embed(torch.tensor(STAMP, device=self.model.device))
        pieces = [
            Piece(torch.cat([stamp_TE, own]), is_text, self._cache(held))
            for own, held in zip(tokens, self.plain, strict=True)
        ]
        for lane, chunk in enumerate(self.streams.prefill(new)[0]):
            self.ours[lane].append(chunk)
        for lane, plain in enumerate(self.model.prefill_all(pieces)):
            self.plain[lane].append(plain)

    def ask_arena(self) -> Sequence[Asked]:
        """Ask behind the streams in the arena."""
        return self.streams.ask([([QUESTION], self._view(held)) for held in self.ours])

    def ask_plain(self) -> Sequence[Asked]:
        """Ask behind the streams outside of it."""
        return self.model.ask_all([([QUESTION], self._cache(held)) for held in self.plain])

    def _view(self, held: Sequence[Chunk]) -> list[Chunk]:
        older, all_of_group = len(held) - RECENT, self.model.config.tokens_per_group
        return [
            chunk.pooled(all_of_group) if nth < older else chunk for nth, chunk in enumerate(held)
        ]

    def _cache(self, held: Sequence[KVChunk]) -> KVCache:
        return self.model.cache([self.prefix, *self._view(held)], self.corrected)

    def _tokens(self, seed: int) -> Tensor:
        shape = self.model.config.tokens_per_group, self.model.language.config.hidden_size
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(
            self.prefix.keys_NKTD
        )
