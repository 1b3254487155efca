"""The layout of a pass over an arena: which rows attend to which ranges, as arrays on the host.

Legend: R rows (tokens and padding), B streams with the padding, X sequences, P ranges of a
stream, G ranges that all rows attend to, T text rows, V visual rows, Q questions.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from analyzer.kv.arena.arena import AnyChunk, Arena, ArenaChunk
from analyzer.kv.arena.key_ranges import (
    KeyRange,
    RangeArrays,
    StreamRows,
    begins_with_end,
    has_keys,
    range_arrays,
    range_lengths,
    round_up,
)
from analyzer.kv.arena.slots import ArenaSlot, SlotEntry

ROW_MULTIPLE, TEXT_ROW_MULTIPLE, QUESTION_MULTIPLE = 128, 32, 4
"""Rows of chunks, text rows and questions are padded to these multiples, so that shapes recur."""


class PrefillArrays(NamedTuple):
    """A pass that prefills chunks.

    `row_R` are the store rows to write, `text_row_T` those of the second copy of the text;
    `visual_V` and `text_T` are rows of the pass. The near range of a stream ends with its own
    tokens.
    """

    ids_R: Any
    position_R: Any
    stream_R: Any
    row_R: Any
    visual_V: Any
    text_T: Any
    text_row_T: Any
    rows_B1: Any
    near_begin_B1: Any
    near_length_B: Any
    begin_GB1: Any
    length_GB: Any
    query_shift_GB: Any
    log_size_bias_G1: Any
    far_text_begin_B1: Any
    far_text_length_B: Any


class QuestionArrays(NamedTuple):
    """A pass of questions, each a sequence; `end_Q` are their last rows."""

    ids_R: Any
    position_R: Any
    end_Q: Any
    rows_X1: Any
    length_X: Any


Arrays = TypeVar("Arrays", PrefillArrays, QuestionArrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassLayout(Generic[Arrays]):
    """The arrays of a pass.

    `max_rows` bounds the rows of a chunk or a text, `max_folded_rows` the folded rows of a
    stream.
    """

    arrays: Arrays
    ranges: RangeArrays
    max_rows: int
    max_folded_rows: int

    @property
    def shape_key(self) -> Hashable:
        """Return everything that determines the kernels of the pass and their sizes."""
        arrays = tuple(each.shape for each in (*self.arrays, *self.ranges))
        return type(self.arrays), arrays, self.max_rows, self.max_folded_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkContext:
    """The context of a new chunk, as key ranges.

    All of its rows attend to `near` (together with their own tokens) and `shared`. Visual rows
    also attend to `far_text`, text rows to all of `far` instead.
    """

    near: KeyRange
    shared: tuple[KeyRange, ...]
    far_text: KeyRange
    far: tuple[KeyRange, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacedChunk:
    """A chunk of a prefill pass: where it is written, and the ids of its text.

    `entries` are its context in the slot, some of them maybe of the same pass.
    """

    slot: ArenaSlot
    entry: SlotEntry
    ids: Sequence[int]
    entries: Sequence[SlotEntry]


def chunk_context(
    arena: Arena, chunk: PlacedChunk, previous: int, proportional_attention: bool
) -> ChunkContext:
    """Return the context of a chunk; the last `previous` chunks are near it."""
    entry, entries = chunk.entry, chunk.entries
    dense, text, pooled, pooled_text = chunk.slot.regions
    first_dense = next((each for each in entries if each.starts.dense >= dense.begin), entry)
    near = (entries[-previous:] or [entry])[0] if previous else entry
    first, first_text = max(near.starts.dense, dense.begin), max(near.starts.text, text.begin)
    first_pooled = min(near.starts.pooled, first_dense.starts.pooled)
    query_shift = first_dense.pooled_position - dense.begin
    older = pooled.begin + pooled_text.begin
    log_size_bias = log(arena.plan.compression) if proportional_attention else 0.0
    return ChunkContext(
        near=KeyRange(dense.row(first), entry.starts.dense - first),
        shared=(
            KeyRange(0, arena.prefix, arena.prefix - older + query_shift),
            KeyRange(
                pooled_text.row(pooled_text.begin),
                first_dense.starts.pooled_text - pooled_text.begin,
                query_shift,
            ),
            KeyRange(
                pooled.row(first_pooled),
                first_dense.starts.pooled - first_pooled,
                query_shift,
                log_size_bias,
            ),
        ),
        far_text=KeyRange(text.row(text.begin), first_text - text.begin),
        far=(
            KeyRange(dense.row(dense.begin), first - dense.begin),
            KeyRange(
                pooled.row(pooled.begin), first_pooled - pooled.begin, query_shift, log_size_bias
            ),
        ),
    )


def lay_out_prefill(
    arena: Arena,
    chunks: Sequence[PlacedChunk],
    previous: int,
    proportional_attention: bool,
    heads_per_key_head: int,
) -> PassLayout[PrefillArrays]:
    """Lay out a prefill of chunks, in order, some of them maybe consecutive in one slot."""
    text = [chunk.entry.anchors_T.numpy() for chunk in chunks]
    # At least one row of padding: padded text rows point to it.
    rows = StreamRows([len(each) for each in text], ROW_MULTIPLE, spare=1)
    text_rows = StreamRows([int(each.sum()) for each in text], TEXT_ROW_MULTIPLE)
    contexts = [chunk_context(arena, chunk, previous, proportional_attention) for chunk in chunks]
    return PassLayout(
        arrays=_prefill_arrays(arena.scratch_row, chunks, contexts, rows, text_rows),
        ranges=range_arrays(
            [each.far for each in contexts], text_rows, heads_per_key_head, arena.key_heads
        ),
        max_rows=round_up(max(rows.lengths), ROW_MULTIPLE),
        max_folded_rows=round_up(max(text_rows.lengths), TEXT_ROW_MULTIPLE) * heads_per_key_head,
    )


def _prefill_arrays(
    scratch_row: int,
    chunks: Sequence[PlacedChunk],
    contexts: Sequence[ChunkContext],
    rows: StreamRows,
    text_rows: StreamRows,
) -> PrefillArrays:
    is_text = np.concatenate([chunk.entry.anchors_T.numpy() for chunk in chunks])
    begin_GB1, length_GB, query_shift_GB, log_size_bias_G1 = _shared_arrays(contexts)
    far_text = [each.far_text for each in contexts]
    far_text = far_text if has_keys(far_text) else []
    near = [
        KeyRange(0, each.near.length + tokens)
        for each, tokens in zip(contexts, rows.lengths, strict=True)
    ]
    positions_R = rows.count_up([each.entry.starts.dense for each in chunks], 0)
    ids_R = np.zeros(rows.rows, np.int64)
    ids_R[is_text.nonzero()[0]] = np.concatenate([chunk.ids for chunk in chunks])
    return PrefillArrays(
        ids_R=ids_R,
        position_R=positions_R.astype(np.float64),
        stream_R=rows.stream_R,
        row_R=rows.count_up(
            [each.slot.dense.row(each.entry.starts.dense) for each in chunks], scratch_row
        ),
        visual_V=(~is_text).nonzero()[0],
        text_T=text_rows.pad_rows([is_text.nonzero()[0]], rows.rows - 1),
        text_row_T=text_rows.count_up(
            [each.slot.text.row(each.entry.starts.text) for each in chunks], scratch_row
        ),
        rows_B1=rows.begin_B1,
        near_begin_B1=begins_with_end([each.near for each in contexts]),
        near_length_B=range_lengths(near),
        begin_GB1=begin_GB1,
        length_GB=length_GB,
        query_shift_GB=query_shift_GB,
        log_size_bias_G1=log_size_bias_G1,
        far_text_begin_B1=begins_with_end(far_text),
        far_text_length_B=range_lengths(far_text),
    )


def _shared_arrays(
    contexts: Sequence[ChunkContext],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return begins, lengths, shifts and biases of the shared ranges that have keys."""
    shared = list(filter(has_keys, zip(*(each.shared for each in contexts), strict=True)))
    shifts = [[*(each.query_shift for each in ranges), 0] for ranges in shared]
    return (
        np.stack([begins_with_end(ranges) for ranges in shared]),
        np.stack([range_lengths(ranges) for ranges in shared]),
        np.array(shifts, np.float64),
        np.array([[ranges[0].log_size_bias] for ranges in shared], np.float64),
    )


def lay_out_questions(
    arena: Arena,
    texts_and_ranges: Sequence[tuple[Sequence[Sequence[int]], Sequence[KeyRange]]],
    heads_per_key_head: int,
) -> PassLayout[QuestionArrays]:
    """Lay out texts, as ids, and the ranges that those of each stream attend to."""
    texts = [ids for stream, _ in texts_and_ranges for ids in stream]
    rows = StreamRows(
        [sum(map(len, stream)) for stream, _ in texts_and_ranges], TEXT_ROW_MULTIPLE, spare=1
    )
    text_rows = StreamRows([len(ids) for ids in texts], TEXT_ROW_MULTIPLE, spare=1)
    padding = -len(texts) % QUESTION_MULTIPLE
    ends = text_rows.begin_B1[1 : len(texts) + 1].astype(np.int64) - 1
    first = text_rows.begin_B1
    arrays = QuestionArrays(
        ids_R=text_rows.pad_rows([np.concatenate(texts)], 0),
        position_R=text_rows.count_up([0] * len(texts), 0).astype(np.float64),
        end_Q=np.pad(ends, (0, padding), constant_values=rows.rows - 1),
        rows_X1=np.concatenate([first[:-1], np.full(padding, first[-2], np.int32), first[-1:]]),
        length_X=np.array([*text_rows.lengths, *[0] * padding, 0], np.int32),
    )
    return PassLayout(
        arrays=arrays,
        ranges=range_arrays(
            [ranges for _, ranges in texts_and_ranges], rows, heads_per_key_head, arena.key_heads
        ),
        max_rows=round_up(max(text_rows.lengths), TEXT_ROW_MULTIPLE),
        max_folded_rows=round_up(max(rows.lengths), TEXT_ROW_MULTIPLE) * heads_per_key_head,
    )


def context_ranges(
    arena: Arena,
    context: Sequence[AnyChunk],
    staged_rows: dict[int, int],
    proportional_attention: bool,
) -> list[KeyRange]:
    """Return the ranges of a context, for queries whose positions count from 0 after it.

    `staged_rows` are the first store rows of staged chunks, by identity.
    """
    log_size_bias = log(arena.plan.compression) if proportional_attention else 0.0
    ranges, later_tokens = list[KeyRange](), 0
    for run in reversed(list(adjacent_runs(context))):
        first, last, length = run[0], run[-1], sum(map(len, run))
        if not isinstance(first, ArenaChunk) or not isinstance(last, ArenaChunk):
            ranges.append(KeyRange(staged_rows[id(first)], length, length + later_tokens))
        elif first.is_pooled:
            visual_tokens = sum(
                each.entry.counts.pooled for each in run if isinstance(each, ArenaChunk)
            )
            query_shift = first.entry.pooled_position + length + later_tokens
            text_tokens = length - visual_tokens
            visual_row = first.slot.pooled.row(first.entry.starts.pooled)
            text_row = first.slot.pooled_text.row(first.entry.starts.pooled_text)
            ranges.append(KeyRange(visual_row, visual_tokens, query_shift, log_size_bias))
            ranges.append(KeyRange(text_row, text_tokens, query_shift))
        else:
            query_shift = first.entry.starts.dense + length + later_tokens
            row = first.slot.dense.row(first.entry.starts.dense)
            ranges.append(KeyRange(row, length, query_shift))
        later_tokens += length
    return [KeyRange(0, arena.prefix, arena.prefix + later_tokens), *ranges]


def adjacent_runs(context: Sequence[AnyChunk]) -> Iterator[list[AnyChunk]]:
    """Yield runs of chunks that are adjacent in the arena."""
    run = list[AnyChunk]()
    for chunk in context:
        if run and not is_adjacent(chunk, run[-1]):
            yield run
            run = []
        run.append(chunk)
    if run:
        yield run


def is_adjacent(chunk: AnyChunk, previous: AnyChunk) -> bool:
    """Return whether a chunk directly follows another in the same region."""
    if not isinstance(chunk, ArenaChunk) or not isinstance(previous, ArenaChunk):
        return False
    if chunk.slot is not previous.slot or chunk.is_pooled is not previous.is_pooled:
        return False
    return previous.entry.starts.dense + len(previous.entry.anchors_T) == chunk.entry.starts.dense
