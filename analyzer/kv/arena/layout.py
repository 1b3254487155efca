"""How a pass over an arena is laid out: which rows read which ranges, as arrays on the host.

Legend: R rows (tokens and padding), B lanes with that of the padding, X sequences, P parts of a
lane, G parts that all rows read, T text rows, V visual rows, Q questions.
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
    """A pass that asks: `end_Q` are the last rows of the questions, each a sequence of its own."""

    ids_R: Any
    position_R: Any
    end_Q: Any
    rows_X1: Any
    length_X: Any


Arrays = TypeVar("Arrays", PrefillArrays, QuestionArrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassLayout(Generic[Arrays]):
    """The arrays of a pass.

    `most_rows` bounds the rows of a chunk or a text, `most_folded` the folded rows of a lane
    that read its parts.
    """

    arrays: Arrays
    ranges: RangeArrays
    max_rows: int
    max_folded_rows: int

    @property
    def shape_key(self) -> Hashable:
        """Return all that decides which kernels run, and with which sizes."""
        arrays = tuple(each.shape for each in (*self.arrays, *self.ranges))
        return type(self.arrays), arrays, self.max_rows, self.max_folded_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkContext:
    """What a new chunk is read behind.

    All of its rows read what is `near` together with their own tokens, `common` and the far
    text; its text reads all that is far instead of the far text.
    """

    near: KeyRange
    shared: tuple[KeyRange, ...]
    far_text: KeyRange
    far: tuple[KeyRange, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacedChunk:
    """A chunk that is read in a pass: where it is written, the ids of its text.

    `entries` are those of its slot that it is read behind, some maybe read in the same pass.
    """

    slot: ArenaSlot
    entry: SlotEntry
    ids: Sequence[int]
    entries: Sequence[SlotEntry]


def chunk_context(
    arena: Arena, chunk: PlacedChunk, previous: int, proportional_attention: bool
) -> ChunkContext:
    """Return what a chunk is read behind: `previous` chunks are near it."""
    entry, entries = chunk.entry, chunk.entries
    dense, text, pooled, pooled_text = chunk.slot.regions
    first_dense = next((each for each in entries if each.dense_start >= dense.begin), entry)
    near = (entries[-previous:] or [entry])[0] if previous else entry
    first, first_text = max(near.dense_start, dense.begin), max(near.text_start, text.begin)
    first_pooled = min(near.pooled_start, first_dense.pooled_start)
    query_shift = first_dense.pooled_position - dense.begin
    older = pooled.begin + pooled_text.begin
    log_size_bias = log(arena.plan.compression) if proportional_attention else 0.0
    return ChunkContext(
        near=KeyRange(dense.row(first), entry.dense_start - first),
        shared=(
            KeyRange(0, arena.prefix, arena.prefix - older + query_shift),
            KeyRange(
                pooled_text.row(pooled_text.begin),
                first_dense.pooled_text_start - pooled_text.begin,
                query_shift,
            ),
            KeyRange(
                pooled.row(first_pooled),
                first_dense.pooled_start - first_pooled,
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
    """Lay out the reading of chunks, neighbours of one slot maybe among them, in order.

    `heads` query heads share a key head.
    """
    text = [chunk.entry.anchors_T.numpy() for chunk in chunks]
    is_text = np.concatenate(text)
    # One row of padding at least: text that is missing to a round number points to it.
    rows = StreamRows([len(each) for each in text], ROW_MULTIPLE, spare=1)
    text_rows = StreamRows([int(each.sum()) for each in text], TEXT_ROW_MULTIPLE)
    contexts = [chunk_context(arena, chunk, previous, proportional_attention) for chunk in chunks]
    common = [
        parts for parts in zip(*(each.shared for each in contexts), strict=True) if has_keys(parts)
    ]
    far_text = [each.far_text for each in contexts]
    ids_R = np.zeros(rows.rows, np.int64)
    ids_R[is_text.nonzero()[0]] = np.concatenate([chunk.ids for chunk in chunks])
    arrays = PrefillArrays(
        ids_R=ids_R,
        position_R=rows.count_up([chunk.entry.dense_start for chunk in chunks], 0).astype(
            np.float64
        ),
        stream_R=rows.stream_R,
        row_R=rows.count_up(
            [each.slot.dense.row(each.entry.dense_start) for each in chunks], arena.scratch_row
        ),
        visual_V=(~is_text).nonzero()[0],
        text_T=text_rows.pad_rows([is_text.nonzero()[0]], rows.rows - 1),
        text_row_T=text_rows.count_up(
            [each.slot.text.row(each.entry.text_start) for each in chunks], arena.scratch_row
        ),
        rows_B1=rows.begin_B1,
        near_begin_B1=begins_with_end([each.near for each in contexts]),
        near_length_B=range_lengths(
            [
                KeyRange(0, each.near.length + n)
                for each, n in zip(contexts, rows.lengths, strict=True)
            ]
        ),
        begin_GB1=np.stack([begins_with_end(parts) for parts in common]),
        length_GB=np.stack([range_lengths(parts) for parts in common]),
        query_shift_GB=np.array(
            [[*(each.query_shift for each in parts), 0] for parts in common], np.float64
        ),
        log_size_bias_G1=np.array([[parts[0].log_size_bias] for parts in common], np.float64),
        far_text_begin_B1=begins_with_end(far_text if has_keys(far_text) else []),
        far_text_length_B=range_lengths(far_text if has_keys(far_text) else []),
    )
    return PassLayout(
        arrays=arrays,
        ranges=range_arrays(
            [each.far for each in contexts], text_rows, heads_per_key_head, arena.key_heads
        ),
        max_rows=round_up(max(rows.lengths), ROW_MULTIPLE),
        max_folded_rows=round_up(max(text_rows.lengths), TEXT_ROW_MULTIPLE) * heads_per_key_head,
    )


def lay_out_questions(
    arena: Arena,
    texts_and_ranges: Sequence[tuple[Sequence[Sequence[int]], Sequence[KeyRange]]],
    heads_per_key_head: int,
) -> PassLayout[QuestionArrays]:
    """Lay out texts, as ids, and the parts that those of each lane read."""
    texts = [ids for lane, _ in texts_and_ranges for ids in lane]
    rows = StreamRows(
        [sum(map(len, lane)) for lane, _ in texts_and_ranges], TEXT_ROW_MULTIPLE, spare=1
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
            [parts for _, parts in texts_and_ranges], rows, heads_per_key_head, arena.key_heads
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
    """Return the parts that a view is read in, for a reader that counts from 0 behind it.

    `loans` are the store rows of the chunks that were laid for this pass, by their identity.
    """
    log_size_bias, ranges, tokens_behind = (
        (log(arena.plan.compression) if proportional_attention else 0.0),
        list[KeyRange](),
        0,
    )
    for run in reversed(list(adjacent_runs(context))):
        first, last, length = run[0], run[-1], sum(map(len, run))
        if not isinstance(first, ArenaChunk) or not isinstance(last, ArenaChunk):
            ranges.append(KeyRange(staged_rows[id(first)], length, length + tokens_behind))
        elif first.is_pooled:
            visual_tokens = sum(
                each.entry.counts[2] for each in run if isinstance(each, ArenaChunk)
            )
            query_shift = first.entry.pooled_position + length + tokens_behind
            text_tokens = length - visual_tokens
            ranges.append(
                KeyRange(
                    first.slot.pooled.row(first.entry.pooled_start),
                    visual_tokens,
                    query_shift,
                    log_size_bias,
                )
            )
            ranges.append(
                KeyRange(
                    first.slot.pooled_text.row(first.entry.pooled_text_start),
                    text_tokens,
                    query_shift,
                )
            )
        else:
            query_shift = first.entry.dense_start + length + tokens_behind
            ranges.append(
                KeyRange(first.slot.dense.row(first.entry.dense_start), length, query_shift)
            )
        tokens_behind += length
    return [KeyRange(0, arena.prefix, arena.prefix + tokens_behind), *ranges]


def adjacent_runs(context: Sequence[AnyChunk]) -> Iterator[list[AnyChunk]]:
    """Yield the chunks of a view that lie side by side in the arena."""
    run = list[AnyChunk]()
    for form in context:
        if run and not is_adjacent(form, run[-1]):
            yield run
            run = []
        run.append(form)
    if run:
        yield run


def is_adjacent(chunk: AnyChunk, previous: AnyChunk) -> bool:
    """Return whether a chunk lies behind another in the same stretch."""
    if not isinstance(chunk, ArenaChunk) or not isinstance(previous, ArenaChunk):
        return False
    if chunk.slot is not previous.slot or chunk.is_pooled is not previous.is_pooled:
        return False
    return previous.entry.dense_start + len(previous.entry.anchors_T) == chunk.entry.dense_start
