"""How a pass over an arena is laid out: which rows read which ranges, as arrays on the host.

Legend: R rows (tokens and padding), B lanes with that of the padding, X sequences, P parts of a
lane, G parts that all rows read, T text rows, V visual rows, Q questions.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from analyzer.videoxl2.arena import Arena, ArenaChunk, Form
from analyzer.videoxl2.parts import (
    Lanes,
    Part,
    PartArrays,
    any_of,
    begins,
    lengths,
    part_arrays,
    rounded,
)
from analyzer.videoxl2.slots import Entry, Slot

ROWS, TEXTS, ASKED = 128, 32, 4
"""Rows of chunks, text rows and questions of a pass are filled up to multiples of these: few
shapes."""


class PrefillArrays(NamedTuple):
    """A pass that reads chunks.

    `row_R` are the store rows that are written, `text_row_T` those of the text once more;
    `visual_V` and `text_T` are rows of the pass. The near range of a lane ends with its own
    tokens.
    """

    ids_R: Any
    position_R: Any
    lane_R: Any
    row_R: Any
    visual_V: Any
    text_T: Any
    text_row_T: Any
    rows_B1: Any
    near_begin_B1: Any
    near_length_B: Any
    begin_GB1: Any
    length_GB: Any
    turn_GB: Any
    gain_G1: Any
    far_text_begin_B1: Any
    far_text_length_B: Any


class AskArrays(NamedTuple):
    """A pass that asks: `end_Q` are the last rows of the questions, each a sequence of its own."""

    ids_R: Any
    position_R: Any
    end_Q: Any
    rows_X1: Any
    length_X: Any


Arrays = TypeVar("Arrays", PrefillArrays, AskArrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout(Generic[Arrays]):
    """The arrays of a pass.

    `most_rows` bounds the rows of a chunk or a text, `most_folded` the folded rows of a lane
    that read its parts.
    """

    arrays: Arrays
    parts: PartArrays
    most_rows: int
    most_folded: int

    @property
    def shape(self) -> Hashable:
        """Return all that decides which kernels run, and with which sizes."""
        arrays = tuple(each.shape for each in (*self.arrays, *self.parts))
        return type(self.arrays), arrays, self.most_rows, self.most_folded


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What a new chunk is read behind.

    All of its rows read what is `near` together with their own tokens, `common` and the far
    text; its text reads all that is far instead of the far text.
    """

    near: Part
    common: tuple[Part, ...]
    far_text: Part
    far: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """A chunk that is read in a pass: where it is written, the ids of its text.

    `entries` are those of its slot that it is read behind, some maybe read in the same pass.
    """

    slot: Slot
    entry: Entry
    ids: Sequence[int]
    entries: Sequence[Entry]


def behind(arena: Arena, chunk: Placed, previous: int, corrected: bool) -> Behind:
    """Return what a chunk is read behind: `previous` chunks are near it."""
    entry, entries = chunk.entry, chunk.entries
    dense, text, pooled, pooled_text = chunk.slot.stretches
    full = next((each for each in entries if each.dense >= dense.begin), entry)
    near = (entries[-previous:] or [entry])[0] if previous else entry
    first, first_text = max(near.dense, dense.begin), max(near.text, text.begin)
    first_pooled = min(near.pooled, full.pooled)
    turn = full.pooled_position - dense.begin
    older = pooled.begin + pooled_text.begin
    gain = log(arena.plan.compression) if corrected else 0.0
    return Behind(
        near=Part(dense.row(first), entry.dense - first),
        common=(
            Part(0, arena.prefix, arena.prefix - older + turn),
            Part(pooled_text.row(pooled_text.begin), full.pooled_text - pooled_text.begin, turn),
            Part(pooled.row(first_pooled), full.pooled - first_pooled, turn, gain),
        ),
        far_text=Part(text.row(text.begin), first_text - text.begin),
        far=(
            Part(dense.row(dense.begin), first - dense.begin),
            Part(pooled.row(pooled.begin), first_pooled - pooled.begin, turn, gain),
        ),
    )


def lay_out_prefill(
    arena: Arena,
    chunks: Sequence[Placed],
    previous: int,
    corrected: bool,
    heads: int,
) -> Layout[PrefillArrays]:
    """Lay out the reading of chunks, neighbours of one slot maybe among them, in order.

    `heads` query heads share a key head.
    """
    text = [chunk.entry.anchors_T.numpy() for chunk in chunks]
    is_text = np.concatenate(text)
    # One row of padding at least: text that is missing to a round number points to it.
    rows = Lanes([len(each) for each in text], ROWS, spare=1)
    texts = Lanes([int(each.sum()) for each in text], TEXTS)
    read = [behind(arena, chunk, previous, corrected) for chunk in chunks]
    common = [parts for parts in zip(*(each.common for each in read), strict=True) if any_of(parts)]
    far_text = [each.far_text for each in read]
    ids_R = np.zeros(rows.rows, np.int64)
    ids_R[is_text.nonzero()[0]] = np.concatenate([chunk.ids for chunk in chunks])
    arrays = PrefillArrays(
        ids_R=ids_R,
        position_R=rows.counted([chunk.entry.dense for chunk in chunks], 0).astype(np.float64),
        lane_R=rows.lane_R,
        row_R=rows.counted([each.slot.dense.row(each.entry.dense) for each in chunks], arena.spill),
        visual_V=(~is_text).nonzero()[0],
        text_T=texts.filled([is_text.nonzero()[0]], rows.rows - 1),
        text_row_T=texts.counted(
            [each.slot.text.row(each.entry.text) for each in chunks], arena.spill
        ),
        rows_B1=rows.begin_B1,
        near_begin_B1=begins([each.near for each in read]),
        near_length_B=lengths(
            [Part(0, each.near.length + n) for each, n in zip(read, rows.lengths, strict=True)]
        ),
        begin_GB1=np.stack([begins(parts) for parts in common]),
        length_GB=np.stack([lengths(parts) for parts in common]),
        turn_GB=np.array([[*(each.turn for each in parts), 0] for parts in common], np.float64),
        gain_G1=np.array([[parts[0].gain] for parts in common], np.float64),
        far_text_begin_B1=begins(far_text if any_of(far_text) else []),
        far_text_length_B=lengths(far_text if any_of(far_text) else []),
    )
    return Layout(
        arrays=arrays,
        parts=part_arrays([each.far for each in read], texts, heads, arena.key_heads),
        most_rows=rounded(max(rows.lengths), ROWS),
        most_folded=rounded(max(texts.lengths), TEXTS) * heads,
    )


def lay_out_ask(
    arena: Arena,
    asks: Sequence[tuple[Sequence[Sequence[int]], Sequence[Part]]],
    heads: int,
) -> Layout[AskArrays]:
    """Lay out texts, as ids, and the parts that those of each lane read."""
    texts = [ids for lane, _ in asks for ids in lane]
    rows = Lanes([sum(map(len, lane)) for lane, _ in asks], TEXTS, spare=1)
    each = Lanes([len(ids) for ids in texts], TEXTS, spare=1)
    missing = -len(texts) % ASKED
    ends = each.begin_B1[1 : len(texts) + 1].astype(np.int64) - 1
    first = each.begin_B1
    arrays = AskArrays(
        ids_R=each.filled([np.concatenate(texts)], 0),
        position_R=each.counted([0] * len(texts), 0).astype(np.float64),
        end_Q=np.pad(ends, (0, missing), constant_values=rows.rows - 1),
        rows_X1=np.concatenate([first[:-1], np.full(missing, first[-2], np.int32), first[-1:]]),
        length_X=np.array([*each.lengths, *[0] * missing, 0], np.int32),
    )
    return Layout(
        arrays=arrays,
        parts=part_arrays([parts for _, parts in asks], rows, heads, arena.key_heads),
        most_rows=rounded(max(each.lengths), TEXTS),
        most_folded=rounded(max(rows.lengths), TEXTS) * heads,
    )


def view_parts(
    arena: Arena, view: Sequence[Form], loans: dict[int, int], corrected: bool
) -> list[Part]:
    """Return the parts that a view is read in, for a reader that counts from 0 behind it.

    `loans` are the store rows of the chunks that were laid for this pass, by their identity.
    """
    gain, parts, after = (log(arena.plan.compression) if corrected else 0.0), list[Part](), 0
    for run in reversed(list(runs(view))):
        first, last, length = run[0], run[-1], sum(map(len, run))
        if not isinstance(first, ArenaChunk) or not isinstance(last, ArenaChunk):
            parts.append(Part(loans[id(first)], length, length + after))
        elif first.is_pooled:
            visuals = sum(each.entry.counts[2] for each in run if isinstance(each, ArenaChunk))
            turn = first.entry.pooled_position + length + after
            texts = length - visuals
            parts.append(Part(first.slot.pooled.row(first.entry.pooled), visuals, turn, gain))
            parts.append(Part(first.slot.pooled_text.row(first.entry.pooled_text), texts, turn))
        else:
            turn = first.entry.dense + length + after
            parts.append(Part(first.slot.dense.row(first.entry.dense), length, turn))
        after += length
    return [Part(0, arena.prefix, arena.prefix + after), *parts]


def runs(view: Sequence[Form]) -> Iterator[list[Form]]:
    """Yield the chunks of a view that lie side by side in the arena."""
    run = list[Form]()
    for form in view:
        if run and not follows(form, run[-1]):
            yield run
            run = []
        run.append(form)
    if run:
        yield run


def follows(form: Form, before: Form) -> bool:
    """Return whether a chunk lies behind another in the same stretch."""
    if not isinstance(form, ArenaChunk) or not isinstance(before, ArenaChunk):
        return False
    if form.slot is not before.slot or form.is_pooled is not before.is_pooled:
        return False
    return before.entry.dense + len(before.entry.anchors_T) == form.entry.dense
