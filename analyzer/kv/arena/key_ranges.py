"""The rows of a pass and the key ranges that they attend to, as arrays on the host.

A pass has the rows of each stream, one after the other, and a last stream of padding, which
attends to nothing. A key range is a run of store rows in the context of a stream. Its keys were
rotated by running numbers; `query_shift` is what must be added to the positions of queries to
make all distances those of contiguous positions.

Legend: R rows (tokens and padding), B streams with the padding, X sequences, P ranges of a
stream, T rows that attend to ranges.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np

MIN_KEYS_PER_SPLIT, TARGET_BLOCKS, BLOCK_ROWS = 256, 256, 128
"""A long range is split, into MIN_KEYS_PER_SPLIT keys at least, until about TARGET_BLOCKS blocks
of BLOCK_ROWS query rows are busy."""


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Store rows that a stream attends to, the shift of its queries, the bias on their logits."""

    begin: int
    length: int
    query_shift: int = 0
    log_size_bias: float = 0.0


EMPTY_RANGE = KeyRange(0, 0)


class RangeArrays(NamedTuple):
    """P ranges of each stream: sequence (p, b) is range p of stream b.

    `rows_X1` counts folded rows, `query_shift_PB` are positions, `log_size_bias_PB` logits;
    `stream_T` is the stream of each row.
    """

    rows_X1: Any
    begin_X1: Any
    length_X: Any
    query_shift_PB: Any
    log_size_bias_PB: Any
    stream_T: Any


class StreamRows:
    """The rows of streams one after the other, padded to a multiple."""

    def __init__(self, lengths: Sequence[int], multiple: int, spare: int = 0) -> None:
        self.lengths = lengths
        self.rows = round_up(sum(lengths) + spare, multiple)

    @property
    def stream_R(self) -> np.ndarray:
        """Return the stream of each row."""
        return self.pad_rows([np.full(n, b) for b, n in enumerate(self.lengths)], len(self.lengths))

    @property
    def begin_B1(self) -> np.ndarray:
        """Return the first row of each stream, and the number of rows."""
        return np.array([0, *np.cumsum(self.lengths), self.rows], np.int32)

    def count_up(self, first: Sequence[int], padding: int) -> np.ndarray:
        """Return numbers that count up from the first of each stream."""
        counts = [at + np.arange(n) for at, n in zip(first, self.lengths, strict=True)]
        return self.pad_rows(counts, padding)

    def pad_rows(self, streams: Iterable[np.ndarray], padding: float) -> np.ndarray:
        """Return the values of all streams, then `padding`."""
        joined = np.concatenate(list(streams))
        return np.pad(joined, (0, self.rows - len(joined)), constant_values=padding)


def round_up(number: int, multiple: int) -> int:
    """Return the next multiple."""
    return -(-number // multiple) * multiple


def range_arrays(
    ranges: Sequence[Sequence[KeyRange]], streams: StreamRows, heads: int, key_heads: int
) -> RangeArrays:
    """Return the ranges of streams, long ones split, for rows with `heads` folded into each."""
    blocks = sum(ceil(n * heads / BLOCK_ROWS) for n in streams.lengths) * key_heads
    longest = max((own.length for each in ranges for own in each), default=0)
    keys_per_split = max(MIN_KEYS_PER_SPLIT, ceil(longest / ceil(TARGET_BLOCKS / blocks)))
    splits = [
        [split for own in each for split in split_range(own, keys_per_split)] for each in ranges
    ]
    split_count = max(map(len, splits))
    # Rounded, because each count is another shape to capture.
    split_count = split_count if split_count <= 4 else round_up(split_count, 4)
    filled = [[*each, *[EMPTY_RANGE] * (split_count - len(each))] for each in splits]
    columns = [[each[p] for each in filled] for p in range(split_count)]
    first = streams.begin_B1[:-1] * heads
    rows = [first + p * streams.rows * heads for p in range(split_count)]
    return RangeArrays(
        rows_X1=np.concatenate([*rows, [split_count * streams.rows * heads]]).astype(np.int32),
        begin_X1=np.concatenate([*map(range_begins, columns), [0]]).astype(np.int32),
        length_X=np.concatenate([*map(range_lengths, columns), np.zeros(0)]).astype(np.int32),
        query_shift_PB=np.array(
            [[*(p.query_shift for p in column), 0] for column in columns], np.float64
        ),
        log_size_bias_PB=np.array(
            [[*(p.log_size_bias for p in column), 0] for column in columns], np.float64
        ),
        stream_T=streams.stream_R,
    )


def split_range(key_range: KeyRange, max_keys: int) -> Iterator[KeyRange]:
    """Yield splits of at most `max_keys` keys, none for an empty range."""
    for at in range(0, key_range.length, max_keys):
        yield KeyRange(
            key_range.begin + at,
            min(max_keys, key_range.length - at),
            key_range.query_shift,
            key_range.log_size_bias,
        )


def has_keys(ranges: Iterable[KeyRange]) -> bool:
    """Return whether any range has keys."""
    return any(each.length for each in ranges)


def range_begins(ranges: Sequence[KeyRange]) -> np.ndarray:
    """Return the begins of ranges, one per stream, and 0 for the padding."""
    return np.array([*(each.begin for each in ranges), 0], np.int32)


def begins_with_end(ranges: Sequence[KeyRange]) -> np.ndarray:
    """Return the begins and the end that the kernels require; empty without ranges."""
    return np.append(range_begins(ranges), np.int32(0)) if ranges else np.zeros(0, np.int32)


def range_lengths(ranges: Sequence[KeyRange]) -> np.ndarray:
    """Return the lengths of ranges, one per stream, and 0 for the padding."""
    values = [*(each.length for each in ranges), 0] if ranges else []
    return np.array(values, np.int32)
