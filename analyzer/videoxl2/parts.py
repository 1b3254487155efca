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

FEWEST, BLOCKS, BLOCK = 256, 256, 128
"""A long range is cut into pieces, of FEWEST keys at least, until about BLOCKS blocks of BLOCK
query rows are at work."""


@dataclass(frozen=True, slots=True)
class Part:
    """Store rows that a lane reads, how far its queries turn, what is added to their logits."""

    begin: int
    length: int
    turn: int = 0
    gain: float = 0.0


NOTHING = Part(0, 0)


class PartArrays(NamedTuple):
    """P parts of each lane: sequence (p, b) is part p of lane b.

    `rows_X1` count folded rows, `turn_PB` are positions, `gain_PB` logits; `lane_T` is the lane
    of each row.
    """

    rows_X1: Any
    begin_X1: Any
    length_X: Any
    turn_PB: Any
    gain_PB: Any
    lane_T: Any


class Lanes:
    """Rows of lanes one after the other, filled up to a multiple of `step`."""

    def __init__(self, lengths: Sequence[int], step: int, spare: int = 0) -> None:
        self.lengths = lengths
        self.rows = rounded(sum(lengths) + spare, step)

    @property
    def lane_R(self) -> np.ndarray:
        """Return the lane of each row."""
        return self.filled([np.full(n, b) for b, n in enumerate(self.lengths)], len(self.lengths))

    @property
    def begin_B1(self) -> np.ndarray:
        """Return the first row of each lane, and their number."""
        return np.array([0, *np.cumsum(self.lengths), self.rows], np.int32)

    def counted(self, first: Sequence[int], padding: int) -> np.ndarray:
        """Return numbers that count up from the first of each lane."""
        told = [at + np.arange(n) for at, n in zip(first, self.lengths, strict=True)]
        return self.filled(told, padding)

    def filled(self, lanes: Iterable[np.ndarray], padding: float) -> np.ndarray:
        """Return the values of each lane one after the other, and `padding` behind them."""
        told = np.concatenate(list(lanes))
        return np.pad(told, (0, self.rows - len(told)), constant_values=padding)


def rounded(number: int, step: int) -> int:
    """Return the next multiple of `step`."""
    return -(-number // step) * step


def part_arrays(
    parts: Sequence[Sequence[Part]], lanes: Lanes, heads: int, key_heads: int
) -> PartArrays:
    """Return the parts of lanes, long ones in pieces, for rows with `heads` folded into each."""
    blocks = sum(ceil(n * heads / BLOCK) for n in lanes.lengths) * key_heads
    longest = max((part.length for each in parts for part in each), default=0)
    piece = max(FEWEST, ceil(longest / ceil(BLOCKS / blocks)))
    cut = [[small for part in each for small in pieces(part, piece)] for each in parts]
    most = max(map(len, cut))
    # Few counts of pieces occur: a shape for each would be captured.
    most = most if most <= 4 else rounded(most, 4)
    filled = [[*each, *[NOTHING] * (most - len(each))] for each in cut]
    columns = [[each[p] for each in filled] for p in range(most)]
    first = lanes.begin_B1[:-1] * heads
    rows = [first + p * lanes.rows * heads for p in range(most)]
    return PartArrays(
        rows_X1=np.concatenate([*rows, [most * lanes.rows * heads]]).astype(np.int32),
        begin_X1=np.concatenate([*map(begins_alone, columns), [0]]).astype(np.int32),
        length_X=np.concatenate([*map(lengths, columns), np.zeros(0)]).astype(np.int32),
        turn_PB=np.array([[*(p.turn for p in column), 0] for column in columns], np.float64),
        gain_PB=np.array([[*(p.gain for p in column), 0] for column in columns], np.float64),
        lane_T=lanes.lane_R,
    )


def pieces(part: Part, most: int) -> Iterator[Part]:
    """Yield a part in pieces of at most `most` keys, nothing of an empty one."""
    for at in range(0, part.length, most):
        yield Part(part.begin + at, min(most, part.length - at), part.turn, part.gain)


def any_of(parts: Iterable[Part]) -> bool:
    """Return whether any part has keys."""
    return any(part.length for part in parts)


def begins_alone(parts: Sequence[Part]) -> np.ndarray:
    """Return where parts begin, one of each lane, and nothing for the padding."""
    return np.array([*(part.begin for part in parts), 0], np.int32)


def begins(parts: Sequence[Part]) -> np.ndarray:
    """Return the same and the end that the kernels ask for; nothing where there are none."""
    return np.append(begins_alone(parts), np.int32(0)) if parts else np.zeros(0, np.int32)


def lengths(parts: Sequence[Part]) -> np.ndarray:
    """Return the lengths of parts, one of each lane, and 0 for the padding."""
    told = [*(part.length for part in parts), 0] if parts else []
    return np.array(told, np.int32)
