"""The decoder over an arena: chunks of many streams read, and questions asked, in one pass each.

The same numbers as `analyzer.videoxl2.model` computes behind a cache that is laid for each pass;
here nothing is laid but what is new. Made for CUDA; a CPU computes the same slowly, for tests.

Legend: T tokens of a chunk, V its visual tokens, E width, Q questions, N layers, H heads, D head
width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analyzer.videoxl2.arena import Arena, ArenaChunk, Form
from analyzer.videoxl2.graphs import Graphs, Inputs, Outputs
from analyzer.videoxl2.kv import KVChunk
from analyzer.videoxl2.language import Language
from analyzer.videoxl2.layout import (
    Arrays,
    AskArrays,
    Layout,
    Placed,
    PrefillArrays,
    lay_out_ask,
    lay_out_prefill,
    view_parts,
)
from analyzer.videoxl2.model import Asked
from analyzer.videoxl2.passes import AskPass, PrefillPass, packed, unpacked
from analyzer.videoxl2.slots import ArenaPlan, Slot


class DoesNotFit(ValueError):
    """Say that a slot has no room for a chunk, or the arena none for what is lent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewChunk:
    """A chunk to read: its visual tokens, which tokens are text and their ids, and where.

    It is read behind `behind`, neighbours of its slot, and what else the slot holds is forgotten;
    None is whatever the chunk before it in the pass is read behind, and that chunk.
    """

    tokens_VE: Tensor
    anchors_T: Tensor
    ids: Sequence[int]
    behind: Sequence[Form] | None
    slot: Slot


class Streams:
    """A decoder with an arena; `previous` chunks before its own a visual token sees in full."""

    def __init__(
        self,
        language: Language,
        prefix: KVChunk,
        plan: ArenaPlan,
        previous: int,
        *,
        corrected: bool,
    ) -> None:
        self.language = language
        self.arena = Arena(prefix, language.inv_freq_F, plan)
        self.corrected, self._previous = corrected, previous
        self._heads = language.config.num_attention_heads // self.arena.key_heads
        self._device = prefix.keys_NKTD.device
        self._graphs = Graphs(self._device)

    def slot(self) -> Slot:
        """Return an empty slot for a stream."""
        rows = self.arena.rows
        slot = self.arena.slot()
        if self.arena.rows != rows:
            self._graphs.clear()
        return slot

    def convert(self, prefix: KVChunk) -> None:
        """Take the precision of another prefix for all that is held."""
        self.arena.convert(prefix)
        self._graphs.clear()

    def prefill(self, chunks: Sequence[NewChunk]) -> tuple[list[ArenaChunk], Tensor]:
        """Read chunks of different streams; return them, and whether all are numbers.

        Raises DoesNotFit where a chunk is larger than its slot was planned for.
        """
        arena, placed = self.arena, list[Placed]()
        for chunk in chunks:
            placed.append(self._placed(chunk, placed[-1] if chunk.behind is None else None))
        last = {id(each.slot): (each.slot, each.entry) for each in placed}
        if not arena.make_room_for(list(last.values())):
            raise DoesNotFit("a window has more tokens than its memory has room for")
        layout = lay_out_prefill(arena, placed, self._previous, self.corrected, self._heads)
        like = arena.layers[0]
        visual_VE = torch.cat([chunk.tokens_VE.to(like, non_blocking=True) for chunk in chunks])
        (is_finite,) = self._run_prefill(layout, visual_VE)
        arena.pool([(each.slot, each.entry) for each in placed])
        for each in placed:
            each.slot.append(each.entry)
        return [ArenaChunk(arena, each.slot, each.entry) for each in placed], is_finite

    def _placed(self, chunk: NewChunk, before: Placed | None) -> Placed:
        """Return where a chunk goes, behind another of the pass or what its slot then holds."""
        if before is not None:
            entries, slot = [*before.entries, before.entry], before.slot
            entry = slot.next(chunk.anchors_T, self.arena.plan.compression, before.entry)
        else:
            self.arena.keep(chunk.slot, chunk.behind or ())
            entries, slot = chunk.slot.entries, chunk.slot
            entry = slot.next(chunk.anchors_T, self.arena.plan.compression)
        return Placed(slot=slot, entry=entry, ids=chunk.ids, entries=entries)

    def ask(self, asks: Sequence[tuple[Sequence[Sequence[int]], Sequence[Form]]]) -> list[Asked]:
        """Read texts, as ids, behind views of streams, all in one pass.

        Chunks that are not in the arena are lent to it. Raises DoesNotFit where it has no room
        for them.
        """
        loans = self._lend([form for _, view in asks for form in view])
        behind = [
            (texts, view_parts(self.arena, view, loans, self.corrected)) for texts, view in asks
        ]
        layout = lay_out_ask(self.arena, behind, self._heads)
        hidden_QE, queries_NQHD = self._run_ask(layout)
        answered, first = list[Asked](), 0
        for texts, _ in asks:
            own = slice(first, first + len(texts))
            # A graph writes to the same place when it runs again.
            answered.append(Asked(hidden_QE[own].clone(), queries_NQHD[:, own].clone()))
            first = own.stop
        return answered

    def _lend(self, forms: Sequence[Form]) -> dict[int, int]:
        """Lay what is not in the arena into it; return the first store row of each."""
        lent = {id(form): form for form in forms if isinstance(form, KVChunk)}
        if sum(map(len, lent.values())) > self.arena.plan.loans:
            raise DoesNotFit("more chunks are read in full than the arena has room for")
        if self.corrected and any(form.stands_for > 1 for form in lent.values()):
            raise DoesNotFit("pooled chunks are not lent")
        at, rows = self.arena.loans, dict[int, int]()
        for key, chunk in lent.items():
            self.arena.lay(chunk.to(self._device), at)
            rows[key] = at
            at += len(chunk)
        return rows

    def _run_prefill(self, layout: Layout[PrefillArrays], visual_VE: Tensor) -> Outputs:
        def work(inputs: Inputs) -> Outputs:
            bytes_, visual_VE = inputs
            arrays, end = unpacked(layout.arrays, bytes_)
            parts, _ = unpacked(layout.parts, bytes_, end)
            reading = PrefillPass(self.arena, arrays, parts, layout.most_rows, layout.most_folded)
            x_RE = self.language.embed(arrays.ids_R).index_copy(0, arrays.visual_V, visual_VE)
            self.language.remember(x_RE[None], reading)
            return (reading.is_finite,)

        return self._run(layout, (visual_VE,), work)

    def _run_ask(self, layout: Layout[AskArrays]) -> Outputs:
        def work(inputs: Inputs) -> Outputs:
            arrays, end = unpacked(layout.arrays, inputs[0])
            parts, _ = unpacked(layout.parts, inputs[0], end)
            reading = AskPass(self.arena, arrays, parts, layout.most_rows, layout.most_folded)
            hidden_RE = self.language.read(self.language.embed(arrays.ids_R)[None], reading)[0]
            return hidden_RE[arrays.end_Q], reading.queries()

        return self._run(layout, (), work)

    def _run(
        self, layout: Layout[Arrays], more: Inputs, work: Callable[[Inputs], Outputs]
    ) -> Outputs:
        bytes_ = torch.from_numpy(packed(layout.arrays, layout.parts))
        if self._device.type == "cuda":
            bytes_ = bytes_.pin_memory()
        return self._graphs.run(layout.shape, (bytes_, *more), work)
