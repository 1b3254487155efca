"""The memory of one camera: its past as keys and values, bounded in bytes, for ever.

Chunks are immutable; only the form in which one is held changes with its age: dense where the
model runs (recent), dense on the host while it may matter (focus), pooled (gist), gone. Keys
hold no absolute position, and timestamps count from an origin that moves on every epoch.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from torch import Tensor

from analyzer.plan import Ledger, MemoryPlan
from analyzer.videoxl2.int8 import Int8Chunk
from analyzer.videoxl2.kv import KVChunk
from analyzer.videoxl2.slab import HostSlab
from analyzer.videoxl2.vision import Background
from storage.records import Window

FOREVER = timedelta.max


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """One window as it is remembered.

    `tokens_GVE` are its visual tokens and `times` when its groups began, from which it is read
    again when an epoch ends. `relevance` says how much it mattered to a standing question.
    """

    start: datetime
    end: datetime
    times: tuple[datetime, ...]
    tokens_GVE: Tensor
    pooled: KVChunk
    dense: KVChunk | Int8Chunk | None
    relevance: float = 0.0


class Memory:
    """What one camera's past has left, never more than its budget.

    `budget` is what `plan.budget` reckons; None holds as much as the horizons say. What waits
    on the host is kept in `slab` where there is one.
    """

    def __init__(
        self,
        camera: str,
        plan: MemoryPlan,
        budget: Ledger | None = None,
        slab: HostSlab | None = None,
    ) -> None:
        self.camera = camera
        self.plan = plan
        self.budget = budget
        self.slab = slab
        self.background: Background | None = None
        self.chunks: tuple[Chunk, ...] = ()
        self.origin: datetime | None = None

    def remembers(self, window: Window) -> bool:
        """Say whether a window lies in what is already remembered, as after a replay."""
        return bool(self.chunks) and window.start <= self.chunks[-1].end

    def seconds(self, times: Sequence[datetime], origin: datetime) -> list[float]:
        """Return times as the timestamps count them."""
        return [(at - origin).total_seconds() for at in times]

    def behind(self) -> list[KVChunk]:
        """Return what a new chunk is read behind: each chunk as densely as it is still held."""
        return self.view(FOREVER, range(len(self.chunks)))

    def view(self, reach: timedelta, focus: Collection[int] = ()) -> list[KVChunk]:
        """Return the chunks that reach into the last `reach`, oldest first, in one form each.

        Recent chunks are dense, older ones pooled but for those in `focus` (their numbers in
        `chunks`).
        """
        recent = len(self.chunks) - self.plan.recent
        return [
            self.full(chunk) if nth >= recent or nth in focus else chunk.pooled
            for nth, chunk in enumerate(self.chunks)
            if nth >= self.first(reach)
        ]

    def first(self, reach: timedelta) -> int:
        """Return the number of the oldest chunk that reaches into the last `reach`."""
        if not self.chunks:
            return 0
        now = self.chunks[-1].end
        return next(nth for nth, chunk in enumerate(self.chunks) if now - chunk.end < reach)

    def older(self, reach: timedelta) -> range:
        """Return the numbers of the chunks within `reach` that are not recent."""
        return range(self.first(reach), max(self.first(reach), len(self.chunks) - self.plan.recent))

    def append(self, chunk: Chunk, origin: datetime) -> None:
        """Remember a chunk; demote and forget what then is too much.

        Raises ValueError for one that is not later than all others.
        """
        if self.chunks and chunk.start <= self.chunks[-1].end:
            raise ValueError(f"{self.camera}: a chunk from {chunk.start} comes too late")
        if self.slab is not None:
            chunk = replace(chunk, tokens_GVE=self.slab.keep(chunk.tokens_GVE))
        oldest = chunk.end - self.plan.horizon
        kept = [*(old for old in self.chunks if old.start >= oldest), chunk]
        self.chunks = tuple(self._within(self._demoted(kept)))
        self.origin = origin

    def mattered(self, relevance: dict[int, float]) -> None:
        """Note how relevant chunks were to a standing question; the highest counts."""
        self.chunks = tuple(
            replace(chunk, relevance=max(chunk.relevance, relevance.get(nth, 0.0)))
            for nth, chunk in enumerate(self.chunks)
        )

    def clear(self) -> None:
        """Forget everything."""
        self.chunks = ()
        self.origin = None

    @property
    def span(self) -> timedelta:
        """Return how much video is remembered."""
        return self.chunks[-1].end - self.chunks[0].start if self.chunks else timedelta(0)

    @property
    def ledger(self) -> Ledger:
        """Return the bytes held, by tier."""
        recent = max(0, len(self.chunks) - self.plan.recent)
        return Ledger(
            recent=_bytes(self.chunks[recent:]),
            focus=_bytes(self.chunks[:recent]),
            gist=sum(chunk.pooled.nbytes for chunk in self.chunks),
            tokens=sum(chunk.tokens_GVE.nbytes for chunk in self.chunks),
        )

    def full(self, chunk: Chunk) -> KVChunk:
        """Return a chunk as densely as it is still held, where the model runs."""
        device = chunk.pooled.keys_NKTD.device
        if chunk.dense is None:
            return chunk.pooled
        dense = chunk.dense.to(device)
        return dense.restored() if isinstance(dense, Int8Chunk) else dense

    def _demoted(self, chunks: list[Chunk]) -> list[Chunk]:
        """Move chunks that are no longer recent to the host, and drop the least worth keeping."""
        older = max(0, len(chunks) - self.plan.recent)
        held = [self._offloaded(chunk) for chunk in chunks[:older]]
        now, room = chunks[-1].end, self.budget.focus if self.budget else None
        ranked = sorted(range(older), key=lambda nth: self._worth(held[nth], now))
        for nth in ranked:
            late = self._worth(held[nth], now) < -1
            if late or (room is not None and _bytes(held) > room):
                held[nth] = replace(held[nth], dense=None)
        return held + chunks[older:]

    def _worth(self, chunk: Chunk, now: datetime) -> float:
        """Return what keeping a chunk dense is worth: relevance, less age in focus horizons."""
        return chunk.relevance - (now - chunk.end) / self.plan.focus_horizon

    def _offloaded(self, chunk: Chunk) -> Chunk:
        if not isinstance(chunk.dense, KVChunk):
            return chunk
        dense = Int8Chunk.of(chunk.dense) if self.plan.int8 else chunk.dense
        return replace(chunk, dense=dense.offloaded(self.slab))

    def _within(self, chunks: list[Chunk]) -> list[Chunk]:
        """Forget the oldest chunks beyond the budget."""
        while (
            self.budget
            and len(chunks) > 1
            and (
                sum(chunk.pooled.nbytes for chunk in chunks) > self.budget.gist
                or _bytes(chunks[-self.plan.recent :]) > self.budget.recent
            )
        ):
            chunks = chunks[1:]
        return chunks


def _bytes(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.dense.nbytes for chunk in chunks if chunk.dense is not None)
