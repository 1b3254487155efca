"""The slots and regions of an arena as numbers; no keys or values are touched here.

A region is a queue. Its tokens have running numbers, which never change; compaction moves their
rows to the front of the region.

Legend: T tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaPlan:
    """The capacity of a slot and of the staging rows, in tokens.

    `dense` counts all and `text` the text tokens of dense chunks, `pooled` and `pooled_text` the
    tokens of all chunks in their pooled form, 0 if chunks are never pooled.
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
        """Return the store rows of all slots and of staging."""
        return self.slots * self.rows_per_slot + self.staging


@dataclass(slots=True)
class SlotRegion:
    """Store rows of the running numbers `begin` to `end`; `first_row` is that of `origin`."""

    first_row: int
    capacity: int
    begin: int = 0
    end: int = 0
    origin: int = 0

    def row(self, number: int) -> int:
        """Return the store row of a running number."""
        return self.first_row + number - self.origin

    def rows(self, number: int, count: int) -> range:
        """Return the store rows of `count` running numbers."""
        return range(self.row(number), self.row(number) + count)


class RegionNumbers(NamedTuple):
    """A number for each region of a slot."""

    dense: int
    text: int
    pooled: int
    pooled_text: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlotEntry:
    """A chunk of a slot: its first running number and its tokens in each region."""

    anchors_T: Tensor
    starts: RegionNumbers
    counts: RegionNumbers

    @property
    def ends(self) -> RegionNumbers:
        """Return the running number after it in each region."""
        return RegionNumbers(*map(int.__add__, self.starts, self.counts))

    @property
    def pooled_position(self) -> int:
        """Return the position of its first pooled token."""
        return self.starts.pooled + self.starts.pooled_text


DENSE_REGIONS = 2
"""The first regions of a slot are of dense chunks, the others of all chunks, pooled."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class ArenaSlot:
    """The part of the arena for one stream, freed with the last reference to it."""

    dense: SlotRegion
    text: SlotRegion
    pooled: SlotRegion
    pooled_text: SlotRegion
    entries: list[SlotEntry] = field(default_factory=list)

    @property
    def regions(self) -> tuple[SlotRegion, ...]:
        """Return all regions."""
        return self.dense, self.text, self.pooled, self.pooled_text

    def retain_only(self, pooled: Sequence[SlotEntry], dense: Sequence[SlotEntry]) -> None:
        """Keep only these chunks, the first of them pooled and the others dense.

        Raises ValueError if they are not consecutive.
        """
        entries = [*pooled, *dense]
        first = self.entries.index(entries[0]) if entries else len(self.entries)
        if entries != self.entries[first : first + len(entries)]:
            raise ValueError("the chunks are not consecutive")
        for nth, region in enumerate(self.regions):
            retained = dense if nth < DENSE_REGIONS else entries
            if entries:
                region.end = entries[-1].ends[nth]
            region.begin = retained[0].starts[nth] if retained else region.end
        self.entries = entries

    def next_entry(
        self, anchors_T: Tensor, compression: int, after: SlotEntry | None = None
    ) -> SlotEntry:
        """Return the entry of a new chunk, at the end of the slot or after another new chunk."""
        text, visual = int(anchors_T.sum()), int((~anchors_T).sum())
        pooled = (visual // compression, text) if self.pooled.capacity else (0, 0)
        free = RegionNumbers(*(region.end for region in self.regions))
        return SlotEntry(
            anchors_T=anchors_T,
            starts=after.ends if after else free,
            counts=RegionNumbers(len(anchors_T), text, *pooled),
        )

    def append(self, entry: SlotEntry) -> None:
        """Record a written chunk."""
        for region, end in zip(self.regions, entry.ends, strict=True):
            region.end = end
        self.entries.append(entry)
