"""Where the keys and values of streams are in an arena: slots of stretches, as numbers alone.

A stretch is filled in order and forgotten in order. What it holds has running numbers, which
never change; the rows under them move to its front now and then. No tensor of keys is touched
here.

Legend: T tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaPlan:
    """The tokens that a slot has room for, and how many of those that are lent fit at a time.

    `dense` and `text` are all and the text tokens of the chunks that are held in full, `pooled`
    and `pooled_text` those of all chunks in their pooled form, 0 where none is ever read.
    """

    slots: int
    dense: int
    text: int
    pooled: int
    pooled_text: int
    staging: int
    compression: int

    @property
    def rows_per_slot(self) -> int:
        """Return the store rows of a slot."""
        return self.dense + self.text + self.pooled + self.pooled_text

    @property
    def rows(self) -> int:
        """Return the store rows of all slots and of what is lent."""
        return self.slots * self.rows_per_slot + self.staging


@dataclass(slots=True)
class SlotRegion:
    """Store rows from `at` on that hold the running numbers `begin` to `end`, `origin` first."""

    first_row: int
    capacity: int
    begin: int = 0
    end: int = 0
    origin: int = 0

    def row(self, number: int) -> int:
        """Return the store row of a running number."""
        return self.first_row + number - self.origin

    def rows(self, number: int, count: int) -> range:
        """Return the store rows of running numbers from one on."""
        return range(self.row(number), self.row(number) + count)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlotEntry:
    """A chunk of a slot: its first running number in each stretch, and how many it has there."""

    anchors_T: Tensor
    starts: tuple[int, int, int, int]
    counts: tuple[int, int, int, int]

    @property
    def ends(self) -> tuple[int, int, int, int]:
        """Return the running number behind it in each stretch."""
        a, b, c, d = (start + n for start, n in zip(self.starts, self.counts, strict=True))
        return a, b, c, d

    @property
    def dense_start(self) -> int:
        """Return the running number of its first token in full, which is its position."""
        return self.starts[0]

    @property
    def text_start(self) -> int:
        """Return the running number of its first text token."""
        return self.starts[1]

    @property
    def pooled_start(self) -> int:
        """Return the running number of its first pooled visual token."""
        return self.starts[2]

    @property
    def pooled_text_start(self) -> int:
        """Return the running number of its first text token beside the pooled ones."""
        return self.starts[3]

    @property
    def pooled_position(self) -> int:
        """Return the position of its first pooled token."""
        return self.pooled_start + self.pooled_text_start


DENSE_REGIONS = 2
"""The first stretches of a slot hold chunks in full; the others hold all chunks, pooled."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class ArenaSlot:
    """The place of one stream in the arena; it is free again once nothing refers to it."""

    dense: SlotRegion
    text: SlotRegion
    pooled: SlotRegion
    pooled_text: SlotRegion
    entries: list[SlotEntry] = field(default_factory=list)

    @property
    def regions(self) -> tuple[SlotRegion, ...]:
        """Return all four."""
        return self.dense, self.text, self.pooled, self.pooled_text

    def retain_only(self, pooled: Sequence[SlotEntry], dense: Sequence[SlotEntry]) -> None:
        """Hold neighbours alone, the first of them pooled and the others in full.

        Raises ValueError where they are no neighbours.
        """
        entries = [*pooled, *dense]
        first = self.entries.index(entries[0]) if entries else len(self.entries)
        if entries != self.entries[first : first + len(entries)]:
            raise ValueError("the chunks are not one behind the other")
        for nth, region in enumerate(self.regions):
            retained = dense if nth < DENSE_REGIONS else entries
            if entries:
                region.end = entries[-1].ends[nth]
            region.begin = retained[0].starts[nth] if retained else region.end
        self.entries = entries

    def next_entry(
        self, anchors_T: Tensor, compression: int, after: SlotEntry | None = None
    ) -> SlotEntry:
        """Return where a chunk would be written, behind what is held or another such chunk."""
        text_tokens = int(anchors_T.sum())
        pooled = (
            ((len(anchors_T) - text_tokens) // compression, text_tokens)
            if self.pooled.capacity
            else (0, 0)
        )
        dense, text, visual, pooled_text = (stretch.end for stretch in self.regions)
        return SlotEntry(
            anchors_T=anchors_T,
            starts=after.ends if after else (dense, text, visual, pooled_text),
            counts=(len(anchors_T), text_tokens, *pooled),
        )

    def append(self, entry: SlotEntry) -> None:
        """Count a chunk that was written."""
        for region, end in zip(self.regions, entry.ends, strict=True):
            region.end = end
        self.entries.append(entry)
