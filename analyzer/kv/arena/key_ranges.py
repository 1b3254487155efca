"""Lanes of rows, and the parts that they read, as arrays on the host.

A lane is the rows of one stream in a pass; what is missing to a round number of rows is a last
lane of padding, which reads nothing. A part is a range of store rows that a lane reads besides
its own tokens. Its queries turn to the position that they would have if everything that the lane
reads were laid end to end, in the frame of the part's keys.

Legend: R rows (tokens and padding), B lanes with that of the padding, X sequences, P parts of a
lane, T rows that read parts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np

MIN_KEYS_PER_SPLIT, TARGET_BLOCKS, BLOCK_ROWS = 256, 256, 128
"""A long range is cut into pieces, of FEWEST keys at least, until about BLOCKS blocks of BLOCK
query rows are at work."""


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Store rows that a lane reads, how far its queries turn, what is added to their logits."""

    begin: int
    length: int
    query_shift: int = 0
    log_size_bias: float = 0.0


EMPTY_RANGE = KeyRange(0, 0)


class RangeArrays(NamedTuple):
    """P parts of each lane: sequence (p, b) is part p of lane b.

    `rows_X1` count folded rows, `turn_PB` are positions, `gain_PB` logits; `lane_T` is the lane
    of each row.
    """

    rows_X1: Any
    begin_X1: Any
    length_X: Any
    query_shift_PB: Any
    log_size_bias_PB: Any
    stream_T: Any


class StreamRows:
    """Rows of lanes one after the other, filled up to a multiple of `step`."""

    def __init__(self, lengths: Sequence[int], multiple: int, spare: int = 0) -> None:
        self.lengths = lengths
        self.rows = round_up(sum(lengths) + spare, multiple)

    @property
    def stream_R(self) -> np.ndarray:
        """Return the lane of each row."""
        return self.pad_rows([np.full(n, b) for b, n in enumerate(self.lengths)], len(self.lengths))

    @property
    def begin_B1(self) -> np.ndarray:
        """Return the first row of each lane, and their number."""
        return np.array([0, *np.cumsum(self.lengths), self.rows], np.int32)

    def count_up(self, first: Sequence[int], padding: int) -> np.ndarray:
        """Return numbers that count up from the first of each lane."""
        counts = [at + np.arange(n) for at, n in zip(first, self.lengths, strict=True)]
        return self.pad_rows(counts, padding)

    def pad_rows(self, streams: Iterable[np.ndarray], padding: float) -> np.ndarray:
        """Return the values of each lane one after the other, and `padding` behind them."""
        joined = np.concatenate(list(streams))
        return np.pad(joined, (0, self.rows - len(joined)), constant_values=padding)


def round_up(number: int, multiple: int) -> int:
    """Return the next multiple of `step`."""
    return -(-number // multiple) * multiple


def range_arrays(
    ranges: Sequence[Sequence[KeyRange]], streams: StreamRows, heads: int, key_heads: int
) -> RangeArrays:
    """Return the parts of lanes, long ones in pieces, for rows with `heads` folded into each."""
    blocks = sum(ceil(n * heads / BLOCK_ROWS) for n in streams.lengths) * key_heads
    longest = max((part.length for each in ranges for part in each), default=0)
    keys_per_split = max(MIN_KEYS_PER_SPLIT, ceil(longest / ceil(TARGET_BLOCKS / blocks)))
    splits = [
        [split for part in each for split in split_range(part, keys_per_split)] for each in ranges
    ]
    split_count = max(map(len, splits))
    # Few counts of pieces occur: a shape for each would be captured.
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
    """Yield a part in pieces of at most `most` keys, nothing of an empty one."""
    for at in range(0, key_range.length, max_keys):
        yield KeyRange(
            key_range.begin + at,
            min(max_keys, key_range.length - at),
            key_range.query_shift,
            key_range.log_size_bias,
        )


def has_keys(ranges: Iterable[KeyRange]) -> bool:
    """Return whether any part has keys."""
    return any(part.length for part in ranges)


def range_begins(ranges: Sequence[KeyRange]) -> np.ndarray:
    """Return where parts begin, one of each lane, and nothing for the padding."""
    return np.array([*(part.begin for part in ranges), 0], np.int32)


def begins_with_end(ranges: Sequence[KeyRange]) -> np.ndarray:
    """Return the same and the end that the kernels ask for; nothing where there are none."""
    return np.append(range_begins(ranges), np.int32(0)) if ranges else np.zeros(0, np.int32)


def range_lengths(ranges: Sequence[KeyRange]) -> np.ndarray:
    """Return the lengths of parts, one of each lane, and 0 for the padding."""
    values = [*(part.length for part in ranges), 0] if ranges else []
    return np.array(values, np.int32)
