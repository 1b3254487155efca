"""The memory of one camera: its past as keys and values, bounded in bytes for any length of stream.

Chunks are immutable. With age a chunk moves from dense on the device (recent) to dense on the
host (focus) and pooled (gist), and is then dropped. Keys contain no absolute position, and
timestamps count from the origin of an epoch.

During the last horizon of an epoch each window is prefilled twice, into this memory and into
`next_epoch`, which replaces it when its epoch begins: no step prefills the past again.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from torch import Tensor

from analyzer.kv.arena.arena import AnyChunk, ArenaChunk
from analyzer.kv.budget import MemoryPlan, TierBytes
from analyzer.kv.encoded import Background, EncodedWindow
from analyzer.kv.host_slab import HostSlab
from analyzer.kv.int8 import Int8Chunk
from storage.records.records import Window

UNLIMITED = timedelta.max


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemoryChunk:
    """One remembered window.

    `tokens_GVE` are its visual tokens and `times` the times of its groups, from which it can be
    prefilled again. `relevance` is its highest relevance to a standing question.
    """

    start: datetime
    end: datetime
    times: tuple[datetime, ...]
    tokens_GVE: Tensor
    pooled: AnyChunk
    dense: AnyChunk | Int8Chunk | None
    relevance: float = 0.0


class Memory:
    """The chunks of one camera, within a budget.

    Without `budget` only the horizons limit it. Chunks on the host are stored in `slab`, if any.
    """

    def __init__(
        self,
        camera: str,
        plan: MemoryPlan,
        budget: TierBytes | None = None,
        slab: HostSlab | None = None,
    ) -> None:
        self.camera = camera
        self.plan = plan
        self.budget = budget
        self.slab = slab
        self.background: Background | None = None
        self.chunks: tuple[MemoryChunk, ...] = ()
        self.origin: datetime | None = None
        self.next_epoch: Memory | None = None

    def is_remembered(self, window: Window) -> bool:
        """Return whether a window is already remembered, as after a replay."""
        return bool(self.chunks) and window.start <= self.chunks[-1].end

    def is_outdated_by(self, window: Window) -> bool:
        """Return whether the clock was set back before a window, so that the memory is obsolete.

        A remembered window is a replay. So is, without `is_set_back` (older releases), a window
        within the remembered time.
        """
        if not self.is_remembered(window):
            return False
        if window.is_set_back:
            return all(chunk.start != window.start for chunk in self.chunks)
        return window.after_gap and window.end < self.chunks[0].start

    def is_overlapping(self, window: Window) -> bool:
        """Return whether a window begins within the remembered time and ends after it."""
        return bool(self.chunks) and window.start <= self.chunks[-1].end < window.end

    def rebase_epoch(self, at: datetime) -> None:
        """Start the epoch of `at` if it is a new one, and the next one if it is near."""
        origin = self.plan.epoch_origin(at, self.camera)
        if self.origin not in (None, origin):
            next_memory = self.next_epoch
            self.clear()
            if next_memory is not None and next_memory.origin == origin:
                self.chunks = next_memory.chunks
        self.origin = origin
        if self.next_epoch is None and at >= origin + self.plan.epoch_step:
            self.next_epoch = Memory(self.camera, self.plan, self.budget)
            self.next_epoch.origin = origin + self.plan.epoch_step

    def can_append_only(self, windows: Sequence[Window]) -> bool:
        """Return whether appending consecutive windows changes no older chunk and no epoch."""
        first, last = windows[0], windows[-1]
        starts = [*(chunk.start for chunk in self.chunks), *(window.start for window in windows)]
        origin = self.plan.epoch_origin(last.start, self.camera)
        return (
            starts == sorted(set(starts))
            and not any(window.is_set_back for window in windows)
            and self.next_epoch is None
            and self.origin in (None, origin)
            and origin == self.plan.epoch_origin(first.start, self.camera)
            and last.start < origin + self.plan.epoch_step
            and len(starts) <= self.plan.recent
            and last.end - starts[0] <= self.plan.horizon
        )

    @property
    def epochs(self) -> tuple["Memory", ...]:
        """Return the memories that a window is appended to: this one, then the next epoch's."""
        return (self,) if self.next_epoch is None else (self, self.next_epoch)

    def to_timestamps(self, times: Sequence[datetime]) -> list[float]:
        """Return times in seconds since the origin of the epoch, which has begun."""
        if self.origin is None:
            raise AssertionError("no epoch has begun")
        return [(at - self.origin).total_seconds() for at in times]

    def prefill_context(self) -> list[AnyChunk]:
        """Return the context of a new chunk: the recent chunks in full, the past pooled."""
        return self.context(UNLIMITED)

    def context(self, look_back: timedelta, focus: Collection[int] = ()) -> list[AnyChunk]:
        """Return the chunks within `look_back`, oldest first.

        Recent chunks and those in `focus` (indices into `chunks`) are dense, the others pooled.
        """
        first, recent = self.first_within(look_back), len(self.chunks) - self.plan.recent
        return [
            self.densest_form(chunk) if nth >= recent or nth in focus else chunk.pooled
            for nth, chunk in enumerate(self.chunks[first:], first)
        ]

    def first_within(self, look_back: timedelta) -> int:
        """Return the index of the oldest chunk within `look_back`."""
        if not self.chunks or look_back == UNLIMITED:
            return 0
        now = self.chunks[-1].end
        return bisect_right(self.chunks, -look_back, key=lambda chunk: chunk.end - now)

    def older_than_recent(self, look_back: timedelta) -> range:
        """Return the indices of the chunks within `look_back` that are not recent."""
        first = self.first_within(look_back)
        return range(first, max(first, len(self.chunks) - self.plan.recent))

    def recent_within(self, look_back: timedelta, limit: int) -> tuple[MemoryChunk, ...]:
        """Return the last recent chunks within `look_back`, at most `limit`."""
        return self.chunks[self.first_within(look_back) :][-min(limit, self.plan.recent) :]

    def append(
        self,
        window: Window,
        times: tuple[datetime, ...],
        encoded: EncodedWindow,
        kv_chunk: AnyChunk,
    ) -> None:
        """Append a prefilled window and the times of its groups; demote and drop what is too old.

        Raises ValueError for a window that is not later than all others.
        """
        if self.is_remembered(window):
            raise ValueError(f"{self.camera}: a chunk from {window.start} is too late")
        chunk = MemoryChunk(
            start=window.start,
            end=window.end,
            times=times,
            tokens_GVE=encoded.tokens_GVE,
            pooled=kv_chunk.pooled(self.plan.compression),
            dense=kv_chunk,
        )
        self.background = encoded.background
        oldest = bisect_left(self.chunks, chunk.end - self.plan.horizon, key=lambda old: old.start)
        self.chunks = self._trim_to_budget(self._demote([*self.chunks[oldest:], chunk]))

    def record_relevance(self, relevance: Mapping[int, float]) -> None:
        """Raise the relevance of chunks, by index, here and in the next epoch; ignore NaN."""
        raised = {nth: lift for nth, lift in relevance.items() if lift > self.chunks[nth].relevance}
        starts = {self.chunks[nth].start: lift for nth, lift in raised.items()}
        self._set_relevance(raised)
        if self.next_epoch is not None and starts:
            numbers = {chunk.start: nth for nth, chunk in enumerate(self.next_epoch.chunks)}
            self.next_epoch.record_relevance(
                {numbers[start]: lift for start, lift in starts.items() if start in numbers}
            )

    def clear(self) -> None:
        """Drop everything but the background."""
        self.chunks = ()
        self.origin = self.next_epoch = None

    @property
    def span(self) -> timedelta:
        """Return the time from the first remembered still to the last."""
        return self.chunks[-1].end - self.chunks[0].start if self.chunks else timedelta(0)

    def densest_form(self, chunk: MemoryChunk) -> AnyChunk:
        """Return the densest form of a chunk, on the device."""
        if chunk.dense is None:
            return chunk.pooled
        dense = chunk.dense.to(chunk.pooled.device)
        return dense.restored() if isinstance(dense, Int8Chunk) else dense

    def _set_relevance(self, relevance: Mapping[int, float]) -> None:
        if relevance:
            chunks = list(self.chunks)
            for nth, lift in relevance.items():
                chunks[nth] = replace(chunks[nth], relevance=lift)
            self.chunks = tuple(chunks)

    def _demote(self, chunks: list[MemoryChunk]) -> list[MemoryChunk]:
        """Offload chunks that are no longer recent; drop the least valuable dense forms."""
        older = max(0, len(chunks) - self.plan.recent)
        now = chunks[-1].end
        if older:  # all before it are on the host already
            chunks[older - 1] = self._offload(chunks[older - 1])
        worth = {
            nth: self._worth(chunk, now)
            for nth, chunk in enumerate(chunks[:older])
            if chunk.dense is not None
        }
        excess = dense_bytes(chunks[:older]) - self.budget.focus if self.budget else 0
        for nth in sorted(worth, key=worth.__getitem__):
            if worth[nth] >= -1 and excess <= 0:
                break
            excess -= dense_bytes(chunks[nth : nth + 1])
            chunks[nth] = replace(chunks[nth], dense=None)
        return chunks

    def _worth(self, chunk: MemoryChunk, now: datetime) -> float:
        """Return the value of a dense chunk: its relevance minus its age in focus horizons."""
        return chunk.relevance - (now - chunk.end) / self.plan.focus_horizon

    def _offload(self, chunk: MemoryChunk) -> MemoryChunk:
        dense = chunk.dense
        if dense is None or isinstance(dense, Int8Chunk):
            return chunk
        whole = dense.restored() if isinstance(dense, ArenaChunk) else dense
        dense = Int8Chunk.quantise(whole) if self.plan.int8 else whole
        return replace(chunk, dense=dense.offloaded(self.slab))

    def _trim_to_budget(self, chunks: list[MemoryChunk]) -> tuple[MemoryChunk, ...]:
        """Drop the oldest chunks beyond the budget, but never the last."""
        if self.budget is None:
            return tuple(chunks)
        first, last = 0, len(chunks) - 1
        recent = len(chunks) - self.plan.recent
        pooled_sizes = [pooled_bytes(chunk) for chunk in chunks]
        dense_sizes = [
            dense_bytes([chunk]) if nth >= recent else chunk.pooled.nbytes - pooled_sizes[nth]
            for nth, chunk in enumerate(chunks)
        ]
        pooled_excess = sum(pooled_sizes) - self.budget.gist
        dense_excess = sum(dense_sizes) - self.budget.recent
        while first < last and (pooled_excess > 0 or dense_excess > 0):
            pooled_excess -= pooled_sizes[first]
            dense_excess -= dense_sizes[first]
            first += 1
        return tuple(chunks[first:])


def pooled_bytes(chunk: MemoryChunk) -> int:
    """Return the bytes of the pooled form, 0 if the chunk is never pooled."""
    is_full = isinstance(chunk.pooled, ArenaChunk) and not chunk.pooled.is_pooled
    return 0 if is_full else chunk.pooled.nbytes


def dense_bytes(chunks: Sequence[MemoryChunk]) -> int:
    """Return the bytes of the dense forms of chunks."""
    return sum(chunk.dense.nbytes for chunk in chunks if chunk.dense is not None)
