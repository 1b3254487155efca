"""A decoder over an arena: prefill chunks of many streams, or forward questions, in one pass.

The results equal those of a pass over a `KVCache`, but only new tokens are copied. Made for CUDA;
a CPU computes the same slowly, for tests.

Legend: T tokens of a chunk, V its visual tokens, E width, Q questions, N layers, H heads, D head
width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analyzer.kv.arena.arena import AnyChunk, Arena, ArenaChunk
from analyzer.kv.arena.cuda_graphs import CudaGraphs, Inputs, Outputs
from analyzer.kv.arena.layout import (
    Arrays,
    PassLayout,
    PlacedChunk,
    PrefillArrays,
    QuestionArrays,
    context_ranges,
    lay_out_prefill,
    lay_out_questions,
)
from analyzer.kv.arena.passes import PrefillPass, QuestionPass, pack_arrays, unpack_arrays
from analyzer.kv.arena.slots import ArenaPlan, ArenaSlot
from analyzer.kv.cache import KVChunk
from analyzer.kv.forward import Decoder, TextStates


class DoesNotFit(ValueError):
    """A slot has no room for a chunk, or the arena none for staged chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewChunk:
    """A chunk to prefill: its visual tokens, which tokens are text and their ids, its slot.

    `context` are consecutive chunks of the slot; all others there are dropped. Without it the
    context is that of the chunk before it in the pass, and that chunk.
    """

    tokens_VE: Tensor
    anchors_T: Tensor
    ids: Sequence[int]
    context: Sequence[AnyChunk] | None
    slot: ArenaSlot


class ArenaDecoder:
    """A decoder with an arena; a visual token attends to the last `full_chunks` chunks in full."""

    def __init__(
        self,
        language: Decoder,
        prefix: KVChunk,
        plan: ArenaPlan,
        full_chunks: int,
        *,
        proportional_attention: bool,
    ) -> None:
        self.language = language
        self.arena = Arena(prefix, language.rotary, plan)
        self.proportional_attention, self._full_chunks = proportional_attention, full_chunks
        self._heads_per_key_head = language.head_count // self.arena.key_heads
        self._device = prefix.keys_NKTD.device
        self._graphs = CudaGraphs(self._device)

    def allocate_slot(self) -> ArenaSlot:
        """Return an empty slot for a stream."""
        rows = self.arena.rows
        slot = self.arena.allocate_slot()
        if self.arena.rows != rows:
            self._graphs.clear()
        return slot

    def convert(self, prefix: KVChunk) -> None:
        """Convert the arena to the precision of another prefix."""
        self.arena.convert(prefix)
        self._graphs.clear()

    def prefill(self, chunks: Sequence[NewChunk]) -> tuple[list[ArenaChunk], Tensor]:
        """Prefill chunks; return them, and a tensor that says whether all numbers are finite.

        Raises DoesNotFit if a chunk is larger than its slot was planned for.
        """
        arena, placed = self.arena, list[PlacedChunk]()
        for chunk in chunks:
            placed.append(self._place(chunk, placed[-1] if chunk.context is None else None))
        last = {id(each.slot): (each.slot, each.entry) for each in placed}
        if not arena.compact_for(list(last.values())):
            raise DoesNotFit("a window has more tokens than its memory was planned for")
        layout = lay_out_prefill(
            arena, placed, self._full_chunks, self.proportional_attention, self._heads_per_key_head
        )
        like = arena.layers[0]
        visual_VE = torch.cat([chunk.tokens_VE.to(like, non_blocking=True) for chunk in chunks])
        (is_finite,) = self._run_prefill(layout, visual_VE)
        arena.write_pooled([(each.slot, each.entry) for each in placed])
        for each in placed:
            each.slot.append(each.entry)
        return [ArenaChunk(arena, each.slot, each.entry) for each in placed], is_finite

    def _place(self, chunk: NewChunk, previous: PlacedChunk | None) -> PlacedChunk:
        """Return the entry of a chunk, after another of the pass or after its context."""
        if previous is not None:
            entries, slot = [*previous.entries, previous.entry], previous.slot
            entry = slot.next_entry(chunk.anchors_T, self.arena.plan.compression, previous.entry)
        else:
            self.arena.retain_only(chunk.slot, chunk.context or ())
            entries, slot = chunk.slot.entries, chunk.slot
            entry = slot.next_entry(chunk.anchors_T, self.arena.plan.compression)
        return PlacedChunk(slot=slot, entry=entry, ids=chunk.ids, entries=entries)

    def forward_texts(
        self, texts_and_contexts: Sequence[tuple[Sequence[Sequence[int]], Sequence[AnyChunk]]]
    ) -> list[TextStates]:
        """Run texts, as ids, against contexts of streams, all in one pass.

        Chunks outside the arena are staged in it. Raises DoesNotFit if they have no room.
        """
        staged_rows = self._stage([form for _, context in texts_and_contexts for form in context])
        texts_and_ranges = [
            (texts, context_ranges(self.arena, context, staged_rows, self.proportional_attention))
            for texts, context in texts_and_contexts
        ]
        layout = lay_out_questions(self.arena, texts_and_ranges, self._heads_per_key_head)
        hidden_QE, queries_NQHD = self._run_questions(layout)
        answered, first = list[TextStates](), 0
        for texts, _ in texts_and_contexts:
            own = slice(first, first + len(texts))
            # The next run of a graph overwrites its outputs.
            answered.append(TextStates(hidden_QE[own].clone(), queries_NQHD[:, own].clone()))
            first = own.stop
        return answered

    def _stage(self, chunks: Sequence[AnyChunk]) -> dict[int, int]:
        """Copy chunks outside the arena into it; return the first store row of each."""
        to_stage = {id(form): form for form in chunks if isinstance(form, KVChunk)}
        if sum(map(len, to_stage.values())) > self.arena.plan.staging:
            raise DoesNotFit("more focused chunks than the arena can stage: lower `memory.focus`")
        if self.proportional_attention and any(form.token_size > 1 for form in to_stage.values()):
            raise DoesNotFit("pooled chunks cannot be staged")
        next_row, rows = self.arena.staging_row, dict[int, int]()
        for key, chunk in to_stage.items():
            self.arena.write_rotated(chunk.to(self._device), next_row)
            rows[key] = next_row
            next_row += len(chunk)
        return rows

    def _run_prefill(self, layout: PassLayout[PrefillArrays], visual_VE: Tensor) -> Outputs:
        def work(inputs: Inputs) -> Outputs:
            bytes_, visual_VE = inputs
            arrays, end = unpack_arrays(layout.arrays, bytes_)
            ranges, _ = unpack_arrays(layout.ranges, bytes_, end)
            prefill_pass = PrefillPass(
                self.arena, arrays, ranges, layout.max_rows, layout.max_folded_rows
            )
            x_RE = self.language.embed(arrays.ids_R).index_copy(0, arrays.visual_V, visual_VE)
            self.language.collect_keys_values(x_RE[None], prefill_pass)
            return (prefill_pass.is_finite,)

        return self._run(layout, (visual_VE,), work)

    def _run_questions(self, layout: PassLayout[QuestionArrays]) -> Outputs:
        def work(inputs: Inputs) -> Outputs:
            arrays, end = unpack_arrays(layout.arrays, inputs[0])
            ranges, _ = unpack_arrays(layout.ranges, inputs[0], end)
            question_pass = QuestionPass(
                self.arena, arrays, ranges, layout.max_rows, layout.max_folded_rows
            )
            hidden_RE = self.language.hidden_states(
                self.language.embed(arrays.ids_R)[None], question_pass
            )[0]
            return hidden_RE[arrays.end_Q], question_pass.queries()

        return self._run(layout, (), work)

    def _run(
        self, layout: PassLayout[Arrays], tensors: Inputs, work: Callable[[Inputs], Outputs]
    ) -> Outputs:
        bytes_ = torch.from_numpy(pack_arrays(layout.arrays, layout.ranges))
        if self._device.type == "cuda":
            bytes_ = bytes_.pin_memory()
        return self._graphs.run(layout.shape_key, (bytes_, *tensors), work)
